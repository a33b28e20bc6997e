"""The optimizer, and its learning rate as a function of the training step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import get_scheduler

from dps_pyro.trainers.config.settings import TrainConfig

__all__ = ["learning_rate", "make_optimizer", "set_learning_rate"]

_FUSED = ("cpu", "cuda", "mps", "xpu")
"""Devices on which torch has AdamW as one kernel: one pass over the weights in place of ten."""


def make_optimizer(policy: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW of the weights that are trained: all of them, or the adapters'."""
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    fused = all(weight.device.type in _FUSED for weight in trained)
    return torch.optim.AdamW(trained, lr=config.step_size, weight_decay=config.update.weight_decay, fused=fused)


def learning_rate(config: TrainConfig) -> Callable[[int], float]:
    """The learning rate at a training step, from 0 on: transformers' schedule of that name.

    A function of the step alone: a resumed run needs no state of it, and settings that change on the way (more steps,
    another rate) take effect at once. It is read one step ahead, so that the first step of a warm-up and the last of
    a decay move the policy too: with 2 steps of warm-up and linear decay over 5, the factors are 1/2, 1, 3/4, 1/2, 1/4.
    """
    kind = "constant_with_warmup" if config.update.schedule == "constant" else config.update.schedule
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)  # it wants one, to take the rate from
    schedule = get_scheduler(
        kind, optimizer, num_warmup_steps=config.update.warmup_steps, num_training_steps=config.task.steps + 1
    )
    (factor,) = schedule.lr_lambdas
    return lambda step: config.step_size * float(factor(step + 1))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all weights."""
    for group in optimizer.param_groups:
        group["lr"] = rate
