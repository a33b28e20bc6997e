"""Groups that the embedded policy rolled out, and single updates on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers.runs.tiny import tiny

from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.trainers.parts import make_task
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.step.bookkeeping import Clock
from dps_pyro.trainers.step.groups import Groups, Source, roll_out
from dps_pyro.trainers.step.policy_update import update

__all__ = ["Learned", "rolled", "updated"]

Learned = tuple[Any, list[torch.Tensor]]


def rolled(rewards: torch.Tensor) -> Groups:
    """Completions of the first training prompts, with these rewards, [G, 4], in place of those that they earned."""
    config = tiny(Path(), batch_size=len(rewards))
    policy, tokenizer = load_policy(config)
    task = make_task(config)
    source = Source(TransformersEngine(policy, tokenizer), tokenizer, task, config)
    groups = roll_out(source, task.prompts("train")[: len(rewards)], 0, Clock())
    return groups._replace(rewards=rewards.float())


def updated(groups: Groups, seed: int = 0, **settings: Any) -> Learned:
    """What an update reports, and the gradients that it leaves. In double precision, so that rounding hides little:
    only the norms compute in single precision."""
    config = tiny(Path(), batch_size=8, max_grad_norm=1e9, **settings)
    policy, _ = load_policy(config)
    policy.double()
    learned = update(policy, None, torch.optim.SGD(policy.parameters(), lr=0.0), groups, config, seed=seed)
    gradients = [weight.grad for weight in policy.parameters()]
    return learned, [gradient for gradient in gradients if gradient is not None]
