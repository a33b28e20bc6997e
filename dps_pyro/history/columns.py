"""The log's columns: they grow at their end, in memory or in files, and know each prompt's last groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Columns", "Events", "Outcomes"]

CHUNK = 1 << 20
"""Groups by which a file grows. In memory columns double."""
LEAST = 64


class Events(NamedTuple):
    """The log's columns, one entry a group, in the order in which the groups were recorded."""

    prompt: Tensor  # long [E], 0..num_prompts-1
    step: Tensor  # long [E], 0..num_steps-1: the training step that the rollouts belong to
    solved: Tensor  # float64 [E], 0..trials: how many rollouts solved it (a sum of partial rewards); NaN in a schedule
    trials: Tensor  # long [E], >= 0: the size of the group
    predicted: Tensor  # float32 [E], the chance of a useful group predicted at selection; NaN where unknown
    trained: Tensor  # bool [E], whether the policy was updated on the group
    progress: Tensor  # float64 [E], the policy's overall progress before the step; NaN where unknown
    useful: Tensor  # bool [E], whether the rewards of the group differed, so that there was something to learn


class Outcomes(NamedTuple):
    """The log as rectangles, which is what a likelihood reads. Groups of one prompt at one step are added up."""

    solved: Tensor | None  # [N, T]; 0 where missing; None in a schedule, whose outcomes are to be drawn
    trials: Tensor  # long [N, T]; 0 where missing
    trained: Tensor  # bool [N, T]
    progress: Tensor  # [1, T], the last that was known; 0 before the first


TYPES = {
    "prompt": np.int64,
    "step": np.int64,
    "solved": np.float64,
    "trials": np.int64,
    "predicted": np.float32,
    "trained": np.bool_,
    "progress": np.float64,
    "useful": np.bool_,
    "previous": np.int64,
}
"""The columns, and one more: the prompt's group before, -1 where it is the first."""


class Columns:
    """Columns of groups.

    Args:
        folder: where their files are made; None keeps them in memory. The system holds in memory what was used last of
            the files, so that a long run needs no more as the log grows.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.count = 0
        self._arrays: dict[str, Any] = {}
        self._last: Tensor | None = None  # int32 [N], each prompt's last group; -1 where none; None until asked for
        self._room(LEAST)
        self._events: Events | None = None

    @property
    def events(self) -> Events:
        """What has been recorded so far. Its tensors are not copies: read them only."""
        if self._events is None:
            arrays = (self._arrays[name][: self.count] for name in Events._fields)
            self._events = Events(*map(torch.from_numpy, arrays))
        return self._events

    @classmethod
    def of(cls, events: Events, folder: Path | None = None) -> Columns:
        """Columns of these groups."""
        made = cls(folder)
        made.append(events)
        return made

    def append(self, events: Events) -> None:
        """Record more groups, at the end."""
        start, stop = self.count, self.count + len(events.prompt)
        self._room(stop)
        for name, column in events._asdict().items():
            self._arrays[name][start:stop] = column.numpy()
        self.count = stop
        if self._last is not None and stop > start:
            known = int(events.prompt.max()) < len(self._last)  # otherwise there are more prompts: link anew when asked
            self._last = self._linked(start, self._last) if known else None
        self._events = None

    def of_prompts(self, prompts: Tensor, num_prompts: int) -> Tensor:
        """Long [M], ascending, the groups of the prompts [V]. The cost follows how many groups they have."""
        if self._last is None or len(self._last) < num_prompts:
            blank = torch.full([num_prompts], -1, dtype=torch.int32)
            self._last = self._linked(0, blank)
        previous = torch.from_numpy(self._arrays["previous"])
        found, now = [], self._last[prompts].long()
        while len(now := now[now >= 0]):
            found.append(now)
            now = previous[now]
        return torch.cat(found).sort().values if found else torch.zeros(0, dtype=torch.long)

    def _linked(self, start: int, last: Tensor) -> Tensor:
        """Tell each group from `start` on which group of its prompt came before; the prompts' last groups now."""
        prompts = self._arrays["prompt"][start : self.count]
        order = np.argsort(prompts, kind="stable")
        ordered = prompts[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = ordered[1:] != ordered[:-1]
        known = last.numpy()
        before = np.empty(len(order), dtype=np.int64)
        before[first] = known[ordered[first]]
        before[~first] = start + order[:-1][~first[1:]]
        self._arrays["previous"][start + order] = before
        ends = np.ones(len(order), dtype=bool)
        ends[:-1] = first[1:]
        known[ordered[ends]] = start + order[ends]
        return last

    def _room(self, least: int) -> None:
        room = len(self._arrays["prompt"]) if self._arrays else 0
        if least <= room:
            return
        room = max(least, 2 * room) if self.folder is None else -(-least // CHUNK) * CHUNK
        for name, kind in TYPES.items():
            if self.folder is None:
                wide: Any = np.empty(room, dtype=kind)
                wide[: self.count] = self._arrays[name][: self.count] if name in self._arrays else 0
            else:
                path = self.folder / f"{name}.bin"
                with path.open("r+b" if name in self._arrays else "w+b") as file:
                    file.truncate(room * np.dtype(kind).itemsize)
                wide = np.memmap(path, dtype=kind, mode="r+", shape=(room,))
            self._arrays[name] = wide
