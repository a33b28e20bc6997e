"""The chances of useful groups, computed only for the prompts that are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from dps_pyro.tracking.pools.pooled import PooledTracker

__all__ = ["Outlook", "Outlooks"]

PIECE = 1 << 15
"""The number of slots that a pass over all slots takes at a time."""
MOST = 4
"""The number of outlooks that are kept from step to step."""


class Outlook:
    """The chances that groups of one size are useful in the coming step.

    If a model's laws are the same at all steps, a prompt's chance is its stored belief times a vector that depends
    only on how long it has waited: M^g u, where M is the matrix of moves and u has the chance in each state. One vector
    is added a step, and no belief has to be moved.
    """

    def __init__(self, tracker: PooledTracker, trials: int) -> None:
        self.tracker, self.trials = tracker, trials
        self._ahead = tracker.by_state(trials).double().unsqueeze(0)  # [waits, G or 1, K], the vectors by waits
        self._rounded = self._ahead.to(tracker.dtype)  # the same in the dtype of the beliefs
        self.step_on()

    def step_on(self) -> None:
        """Move on to the next step."""
        self._mean: float | None = None
        self.pool = (self.tracker.pool * self._rounded[0]).sum(-1)
        """[G], the chance for prompts of each kind that were never rolled out."""

    def mean(self) -> float:
        """The mean chance over all prompts."""
        if self._mean is None:
            self._mean = float((self.tracker.masses() * self._ahead[0]).sum()) / self.tracker.num_prompts
        return self._mean

    def after(self, longest: int) -> Tensor:
        """float64 [longest + 1 or more, G or 1, K], the vectors by the length of the wait, for models whose laws are
        the same at all steps."""
        while len(self._ahead) <= longest:
            matrix = self.tracker.moves.between(0, 1, self._ahead)
            more = [self._ahead[-1]]
            for _ in range(max(16, len(self._ahead) // 4)):
                more.append((matrix @ more[-1].unsqueeze(-1)).squeeze(-1))
            kinds = max(part.shape[0] for part in more)
            self._ahead = torch.cat(
                [self._ahead.expand(-1, kinds, -1), *(part.expand(1, kinds, -1) for part in more[1:])]
            )
            self._rounded = self._ahead.to(self.tracker.dtype)
        return self._ahead

    def of(self, slots: Tensor) -> Tensor:
        """[V], the chances for the prompts in the slots [V]."""
        tracker = self.tracker
        if not tracker.kinds.steady:
            u = self._rounded[0]
            return (tracker.believed(slots) * (u if len(u) == 1 else u[self._kind(slots)])).sum(-1)
        if len(slots) == 0:
            return self.pool[:0]
        wait = tracker.step - tracker.slots.since[slots]
        self.after(int(wait.max()))
        vectors = self._rounded
        if vectors.shape[1] > 1:
            wait = wait * vectors.shape[1] + self._kind(slots)
        chance = tracker.slots.belief.index_select(0, slots).mul_(vectors.flatten(0, 1).index_select(0, wait))
        return chance.sum(-1)

    def touched(self) -> Tensor:
        """[V], the chances for the prompts in the slots `waiting.touched.slots` [V]. Those that were rolled out in the
        same step follow each other and have waited equally long, so that one product is enough for all of them."""
        tracker, slots = self.tracker, self.tracker.waiting.touched.slots
        if not tracker.kinds.steady or len(slots) == 0 or self._ahead.shape[1] > 1:
            return self.of(slots)
        since = tracker.slots.since[slots].numpy()
        ends = [*(np.flatnonzero(since[1:] != since[:-1]) + 1).tolist(), len(slots)]
        if 64 * len(ends) > len(slots):
            return self.of(slots)
        self.after(tracker.step - int(since.min()))
        if self._ahead.shape[1] > 1:
            return self.of(slots)
        chance, start = tracker.slots.belief.new_empty(len(slots)), 0
        for end in ends:
            vector = self._rounded[tracker.step - int(since[start]), 0]
            torch.mv(tracker.slots.belief.index_select(0, slots[start:end]), vector, out=chance[start:end])
            start = end
        return chance

    def untouched(self, slots: Tensor) -> Tensor:
        """[V], the chances for the prompts in the slots [V], none of which was touched since all were settled."""
        tracker = self.tracker
        wait = tracker.step - tracker.waiting.settled
        self.after(wait)
        vectors, belief = self._rounded[wait], tracker.slots.belief.index_select(0, slots)
        return belief @ vectors[0] if len(vectors) == 1 else (belief * vectors[self._kind(slots)]).sum(-1)

    def rows(self, rows: Tensor) -> Tensor:
        """[V], the chances for the prompts `rows` [V]."""
        tracker = self.tracker
        found, slots = self.pool[tracker.kinds.at(rows)], tracker.slots.of[rows].long()
        seen = (slots >= 0).nonzero().squeeze(-1)
        return found.index_copy(0, seen, self.of(slots[seen]))

    def slots(self) -> Tensor:
        """[n], the chances for the prompts in all slots."""
        tracker = self.tracker
        if not tracker.kinds.steady:
            u = self._rounded[0]
            kind = 0 if len(u) == 1 else self._kind(torch.arange(tracker.slots.count))
            return (tracker.believed() * u[kind]).sum(-1)
        wait = tracker.step - tracker.waiting.settled
        chance = self.weighed(self.after(wait)[wait])
        chance[tracker.waiting.touched.slots] = self.touched()
        return chance

    def weighed(self, vectors: Tensor) -> Tensor:
        """[n], the product of the stored belief in each slot and the vector of its kind, [G or 1, K]."""
        belief, vectors = self.tracker.slots.belief, vectors.to(self.tracker.dtype)
        if len(vectors) == 1:
            return belief @ vectors[0]
        found = torch.empty(len(belief), dtype=belief.dtype)
        for first in range(0, len(belief), PIECE):
            part = torch.arange(first, min(first + PIECE, len(belief)))
            torch.sum(belief[first : first + PIECE] * vectors[self._kind(part)], -1, out=found[first : first + PIECE])
        return found

    def _kind(self, slots: Tensor) -> Tensor:
        return self.tracker.kinds.at(self.tracker.slots.row[slots].long())


class Outlooks:
    """The outlooks of a tracker, by the size of the groups. A rule that asks for two sizes in every step, such as the
    variance of one reward beside the chance of the planned group, finds both as it left them.

    Args:
        tracker: the tracker.
    """

    def __init__(self, tracker: PooledTracker) -> None:
        self.tracker = tracker
        self._kept: dict[int, Outlook] = {}

    def of(self, trials: int) -> Outlook:
        """The outlook for groups of `trials` rollouts in the coming step."""
        if trials not in self._kept:
            if len(self._kept) == MOST:
                self._kept.clear()
            self._kept[trials] = Outlook(self.tracker, trials)
        return self._kept[trials]

    def step_on(self) -> None:
        """Move on to the next step, or take up a change of the beliefs. If laws differ from step to step, the
        outlooks are made anew when they are asked for."""
        if not self.tracker.kinds.steady:
            self._kept.clear()
        for outlook in self._kept.values():
            outlook.step_on()
