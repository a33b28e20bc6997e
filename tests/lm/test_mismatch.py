"""Draws of an engine that is not quite the policy: truncated importance sampling, its measure, a warning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs.tiny import tiny
from torch.testing import assert_close

from dps_pyro.lm.logprobs import completion_logprobs
from dps_pyro.lm.losses import Kind, count, policy_loss
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.tasks import Countdown
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.step.bookkeeping import Clock, Drift
from dps_pyro.trainers.step.groups import Groups, Source, roll_out
from dps_pyro.trainers.step.policy_update import update

KINDS: tuple[Kind, ...] = ("grpo", "dr_grpo", "dapo", "rloo")
LOWER = UPPER = 0.2


def by_hand(
    kind: Kind, new: Any, old: Any, engine: Any, advantages: Any, lengths: list[int], limit: int, cap: float
) -> float:
    """The loss from its definition, with Python's floats and loops."""
    total, tokens = 0.0, sum(lengths)
    for row, size in enumerate(lengths):
        steps = range(size)

        def surrogate(log_ratio: float, log_weight: float, advantage: float) -> float:
            ratio = math.exp(log_ratio)
            kept = min(max(ratio, 1 - LOWER), 1 + UPPER)
            return -min(ratio * advantage, kept * advantage) * min(math.exp(log_weight), cap)

        advantage = float(advantages[row])
        ratios = [float(new[row, t] - old[row, t]) for t in steps]
        weights = [float(old[row, t] - engine[row, t]) for t in steps]
        if kind == "rloo":
            total += surrogate(sum(ratios), sum(weights), advantage) / len(lengths)
            continue
        losses = [surrogate(r, w, advantage) for r, w in zip(ratios, weights, strict=True)]
        share = {"grpo": 1 / (size * len(lengths)), "dapo": 1 / tokens, "dr_grpo": 1 / (limit * len(lengths))}[kind]
        total += sum(losses) * share
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", [1.0, 2.0, math.inf])
def test_the_loss_is_the_one_of_the_definition(kind: Kind, cap: float) -> None:
    lengths = [4, 2, 3, 1]
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    new, old, engine = (-torch.rand(4, 4, dtype=torch.float64) * 3 for _ in range(3))
    engine[~mask] = math.nan  # masked entries may hold anything
    values = torch.tensor([1.0, -1.0, 0.5, -2.0], dtype=torch.float64)
    arguments: dict[str, Any] = {"max_completion_length": 6, "clip": (LOWER, UPPER), "engine_logprobs": engine}
    found = policy_loss(kind, new, old, values, mask, count(mask), cap=cap, **arguments)
    expected = by_hand(kind, new, old, engine, values, lengths, 6, cap)
    assert float(found.loss) == pytest.approx(expected, rel=1e-12)
    drift = (old - engine)[mask]
    assert float(found.engine_kl) == pytest.approx(float((drift.exp() - 1 - drift).mean()), rel=1e-12)
    if kind != "rloo":
        assert float(found.truncated_weights) == pytest.approx(float((drift.exp() > cap).double().mean()))
    parts = [
        policy_loss(kind, new[rows], old[rows], values[rows], mask[rows], count(mask), cap=cap,
                    **{**arguments, "engine_logprobs": engine[rows]})
        for rows in (slice(0, 1), slice(1, 4))
    ]  # fmt: skip
    for name, whole in found._asdict().items():
        assert_close(sum(getattr(part, name) for part in parts), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_that_is_the_policy_changes_nothing(kind: Kind) -> None:
    mask = torch.ones(3, 5, dtype=torch.bool)
    new, old, values = -torch.rand(3, 5), -torch.rand(3, 5), torch.randn(3)
    plain, corrected = (
        policy_loss(kind, new, old, values, mask, count(mask), max_completion_length=5, engine_logprobs=engine)
        for engine in (None, old)
    )
    for one, other in zip(plain, corrected, strict=True):
        assert_close(one, other)


def test_weights_turn_the_engines_average_into_the_policys() -> None:
    """One token, four choices, every one of them drawn as often as the engine has it: uncapped, the gradient is the one
    that the policy's own draws would have given."""
    engine, policy = torch.tensor([0.4, 0.3, 0.2, 0.1]).log(), torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    rewards = torch.tensor([1.0, 0.0, 3.0, -2.0])

    def gradient(draws: torch.Tensor, corrected: bool) -> torch.Tensor:
        logits = policy.clone().requires_grad_()
        new = logits.log_softmax(0)[draws][:, None]
        mask = torch.ones(len(draws), 1, dtype=torch.bool)
        source = {"engine_logprobs": engine[draws][:, None], "cap": math.inf} if corrected else {}
        policy_loss("dapo", new, new.detach(), rewards[draws], mask, count(mask), **source).loss.backward()
        assert logits.grad is not None
        return logits.grad

    from_engine = torch.repeat_interleave(torch.arange(4), torch.tensor([4, 3, 2, 1]))
    from_policy = torch.repeat_interleave(torch.arange(4), torch.tensor([1, 2, 3, 4]))
    assert_close(gradient(from_engine, corrected=True), gradient(from_policy, corrected=False))
    assert not torch.allclose(gradient(from_engine, corrected=False), gradient(from_policy, corrected=False))


def test_a_cap_below_one_is_refused() -> None:
    one = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"expected cap >= 1, got 0\.5"):
        policy_loss("grpo", one, one, torch.ones(1), one == 0, count(one == 0), cap=0.5)


@pytest.mark.parametrize("mini_batches", [1, 2])
def test_the_update_measures_how_far_the_engine_was(tmp_path: Path, mini_batches: int) -> None:
    config = tiny(tmp_path, engine="vllm", batch_size=6, mini_batches=mini_batches, learning_rate=1e-6)
    policy, tokenizer = load_policy(config)
    task = Countdown(style="compact", train_size=32, test_size=2)
    source = Source(TransformersEngine(policy, tokenizer), tokenizer, task, config)
    drawn = roll_out(source, task.prompts("train")[:6], 0, Clock())
    rewards = torch.tensor([[1.0, 0, 0, 1]]).repeat(6, 1)
    off = drawn.rollouts._replace(logprobs=drawn.rollouts.logprobs - 0.1 * drawn.rollouts.completion_mask)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6)
    with torch.no_grad():
        own = completion_logprobs(policy, *off[:4])
    drift = (own - off.logprobs)[off.completion_mask]
    learned = update(policy, None, optimizer, Groups(off, rewards, drawn.reasons), config, seed=0)
    assert learned["engine_kl"] == pytest.approx(float((drift.exp() - 1 - drift).mean()), rel=0.05)
    assert learned["truncated_weights"] == 0
    assert learned["kl"] == pytest.approx(0, abs=1e-6)  # the ratio is to the policy before the step, not to the engine


def test_a_drift_that_lasts_is_said_once() -> None:
    drift = Drift(limit=0.05, patience=3)
    lines = [{"engine_kl": kl} for kl in (0.1, 0.2, 0.01, 0.1, 0.1)] + [{}, {"engine_kl": 0.3}, {"engine_kl": 0.4}]
    said = [drift.warning(line) for line in lines]
    assert [text is not None for text in said] == [False] * 6 + [True, False]
    assert said[6] is not None
    assert "0.17 nats per token over the last 3 steps" in said[6]
