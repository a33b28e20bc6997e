"""Micro-batches: which completions share a forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from dps_pyro.rollouts import Rollouts
from dps_pyro.trainers.config import TrainConfig

__all__ = ["micro_batches", "tight"]


def micro_batches(rollouts: Rollouts, rows: Tensor, config: TrainConfig) -> list[Tensor]:
    """Split the rows of a mini-batch into those of its forward passes.

    Rows of about the same length go together, so that little padding is computed. A micro-batch has at most
    `micro_batch` rows and at most `micro_batch_tokens` tokens, padding included; a single row that is longer is a
    micro-batch of its own.

    Args:
        rollouts: of a whole step.
        rows: long [R], the mini-batch.
        config: the two bounds.

    Returns:
        Long tensors on the CPU, which hold every row once.
    """
    prompts = rollouts.prompt_mask.sum(1).cpu()[rows]
    completions = rollouts.completion_mask.sum(1).cpu()[rows]
    order = (prompts + completions).argsort(stable=True)
    parts: list[list[int]] = []
    widest = 0, 0
    for place in order.tolist():
        prompt, completion = max(widest[0], int(prompts[place])), max(widest[1], int(completions[place]))
        size = len(parts[-1]) + 1 if parts else 0
        fits = config.micro_batch_tokens is None or size * (prompt + completion) <= config.micro_batch_tokens
        if parts and size <= config.micro_batch and fits:
            parts[-1].append(place)
            widest = prompt, completion
        else:
            parts.append([place])
            widest = int(prompts[place]), int(completions[place])
    return [rows[torch.tensor(part)] for part in parts]


def tight(rollouts: Rollouts) -> Rollouts:
    """Without the columns that are padding in every row."""
    start = rollouts.prompt_mask.shape[1] - int(rollouts.prompt_mask.sum(1).max())
    end = int(rollouts.completion_mask.sum(1).max())
    return rollouts._replace(
        prompt_ids=rollouts.prompt_ids[:, start:],
        prompt_mask=rollouts.prompt_mask[:, start:],
        completion_ids=rollouts.completion_ids[:, :end],
        completion_mask=rollouts.completion_mask[:, :end],
        logprobs=rollouts.logprobs[:, :end],
    )
