"""The soft top B among visited prompts, without looking at each of them: a race in which few runners are watched.

Drawing without replacement by weights w_i is a race: prompt i arrives after an exponential time of rate w_i, and the
first B to arrive are taken. Slots are put on shelves by an upper bound of their chance in the coming steps. A shelf of
n slots with bound b is watched through a Poisson process of rate n b^s: each of its points picks a slot at random,
and is that slot's arrival with probability (w_i / b^s). A slot's first such point is exponential with rate w_i, exactly
(thinning, Lewis and Shedler 1979). So only the slots that are picked are looked at, about as many as are wanted.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.tracking.outlook import Outlook

__all__ = ["Arrivals", "Shelves"]

NUMBER = 64
"""Shelves."""
STEP = 0.25
"""The bounds fall by a factor of 2^-STEP from shelf to shelf."""


class Arrivals(NamedTuple):
    """Some runners and when they arrive."""

    time: Tensor  # float64 [A]
    slot: Tensor  # long [A]


class Shelves:
    """All slots, by an upper bound of their chances of a useful group until step `until`.

    Args:
        outlook: the outlook for the planned group size. All slots are brought up to date.
    """

    def __init__(self, outlook: Outlook) -> None:
        tracker = outlook.tracker
        tracker.settle()
        horizon = max(8, math.isqrt(tracker.slots.count // 1000 + 1))
        self.made, self.until, self.trials = tracker.step, tracker.step + horizon, outlook.trials
        highest = outlook.after(horizon)[: horizon + 1].amax(0)
        bound = outlook.weighed(highest) * (1 + 1e-5) + 1e-9
        shelf = torch.floor(-bound.clamp(1e-30, 1).log2() / STEP).clamp_max(NUMBER - 1).to(torch.uint8)
        self.order = torch.from_numpy(shelf.numpy().argsort(kind="stable").astype("int32"))
        self.counts = torch.bincount(shelf, minlength=NUMBER)

    def hold(self, outlook: Outlook) -> bool:
        """Whether the bounds still hold, and few slots were touched since."""
        tracker = outlook.tracker
        fresh = self.made == tracker.waiting.settled and tracker.step <= self.until and self.trials == outlook.trials
        return fresh and len(tracker.waiting.touched()) <= max(1 << 13, len(self.order) // 64)

    def race(
        self,
        outlook: Outlook,
        sharpness: float,
        count: int,
        others: Tensor,
        barred: Tensor | None,
        generator: torch.Generator,
    ) -> Arrivals:
        """Those slots on the shelves that may be among the first `count` arrivals, others included.

        Args:
            outlook: the chances.
            sharpness: s; weights are chances to the power s.
            count: how many are wanted.
            others: float64 [C], when others arrive that are not on the shelves.
            barred: bool [n], slots that must not be taken; None if all may be taken.
            generator: the random generator of the draws.
        """
        tracker = outlook.tracker
        bound = torch.exp2(-STEP * torch.arange(NUMBER, dtype=torch.float64)) ** sharpness
        rate = self.counts * bound
        first = self.counts.cumsum(0) - self.counts
        latest = float(others.kthvalue(count).values) if len(others) >= count else math.inf
        found = Arrivals(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long))
        gone = tracker.waiting.touched()  # their bounds hold no more; they are among the others
        start, length = 0.0, 1.3 * count / max(float(rate.sum()), 1e-300)

        def left(slots: Tensor) -> Tensor:
            stay = ~torch.isin(slots, gone) & ~torch.isin(slots, found.slot)
            return stay if barred is None else stay & ~barred[slots]

        while start < latest:
            stop = min(start + length, latest)
            if float(rate.sum()) * (stop - start) > max(len(self.order), 1024):  # as well look at each
                slots = self.order.long()
                slots = slots[left(slots)]
                times = torch.empty(len(slots), dtype=torch.float64).exponential_(generator=generator)
                return _joined(found, Arrivals(start + times / _weight(outlook.of(slots), sharpness), slots))
            points = torch.poisson(rate * (stop - start), generator=generator).long()
            shelf = torch.arange(NUMBER).repeat_interleave(points)
            draws = torch.rand(3, len(shelf), generator=generator, dtype=torch.float64)
            place = (draws[0] * self.counts[shelf]).long().minimum(self.counts[shelf] - 1)
            slots, times = self.order[first[shelf] + place].long(), start + draws[1] * (stop - start)
            stay = left(slots).nonzero().squeeze(-1)
            slots, times, shelf = slots[stay], times[stay], shelf[stay]
            arrived = draws[2][stay] * bound[shelf] < _weight(outlook.of(slots), sharpness)
            found = _joined(found, _firsts(Arrivals(times[arrived], slots[arrived])))
            start, length = stop, 2 * length
            if len(found.time) + int((others <= stop).sum()) >= count:
                break
        return found

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""
        return {
            "made": self.made,
            "until": self.until,
            "trials": self.trials,
            "order": self.order,
            "counts": self.counts,
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> Shelves:
        """As they were saved."""
        made = cls.__new__(cls)
        made.made, made.until, made.trials = int(state["made"]), int(state["until"]), int(state["trials"])
        made.order, made.counts = state["order"].clone(), state["counts"].clone()
        return made


def _weight(chance: Tensor, sharpness: float) -> Tensor:
    weight: Tensor = chance.double().clamp_min(1e-12) ** sharpness
    return weight


def _joined(one: Arrivals, other: Arrivals) -> Arrivals:
    return Arrivals(torch.cat([one.time, other.time]), torch.cat([one.slot, other.slot]))


def _firsts(arrivals: Arrivals) -> Arrivals:
    """Each slot's first arrival."""
    order = arrivals.time.argsort()
    time, slot = arrivals.time[order], arrivals.slot[order]
    by_slot = slot.argsort(stable=True)
    ordered = slot[by_slot]
    new = torch.ones(len(slot), dtype=torch.bool)
    new[by_slot[1:]] = ordered[1:] != ordered[:-1]
    return Arrivals(time[new], slot[new])
