"""The beliefs of the prompts that were rolled out: one slot per prompt, in the order of the first visits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["Slots"]

FIRST = 1 << 16
"""The number of slots that there is room for at first. Unused room takes address space but no memory."""


class Slots:
    """The prompts that have slots, and what is known of each.

    Args:
        num_prompts: N.
        num_states: K.
        dtype: the dtype of the beliefs.
    """

    def __init__(self, num_prompts: int, num_states: int, dtype: torch.dtype) -> None:
        self.count = 0
        """n, the number of prompts that have slots."""
        self.of = torch.full([num_prompts], -1, dtype=torch.int32)
        """int32 [N], the slot of each prompt; -1 if it has none."""
        room = min(FIRST, num_prompts)
        self._row = torch.empty(room, dtype=torch.int32)
        self._since = torch.empty(room, dtype=torch.int32)
        self._visits = torch.empty(room, dtype=torch.int32)
        self._belief = torch.empty(room, num_states, dtype=dtype)

    @property
    def row(self) -> Tensor:
        """int32 [n], the prompt in each slot."""
        return self._row[: self.count]

    @property
    def since(self) -> Tensor:
        """int32 [n], the step for which the prompt's `belief` holds."""
        return self._since[: self.count]

    @property
    def visits(self) -> Tensor:
        """int32 [n], how often the prompt has been rolled out."""
        return self._visits[: self.count]

    @property
    def belief(self) -> Tensor:
        """[n, K], what is believed of each prompt before its step `since`."""
        return self._belief[: self.count]

    def at(self, rows: Tensor) -> Tensor:
        """Return the slots of the prompts `rows` [V], long [V]. A prompt without a slot gets one, without visits."""
        new = rows[self.of[rows] < 0]
        if len(new):
            last = self.count + len(new)
            self._grow(last)
            self.of[new] = torch.arange(self.count, last, dtype=torch.int32)
            self._row[self.count : last] = new.to(torch.int32)
            self._visits[self.count : last] = 0
            self.count = last
        return self.of[rows].long()

    def more_prompts(self, number: int) -> None:
        """Make room for `number` more prompts, which have no slots."""
        self.of = torch.cat([self.of, self.of.new_full([number], -1)])

    def state_dict(self) -> dict[str, Tensor]:
        """The slots as tensors, as many entries as prompts were visited."""
        return {"row": self.row, "since": self.since, "visits": self.visits, "belief": self.belief}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved slots."""
        rows = state["row"].to(torch.int32)
        self._grow(len(rows))
        self.count = len(rows)
        self.of.fill_(-1)
        self.of[rows.long()] = torch.arange(self.count, dtype=torch.int32)
        for name in ("row", "since", "visits", "belief"):
            getattr(self, name).copy_(state[name])

    def _grow(self, least: int) -> None:
        room = len(self._row)
        if least <= room:
            return
        room = max(least, min(4 * room, len(self.of)))
        for name in ("_row", "_since", "_visits", "_belief"):
            old: Tensor = getattr(self, name)
            wide = old.new_empty(room, *old.shape[1:])
            wide[: self.count] = old[: self.count]
            setattr(self, name, wide)
