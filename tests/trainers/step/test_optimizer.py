"""The learning rate over the steps, and what is optimised."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers.runs.tiny import metrics, tiny

from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.step.optimizer import learning_rate, make_optimizer, set_learning_rate


def rates(**settings: object) -> list[float]:
    config = tiny(Path(), learning_rate=2.0, **settings)
    rate = learning_rate(config)
    return [rate(step) for step in range(config.task.steps)]


def test_schedules() -> None:
    assert rates(steps=3) == [2.0] * 3
    assert rates(steps=5, warmup_steps=4) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates(steps=5, warmup_steps=2, schedule="linear") == pytest.approx([1.0, 2.0, 1.5, 1.0, 0.5])
    cosine = [1 + math.cos(math.pi * (step + 1) / 6) for step in range(5)]
    assert rates(steps=5, schedule="cosine") == pytest.approx(cosine)
    assert all(rate > 0 for rate in rates(steps=7, schedule="linear", warmup_steps=3))  # no step is in vain


def test_the_rate_is_logged_and_taken(tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", steps=3, schedule="linear", learning_rate=4e-3, batch_size=8))
    logged = [line["learning_rate"] for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert logged == pytest.approx([3e-3, 2e-3, 1e-3])


def test_fused_adamw_is_adamw() -> None:
    config = tiny(Path(), learning_rate=0.01, weight_decay=0.1)
    policy, _ = load_policy(config)
    weights = [weight.detach().clone().requires_grad_() for weight in policy.parameters()]
    ours = make_optimizer(policy, config)
    theirs = torch.optim.AdamW(weights, lr=0.02, weight_decay=0.1)
    set_learning_rate(ours, 0.02)
    for seed in range(3):
        torch.manual_seed(seed)
        for one, other in zip(policy.parameters(), weights, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        ours.step()
        theirs.step()
    for one, other in zip(policy.parameters(), weights, strict=True):
        torch.testing.assert_close(one.detach(), other.detach())
