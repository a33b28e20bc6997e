"""From rewards to counts: how many of a prompt's rollouts solved it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dps_pyro.support import checks

__all__ = ["Counts", "count_groups"]

ROUNDING = 1e-6
"""A sum of weighted rewards in float32 that should be 1.0 may be this much less."""


class Counts(NamedTuple):
    """What `PromptSampler.observe` takes, one entry per prompt, in the order of the prompts' first rollouts."""

    prompts: Tensor  # long [V]
    solved: Tensor  # float64 [V], within 0..trials
    trials: Tensor  # long [V]; 0 where no rollout of the prompt was scored
    spread: Tensor  # float64 [V], the group's largest reward (of 0 and 1, or partial) less its smallest; at least 0

    def useful(self, tolerance: float = 0.0) -> Tensor:
        """Return bool [V], whether the group's rewards differ by more than `tolerance`, and than rounding."""
        return self.spread > max(tolerance, ROUNDING)


def count_groups(
    prompts: Tensor | Sequence[int], rewards: Tensor | Sequence[float], solved_at: float | None = 1.0
) -> Counts:
    """Count each prompt's rollouts and those that solved it.

    Args:
        prompts: [R], the row of each rollout's prompt, in any order.
        rewards: [R]; NaN of a rollout that was not scored, which does not count.
        solved_at: a rollout with at least this reward solved its prompt. None: rewards within 0..1 are partial
            solutions, and `solved` is their sum (for models of partial reward, such as `DenseReward`).

    Raises:
        ValueError: the two have different lengths, or partial rewards are not within 0..1.
    """
    rows, values = checks.whole_numbers("prompts", prompts), checks.numbers("rewards", rewards)
    if rows.ndim != 1 or rows.shape != values.shape:
        raise ValueError(f"rewards: expected one per rollout, shape {tuple(rows.shape)}, got {tuple(values.shape)}")
    scored = ~values.isnan()
    if solved_at is None:
        partial = values[scored]
        wrong = partial[~((partial >= -ROUNDING) & (partial <= 1 + ROUNDING))]
        if len(wrong):
            raise ValueError(f"rewards: expected partial rewards within 0..1, as solved_at is None, got {wrong[0]:g}")
        worth = values.clamp(0, 1)
    else:
        worth = (values >= solved_at - ROUNDING).double()
    # In order of appearance, not sorted, so that every loop tells the sampler of the same groups in the same order.
    found, place = rows.unique(return_inverse=True)
    first = torch.full_like(found, len(rows)).scatter_reduce(0, place, torch.arange(len(rows)), "amin")
    order = first.argsort()
    trials = torch.zeros_like(found).index_add(0, place, scored.long())
    solved = torch.zeros(len(found), dtype=torch.float64).index_add(0, place, torch.where(scored, worth, 0.0))
    ends = [
        torch.full_like(solved, start).scatter_reduce(0, place[scored], worth[scored], way)
        for start, way in ((torch.inf, "amin"), (-torch.inf, "amax"))
    ]
    spread = (ends[1] - ends[0]).clamp(min=0)
    # A sum of many partial rewards may round above the number of rollouts.
    return Counts(found[order], solved.minimum(trials.double())[order], trials[order], spread[order])
