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

import numpy as np
import torch
from torch import Tensor

from dps_pyro.selection.pooling.waits import drawn
from dps_pyro.tracking.pools.outlook import Outlook
from dps_pyro.tracking.pools.strangers import firsts
from dps_pyro.tracking.pools.waiting import Recent

__all__ = ["Arrivals", "Shelves", "weights"]

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
        horizon = max(12, math.isqrt(tracker.slots.count // 1000 + 1))
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
        return fresh and len(tracker.waiting.touched) <= max(1 << 13, len(self.order) // 64)

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
        touched = outlook.tracker.waiting.touched  # their bounds hold no more; they are among the others
        bound = np.exp2(-STEP * np.arange(NUMBER)) ** sharpness
        counts, order = self.counts.numpy(), self.order.numpy()
        rate, first = counts * bound, counts.cumsum() - counts
        total = float(rate.sum())
        latest = float(others.kthvalue(count).values) if len(others) >= count else math.inf
        found = Arrivals(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long))
        start, length = 0.0, 2 * count / max(total, 1e-300)
        while start < latest:
            stop = min(start + length, latest)
            if total * (stop - start) > max(len(order), 1024):  # as well look at each
                slots = _left(order.astype(np.int64), touched, barred)
                times = drawn(len(slots), generator)
                slots = torch.from_numpy(slots)
                times = start + times / weights(outlook.untouched(slots), sharpness)
                return _firsts(found, Arrivals(times, slots))
            points = torch.poisson(torch.from_numpy(rate * (stop - start)), generator=generator).long().numpy()
            shelf = np.repeat(np.arange(NUMBER), points)
            draws = torch.rand(3, len(shelf), generator=generator, dtype=torch.float64).numpy()
            place = np.minimum((draws[0] * counts[shelf]).astype(np.int64), counts[shelf] - 1)
            slots = order[first[shelf] + place].astype(np.int64)
            chance = outlook.untouched(torch.from_numpy(slots))
            arrived = draws[2] * bound[shelf] < weights(chance, sharpness).numpy()
            arrived &= ~touched.holds(slots)
            if barred is not None:
                arrived &= ~barred.numpy()[slots]
            times = torch.from_numpy(start + draws[1][arrived] * (stop - start))
            found = _firsts(found, Arrivals(times, torch.from_numpy(slots[arrived])))
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


def weights(chance: Tensor, sharpness: float) -> Tensor:
    """float64 [V], the chances [V] to the power `sharpness`."""
    base = chance.double().clamp_min(1e-12)
    return base.square_().square_() if sharpness == 4 else base.pow_(sharpness)


def _left(slots: Any, touched: Recent, barred: Tensor | None) -> Any:
    """The slots that were not touched and are not barred."""
    stay = ~touched.holds(slots)
    return slots[stay if barred is None else stay & ~barred.numpy()[slots]]


def _firsts(before: Arrivals, after: Arrivals) -> Arrivals:
    """Each slot's first arrival among some, of which `before` come before all of `after`."""
    time, slot = torch.cat([before.time, after.time]), torch.cat([before.slot, after.slot])
    order = time.numpy().argsort()
    new = torch.from_numpy(order[firsts(slot.numpy()[order])])
    return Arrivals(time.index_select(0, new), slot.index_select(0, new))
