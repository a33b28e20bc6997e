"""A step's rollouts under a total: which prompts, how many of each, and what to do with the rest after a first look.

`plan` lays out a step whose groups differ in size. `second_half` spends what is left of the total when the first
rollouts of every group are known.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dps_pyro.selection.signal import Signal
from dps_pyro.support import checks
from dps_pyro.tracking.rates import Rates

__all__ = ["Plan", "fill", "second_half", "useful_of"]


class Plan(NamedTuple):
    """The prompts of a step and their group sizes."""

    rows: Tensor  # long [B], distinct
    sizes: Tensor  # long [B], at least 1


def fill(order: Tensor, sizes: Tensor, rollouts: int, least: int = 2) -> Plan:
    """Take prompts in `order` (long [N], best first), each with its size in `sizes` [N], until `rollouts` are spent.

    The last prompt taken gets what is left. A rest of fewer than `least` rollouts goes to the prompts taken, one each,
    in order, so that the total is met exactly.

    Raises:
        ValueError: `rollouts` is smaller than `least`.
    """
    checks.count("rollouts", rollouts, least)
    wanted = sizes[order].clamp_min(least)
    before = wanted.cumsum(0) - wanted
    number = int((before <= rollouts - least).sum())  # those for which there are at least `least` left
    rows, given = order[:number], wanted[:number].clone()
    rest = rollouts - int(given.sum())
    if rest < 0:
        given[-1] += rest
    else:
        given += rest // number
        given[: rest % number] += 1
    return Plan(rows, given)


def useful_of(rates: Rates, sizes: Tensor) -> Tensor:
    """float64 [N], the chance that each prompt's group, of its own size in `sizes` [N], is useful: rewards of 0 and 1
    that are neither all wrong nor all right."""
    found = torch.zeros(len(sizes), dtype=torch.float64)
    for size in sizes.unique().tolist():
        here = sizes == size
        chance = 1 - rates.sequence(0, size) - rates.sequence(size, 0)
        found[here] = chance[here].clamp(0, 1) if size > 1 else 0.0
    return found


def second_half(
    rates: Rates,
    solved: Tensor,
    first: Tensor,
    rollouts: int,
    *,
    most: int,
    signal: Signal = Signal(power=1.0),  # noqa: B008 - it is frozen
    least: float = 0.05,
) -> Tensor:
    """How many more rollouts each group gets, when its first ones are known.

    The total goes where it adds most signal per rollout: each group's signal, as a function of its final size, is
    replaced by its concave hull, and the hulls' pieces are taken from the steepest on (a fractional knapsack, solved
    exactly but for the last piece). A group whose first rollouts were all wrong goes on only where the posterior after
    them still promises something; one that is useful already goes on where more completions improve it. What adds less
    than `least` per rollout is not drawn at all: the rest of the total is saved.

    Stopping by the outcome leaves the direction of every prompt's gradient as it is for rewards of 0 and 1, since both
    E[grad log p | right] and -E[grad log p | wrong] point along that of its success rate; only its length changes.

    Args:
        rates: the law of V prompts' success rates *before* their first rollouts.
        solved: [V], how many of the first rollouts were right.
        first: long [V], how many there were.
        rollouts: the most to draw in all.
        most: the largest final size of a group.
        signal: what is wanted of a group.
        least: the smallest gain of signal per rollout that is worth one.

    Returns:
        Long [V], with a sum of at most `rollouts`.
    """
    room = int((most - first).clamp_min(0).max()) if len(first) else 0
    more = torch.zeros(len(first), dtype=torch.long)
    if room == 0 or rollouts < 1:
        return more
    values = torch.stack([signal.after(rates, solved, first, extra) for extra in range(room + 1)], -1)
    pieces: list[tuple[float, int, int]] = []
    for group, (worth, limit) in enumerate(zip(values.tolist(), (most - first).tolist(), strict=True)):
        pieces += [(-slope, group, width) for slope, width in _hull(worth[: max(limit, 0) + 1]) if slope >= least]
    left = rollouts
    for _, group, width in sorted(pieces):  # within a group the pieces come in order: their slopes fall
        taken = min(width, left)
        more[group] += taken
        left -= taken
        if left == 0:
            break
    return more


def _hull(worth: Sequence[float]) -> list[tuple[float, int]]:
    """The pieces (slope, width) of the upper concave hull of the points (0, worth[0]), (1, worth[1]), ..."""
    corners = [0]
    for point in range(1, len(worth)):
        while len(corners) > 1:
            a, b = corners[-2:]
            if (worth[b] - worth[a]) * (point - b) > (worth[point] - worth[b]) * (b - a):
                break
            corners.pop()
        corners.append(point)
    ends = itertools.pairwise(corners)
    return [((worth[b] - worth[a]) / (b - a), b - a) for a, b in ends]
