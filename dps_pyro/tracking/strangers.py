"""Prompts drawn at random, without a list of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dps_pyro.tracking.kinds import Kinds

__all__ = ["Members", "distinct", "firsts"]


def distinct(
    high: int, count: int, generator: torch.Generator, wanted: Callable[[Tensor], Tensor], share: float
) -> Tensor:
    """`count` different numbers in 0..high-1 among those that are wanted, each as likely as any other, in random order.

    Args:
        high: the numbers are below it.
        count: how many; at least as many have to be wanted.
        generator: the random generator of the draws.
        wanted: which of some numbers [M] are wanted, bool [M].
        share: about how many of all numbers are, in (0, 1].

    If few are wanted, all numbers are looked at; otherwise the cost follows `count`.
    """
    found = np.zeros(0, dtype=np.int64)
    while share > 0.05 and len(found) < count and (len(found) < 0.5 * share * high):
        more = torch.randint(high, (int(1.2 * (count - len(found)) / share) + 16,), generator=generator)
        drawn = more.numpy()[wanted(more).numpy()]
        joined = np.concatenate([found, drawn]) if len(found) else drawn
        found = joined[firsts(joined)[:count]]
    chosen = torch.from_numpy(found)
    if len(chosen) < count:
        every = torch.arange(high)
        left = wanted(every).index_fill(0, chosen, False).nonzero().squeeze(-1)
        more = left[torch.randperm(len(left), generator=generator)[: count - len(chosen)]]
        chosen = torch.cat([chosen, more])
    return chosen


def firsts(numbers: Any) -> Any:
    """The places, ascending, at which each of some numbers, an int64 array [M] within 0..2^31-1, occurs first.

    One sort of the numbers with their places behind them is several times faster than a stable sort of the numbers.
    """
    together = numbers << 31 | np.arange(len(numbers))
    together.sort()
    kept = np.ones(len(numbers), dtype=bool)
    np.not_equal(together[1:] >> 31, together[:-1] >> 31, out=kept[1:])
    places: Any = together[kept] & (1 << 31) - 1
    places.sort()
    return places


class Members:
    """The prompts of each kind."""

    def __init__(self, kinds: Kinds) -> None:
        self.sizes = kinds.sizes
        self._order = None if kinds.of is None else kinds.of.argsort(stable=True).to(torch.int32)
        self._first = kinds.sizes.cumsum(0) - kinds.sizes

    def draw(
        self, kind: int, count: int, left: int, generator: torch.Generator, there: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Long [count], different prompts of a kind at random, among the `left` ones of it for which `there` holds."""
        size, first = int(self.sizes[kind]), int(self._first[kind])

        def row(place: Tensor) -> Tensor:
            return place if self._order is None else self._order[first + place].long()

        return row(distinct(size, count, generator, lambda place: there(row(place)), left / size))
