"""Prompts drawn at random, without a list of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dps_pyro.tracking.kinds import Kinds

__all__ = ["Members", "distinct"]


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
    found = torch.zeros(0, dtype=torch.long)
    while share > 0.05 and len(found) < count and (len(found) < 0.5 * share * high):
        more = torch.randint(high, (int(1.2 * (count - len(found)) / share) + 16,), generator=generator)
        found = _first(torch.cat([found, more[wanted(more)]]))[:count]
    if len(found) < count:
        every = torch.arange(high)
        left = wanted(every).index_fill(0, found, False).nonzero().squeeze(-1)
        found = torch.cat([found, left[torch.randperm(len(left), generator=generator)[: count - len(found)]]])
    return found


def _first(numbers: Tensor) -> Tensor:
    """The numbers without those that came before, in order."""
    order = numbers.argsort(stable=True)
    ordered = numbers[order]
    new = torch.ones(len(numbers), dtype=torch.bool)
    new[order[1:]] = ordered[1:] != ordered[:-1]
    return numbers[new]


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
