"""Prompts drawn at random, without a list of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dps_pyro.tracking.pools.kinds import Kinds

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

    def draw(self, kind: Any, left: Tensor, generator: torch.Generator, there: Callable[[Tensor], Tensor]) -> Tensor:
        """Different prompts at random.

        Args:
            kind: an array [P], at least one, the kind of each prompt that is wanted.
            left: long [G], how many prompts of each kind there are to draw from.
            generator: the random generator of the draws.
            there: which of some prompts [M] may be drawn, bool [M].

        Returns:
            Long [P], each as likely as any other of its kind.
        """
        used, which, counts = np.unique(kind, return_inverse=True, return_counts=True)
        size, free = self.sizes.numpy()[used], left.numpy()[used]
        rows = torch.empty(len(kind), dtype=torch.long)
        order = which.argsort(kind="stable")
        found = self._together(used, counts, size, free, generator, there)
        if found is not None:
            rows[torch.from_numpy(order)] = found
            return rows
        for one, mine in enumerate(np.split(order, counts.cumsum()[:-1])):
            first, share = int(self._first[used[one]]), free[one] / size[one]
            places = distinct(
                int(size[one]),
                len(mine),
                generator,
                lambda some: there(self._row(first + some)),  # noqa: B023 - it is used within the loop
                share,
            )
            rows[torch.from_numpy(mine)] = self._row(first + places)
        return rows

    def _together(
        self,
        used: Any,
        counts: Any,
        size: Any,
        free: Any,
        generator: torch.Generator,
        there: Callable[[Tensor], Tensor],
    ) -> Tensor | None:
        """Prompts of all kinds that are `used` in one go, kind by kind; None if one of them has few that are free,
        or if too few different ones were drawn."""
        if bool((20 * free < size).any()) or bool((2 * counts > free).any()):
            return None
        number = (1.2 * counts * size / free).astype(np.int64) + 16
        group = np.repeat(np.arange(len(used)), number)
        draws = torch.rand(len(group), generator=generator, dtype=torch.float64).numpy()
        place = np.minimum((draws * size[group]).astype(np.int64), size[group] - 1)
        rows = self._row(torch.from_numpy(self._first.numpy()[used][group] + place))
        may = there(rows).numpy()
        drawn, group = rows.numpy()[may], group[may]
        new = firsts(drawn)
        drawn, group = drawn[new], group[new]
        have = np.bincount(group, minlength=len(used))
        if bool((have < counts).any()):
            return None
        turn = np.arange(len(group)) - np.repeat(have.cumsum() - have, have)
        return torch.from_numpy(drawn[turn < counts[group]])

    def _row(self, place: Tensor) -> Tensor:
        """Long, the prompts at some places in the order by kinds."""
        return place if self._order is None else self._order[place].long()
