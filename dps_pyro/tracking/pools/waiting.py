"""The beliefs about visited prompts, which are brought up to date when somebody looks at them, and the slots of those
that were rolled out lately."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dps_pyro.tracking.pools.kinds import Kinds
from dps_pyro.tracking.pools.moves import Moves
from dps_pyro.tracking.pools.slots import Slots

__all__ = ["Recent", "Waiting"]

WORK = 1 << 19
"""Numbers that one piece of a pass over all slots may hold, so that it stays in the processor's cache."""
SPARE = 1 << 12
"""Entries that are out of date and may be kept before all are looked through."""
LARGEST = 1 << 30
"""Places are counted up to this number before they are counted anew."""


class Recent:
    """Slots whose prompts were rolled out lately, each once, in the order of their latest rollouts.

    It is a growing list. A slot that comes again moves to the end; its earlier entry is out of date.
    """

    def __init__(self) -> None:
        self.count = 0
        """How many different slots there are."""
        self._parts: list[Any] = []  # int64 arrays, one after the other
        self._stored = 0  # their entries, those that are out of date included
        self._before = 1  # the place of the first entry; smaller places are of slots that were forgotten
        self._place = np.zeros(0, dtype=np.int32)  # by slot, the place of its latest entry
        self._slots: Tensor | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def slots(self) -> Tensor:
        """Long [count], the slots in the order of their latest entries. Not a copy: read it only."""
        if self._slots is None:
            joined = np.concatenate(self._parts) if self._parts else np.zeros(0, dtype=np.int64)
            places = np.arange(self._before, self._before + self._stored, dtype=np.int32)
            self._slots = torch.from_numpy(joined[self._place[joined] == places])
        return self._slots

    def add(self, slots: Tensor) -> None:
        """Add the slots [V], which are distinct."""
        new = slots.numpy().copy()
        if len(new) == 0:
            return
        self._room(int(new.max()) + 1)
        self.count += len(new) - int(np.count_nonzero(self._place[new] >= self._before))
        start = self._before + self._stored
        self._place[new] = np.arange(start, start + len(new), dtype=np.int32)
        self._parts.append(new)
        self._stored += len(new)
        self._slots = None
        if self._stored > 2 * self.count + SPARE:
            left = self.slots
            self.clear()
            self.add(left)

    def holds(self, slots: Any) -> Any:
        """Bool [V], which of the slots, an array [V], are among these."""
        if int(self.count) == 0:
            return np.zeros(len(slots), dtype=bool)
        self._room(int(slots.max()) + 1 if len(slots) else 0)
        found: Any = self._place[slots] >= self._before
        return found

    def clear(self) -> None:
        """Forget all."""
        self._before += self._stored
        self.count, self._stored, self._parts, self._slots = 0, 0, [], None
        if self._before > LARGEST:
            self._place.fill(0)
            self._before = 1

    def _room(self, least: int) -> None:
        if least > len(self._place):
            wide = np.zeros(max(least, 2 * len(self._place)), dtype=np.int32)
            wide[: len(self._place)] = self._place
            self._place = wide


class Waiting:
    """Visited prompts, each with the belief that it had when it began to wait.

    Args:
        slots: the visited prompts.
        moves: the moves of prompts that wait.
    """

    def __init__(self, slots: Slots, moves: Moves) -> None:
        self.slots, self.moves = slots, moves
        self.settled = 0
        """The step for which all slots that were not touched since then have their beliefs."""
        self.touched = Recent()
        """The slots whose prompts were rolled out since all slots were settled."""

    def believed(self, slots: Tensor, kinds: Kinds, step: int) -> Tensor:
        """[V, K], `p(z_t | y_<t)` at step t of the prompts in the slots [V]."""
        kind = kinds.at(self.slots.row[slots].long())
        return self.moves.over(self.slots.belief[slots], kind, self.slots.since[slots].long(), step)

    def resume(self, settled: int, touched: Tensor) -> None:
        """Go on from saved values of `settled` and `touched.slots`."""
        self.settled, self.touched = settled, Recent()
        self.touched.add(touched)

    def settle(self, kinds: Kinds, step: int) -> None:
        """Bring all slots up to date. Only the cost of the next look at many of them changes."""
        if self.settled == step:
            return
        self.up_to_date(self.slots.belief, kinds, step)
        self.slots.since.fill_(step)
        self.settled = step
        self.touched.clear()

    def up_to_date(self, out: Tensor, kinds: Kinds, step: int) -> Tensor:
        """[n, K], the beliefs of all slots before `step`, written to `out`, which may be the slots' own."""
        touched = self.touched.slots
        fresh = self.believed(touched, kinds, step)
        move = self.moves.between(self.settled, step, self.slots.belief)
        each = max(1, WORK // (move.shape[-1] ** (1 if len(move) == 1 else 2)))
        for first in range(0, self.slots.count, each):
            part = self.slots.belief[first : first + each]
            if len(move) == 1:
                ahead = part @ move[0]
            else:
                kind = kinds.at(self.slots.row[first : first + each].long())
                ahead = (part.unsqueeze(-2) @ move[kind]).squeeze(-2)
            out[first : first + each] = ahead.div_(ahead.sum(-1, keepdim=True))
        out[touched] = fresh
        return out
