"""Batches of a tracker that keeps one belief for all prompts that are alike and were never rolled out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dps_pyro.selection import acquisition
from dps_pyro.selection.acquisition import Acquisition
from dps_pyro.selection.pooling.race import Shelves, weights
from dps_pyro.selection.pooling.waits import Rule, Seen, drawn, rule_of, shortest
from dps_pyro.tracking.pools.pooled import PooledTracker
from dps_pyro.tracking.pools.strangers import Members, distinct

__all__ = ["Chosen", "PooledChoice"]

MANY = 10_000
"""The number of visited prompts from which on the soft top B is a race. With fewer, each prompt gets a number."""
SHARPEST = 20.0
"""Weights of a higher power leave the range of numbers."""


class Chosen(NamedTuple):
    """A batch."""

    rows: Tensor  # long [B], distinct
    chance: Tensor  # [B], of a useful group


class PooledChoice:
    """Chooses batches with the law that the acquisition has over all prompts.

    Args:
        tracker: the tracker of the prompts.
        acquire: an acquisition that has a rule (`rule_of`).
        rule: it.
    """

    def __init__(self, tracker: PooledTracker, acquire: Acquisition, rule: Rule) -> None:
        self.by_variance = isinstance(acquire, partial) and acquire.func is acquisition.variance_scores
        own: Acquisition = acquire.keywords["acquire"] if self.by_variance else acquire  # type: ignore[attr-defined]
        self.tracker, self.acquire, self.rule = tracker, own, rule
        self._members: Members | None = None
        self._shelves: Shelves | None = None

    @classmethod
    def of(cls, tracker: Any, acquire: Acquisition) -> PooledChoice | None:
        """The choice for a tracker and an acquisition; None if all prompts have to be looked at."""
        rule = rule_of(acquire)
        return cls(tracker, acquire, rule) if isinstance(tracker, PooledTracker) and rule is not None else None

    def select(self, count: int, trials: int, retired: Tensor | None, generator: torch.Generator) -> Chosen:
        """Choose `count` prompts for groups of `trials` rollouts, none of those `retired` (bool [N])."""
        if not self.by_variance:
            return self._select(count, trials, retired, generator)
        rows = self._select(count, 2, retired, generator).rows  # the chance that two differ is twice the variance
        return Chosen(rows, self.tracker.outlook(trials).rows(rows))

    def _select(self, count: int, trials: int, retired: Tensor | None, generator: torch.Generator) -> Chosen:
        tracker = self.tracker
        if self.acquire is acquisition.thompson:
            mean = tracker.mean_informative(trials)
            if retired is None and count < mean * tracker.num_prompts / 8:
                return self._rounds(count, trials, mean, generator)
        sharpness = self._sharpness()
        if sharpness is not None and tracker.slots.count >= MANY and tracker.kinds.steady:
            return self._race(count, trials, sharpness, retired, generator)
        return self._numbers(count, trials, retired, generator)

    def _rounds(self, count: int, trials: int, mean: float, generator: torch.Generator) -> Chosen:
        """Thompson's rounds as they are told: prompts in random order, each drawn useful or not, until there are
        enough; where all have been drawn, another round of the others. About count / mean prompts are looked at."""
        outlook, size = self.tracker.outlook(trials), self.tracker.num_prompts
        taken, chances = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=self.tracker.dtype)
        drawn = taken
        while len(taken) < count:
            if len(drawn) >= size:
                drawn = taken
            known = drawn.sort().values
            rest = size - len(known)
            number = min(rest, int(1.2 * (count - len(taken)) / mean) + 32)
            rows = distinct(size, number, generator, lambda some: ~_in(some, known), rest / size)  # noqa: B023
            chance = outlook.rows(rows)
            useful = torch.rand(number, generator=generator, dtype=torch.float64) < chance
            taken, chances = torch.cat([taken, rows[useful]]), torch.cat([chances, chance[useful]])
            drawn = torch.cat([drawn, rows])
        return Chosen(taken[:count], chances[:count])

    def _numbers(self, count: int, trials: int, retired: Tensor | None, generator: torch.Generator) -> Chosen:
        """A wait for each visited prompt, and for each pool of equals its shortest ones."""
        tracker, outlook = self.tracker, self.tracker.outlook(trials)
        kinds, first = self._pools(count, retired, generator)
        if not tracker.kinds.steady or 8 * len(tracker.waiting.touched) > tracker.slots.count:
            tracker.settle()
        chance = outlook.slots()
        by_slot = self._seen(chance, tracker.believed, lambda: tracker.kinds.at(tracker.slots.row.long()))
        by_pool = self._seen(outlook.pool[kinds], lambda: tracker.pool[kinds], lambda: kinds)
        scores = torch.cat([self.rule(by_slot, drawn(len(chance), generator)), self.rule(by_pool, first)])
        if retired is not None:
            scores[: len(chance)][retired[tracker.slots.row.long()]] = float("-inf")
        best = scores.topk(count).indices
        chances = torch.cat([chance, by_pool.chance])
        return self._rows(best, torch.arange(tracker.slots.count), chances[best], kinds, retired, generator)

    def _race(
        self, count: int, trials: int, sharpness: float, retired: Tensor | None, generator: torch.Generator
    ) -> Chosen:
        """The soft top B by who arrives first; see `dps_pyro.selection.pooling.race`."""
        tracker, outlook = self.tracker, self.tracker.outlook(trials)
        if self._shelves is None or not self._shelves.hold(outlook):
            self._shelves = Shelves(outlook)
        kinds, first = self._pools(count, retired, generator)
        touched, fresh = tracker.waiting.touched.slots, outlook.touched()
        barred = None if retired is None else retired[tracker.slots.row.long()]
        if barred is not None:
            free = ~barred[touched]
            touched, fresh = touched[free], fresh[free]
        chances = torch.cat([fresh, outlook.pool.index_select(0, kinds)])
        others = torch.cat([drawn(len(touched), generator), first]) / weights(chances, sharpness)
        ran = self._shelves.race(outlook, sharpness, count, others, barred, generator)
        best = torch.cat([ran.time, others]).topk(count, largest=False).indices
        slots = torch.cat([ran.slot, touched])
        chances = torch.cat([outlook.untouched(ran.slot), chances])
        return self._rows(best, slots, chances[best], kinds, retired, generator)

    def _pools(self, count: int, retired: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Long [P] and float64 [P]: the kinds of those never visited that may be chosen, and their waits."""
        waits = shortest(self._left(retired), count, generator)
        there = waits.isfinite()
        kinds = torch.arange(len(waits)).unsqueeze(-1).expand_as(waits)
        return kinds[there], waits[there]

    def _left(self, retired: Tensor | None) -> Tensor:
        """Long [G], how many prompts of each kind were never visited and may be chosen."""
        tracker = self.tracker
        if retired is None:
            return tracker.strangers
        gone = (retired & (tracker.slots.of < 0)).nonzero().squeeze(-1)
        return tracker.strangers - torch.bincount(tracker.kinds.at(gone), minlength=len(tracker.strangers))

    def _rows(
        self,
        best: Tensor,
        slots: Tensor,
        chance: Tensor,
        kinds: Tensor,
        retired: Tensor | None,
        generator: torch.Generator,
    ) -> Chosen:
        """The prompts at the places `best`, of which the first are those of `slots` [V], and the others those of pools
        of the kinds [P]: for each of these a member at random."""
        tracker = self.tracker
        place = best.numpy()
        pool = np.flatnonzero(place >= len(slots))
        rows = torch.empty_like(best)
        seen = torch.from_numpy(np.flatnonzero(place < len(slots)))
        rows[seen] = tracker.slots.row[slots[best[seen]]].long()
        if len(pool) == 0:
            return Chosen(rows, chance)
        kind, left = kinds.numpy()[place[pool] - len(slots)], self._left(retired)
        if self._members is None or self._members.sizes is not tracker.kinds.sizes:
            self._members = Members(tracker.kinds)

        def there(some: Tensor) -> Tensor:
            unseen = tracker.slots.of[some] < 0
            return unseen if retired is None else unseen & ~retired[some]

        rows[torch.from_numpy(pool)] = self._members.draw(kind, left, generator, there)
        return Chosen(rows, chance)

    def _seen(self, chance: Tensor, belief: Any, kinds: Any) -> Seen:
        def rates() -> Tensor:
            by_state = self.tracker.rates_by_state()
            return by_state if len(by_state) == 1 else by_state[kinds()]

        return Seen(chance, belief, rates)

    def _sharpness(self) -> float | None:
        """The power of the soft top B, where it is one that a race can have."""
        if not isinstance(self.acquire, partial) or self.acquire.func is not acquisition.soft_scores:
            return None
        sharpness = float(self.acquire.keywords["sharpness"])
        return sharpness if 0 < sharpness <= SHARPEST else None

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""
        return {} if self._shelves is None else self._shelves.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._shelves = Shelves.of(dict(state)) if state else None


def _in(some: Tensor, known: Tensor) -> Tensor:
    """Bool, which of `some` are among `known`, which is sorted."""
    if len(known) == 0:
        return torch.zeros_like(some, dtype=torch.bool)
    place = torch.searchsorted(known, some).clamp_max(len(known) - 1)
    return known[place] == some
