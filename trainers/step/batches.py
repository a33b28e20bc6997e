"""Micro-batches: which completions share a forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from dps_pyro.lm.shared_prompts import prompt_owners
from dps_pyro.rollouts import Rollouts
from dps_pyro.trainers.config.settings import TrainConfig

__all__ = ["micro_batches", "tight"]


def micro_batches(rollouts: Rollouts, rows: Tensor, config: TrainConfig, *, shared: bool = False) -> list[Tensor]:
    """Split the rows of a mini-batch into those of its forward passes.

    Rows of about the same length go together, so that little padding is computed. If the prompt of a group is
    computed once for all of its rows in a micro-batch (`shared`), keeping groups together may save more than that: of
    the two orders the one with fewer tokens to compute is taken. A micro-batch has at most `micro_batch` rows and at
    most `micro_batch_tokens` tokens, padding and every row's prompt included; a single row that is longer is a
    micro-batch of its own.

    Args:
        rollouts: of a whole step.
        rows: long [R], the mini-batch.
        config: the two bounds.
        shared: whether a prompt is computed once a micro-batch.

    Returns:
        Long tensors on the CPU, which hold every row once.
    """
    prompts = rollouts.prompt_mask.sum(1).cpu()[rows]
    completions = rollouts.completion_mask.sum(1).cpu()[rows]
    by_length = _split((prompts + completions).argsort(stable=True), prompts, completions, config)
    if not shared:
        return [rows[torch.tensor(part)] for part in by_length]
    owners = prompt_owners(rollouts.prompt_ids.cpu()[rows], rollouts.prompt_mask.cpu()[rows])[1]
    longest = completions.new_zeros(len(rows)).scatter_reduce(0, owners, completions, "amax")
    totals = prompts + longest[owners]
    order = owners.argsort(stable=True)  # the rows of a group adjacent,
    order = order[totals[order].argsort(stable=True)]  # by the length of their groups
    by_group = _split(order, prompts, completions, config)
    plans = [[torch.tensor(part) for part in plan] for plan in (by_length, by_group)]
    least = min(plans, key=lambda plan: sum(_tokens(part, prompts, completions, owners) for part in plan))
    return [rows[part] for part in least]


def _split(order: Tensor, prompts: Tensor, completions: Tensor, config: TrainConfig) -> list[list[int]]:
    """Places in this order, cut where a micro-batch is full."""
    parts: list[list[int]] = []
    widest = 0, 0
    for place in order.tolist():
        prompt, completion = max(widest[0], int(prompts[place])), max(widest[1], int(completions[place]))
        size = len(parts[-1]) + 1 if parts else 0
        fits = (
            config.update.micro_batch_tokens is None or size * (prompt + completion) <= config.update.micro_batch_tokens
        )
        if parts and size <= config.update.micro_batch and fits:
            parts[-1].append(place)
            widest = prompt, completion
        else:
            parts.append([place])
            widest = int(prompts[place]), int(completions[place])
    return parts


def _tokens(part: Tensor, prompts: Tensor, completions: Tensor, owners: Tensor) -> int:
    """What a micro-batch computes, padding included, with each of its prompts once."""
    distinct = len(owners[part].unique())
    return distinct * int(prompts[part].max()) + len(part) * int(completions[part].max())


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
