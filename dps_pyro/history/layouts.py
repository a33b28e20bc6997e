"""A log laid out for a likelihood: rectangles of some prompts, without ever making those of all."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dps_pyro.history.log import Outcomes, RolloutHistory

__all__ = ["Layout", "layout"]

_known: WeakKeyDictionary[RolloutHistory, Layout] = WeakKeyDictionary()


def layout(history: RolloutHistory) -> Layout:
    """The history's layout, made anew only if the history has changed."""
    made = _known.get(history)
    if made is None or not made.is_of(history):
        made = _known[history] = Layout(history)
    return made


class Layout:
    """The groups of a log with outcomes, prompt by prompt and in the order of steps; those of one prompt at one step
    added up."""

    def __init__(self, history: RolloutHistory) -> None:
        events = history.events
        self._made_of = events.prompt, history.num_prompts, history.num_steps
        self.num_prompts, self.num_steps = history.num_prompts, history.num_steps
        place, group = torch.unique(events.prompt * max(self.num_steps, 1) + events.step, return_inverse=True)
        self.prompt, self.step = place // max(self.num_steps, 1), place % max(self.num_steps, 1)
        self.solved = torch.zeros(len(place), dtype=torch.float64).index_add(0, group, events.solved)
        self.trials = torch.zeros(len(place), dtype=torch.long).index_add(0, group, events.trials)
        self.trained = torch.zeros(len(place), dtype=torch.long).index_add(0, group, events.trained.long()) > 0
        self.progress = history.progress().unsqueeze(0)
        counts = torch.bincount(self.prompt, minlength=self.num_prompts)
        self._ends = counts.cumsum(0)
        self._starts = self._ends - counts
        self._all: Tensor | None = None
        self.elsewhere: dict[torch.device, tuple[Outcomes, Tensor | None]] = {}
        """The rectangles and the rounds of all prompts, by the device that a model has put them on."""

    def is_of(self, history: RolloutHistory) -> bool:
        """Whether the history is still what was laid out."""
        prompt, *sizes = self._made_of
        return history.events.prompt is prompt and [history.num_prompts, history.num_steps] == sizes

    def dense(self, rows: Tensor) -> Outcomes:
        """`history.dense()` of the prompts `rows`, [B, T]."""
        where, group = self._groups(rows)
        shape, real = (len(rows), self.num_steps), torch.get_default_dtype()
        solved, trials = torch.zeros(shape, dtype=real), torch.zeros(shape, dtype=torch.long)
        trained = torch.zeros(shape, dtype=torch.bool)
        at = where, self.step[group]
        solved[at], trials[at], trained[at] = self.solved[group].to(real), self.trials[group], self.trained[group]
        return Outcomes(solved, trials, trained, self.progress.to(real))

    def rounds(self, rows: Tensor | None = None) -> Tensor:
        """Long [B, R], the steps at which each prompt was rolled out, in order; `num_steps` where there are no more.
        R is the most of any of the prompts `rows`, and at least 1; None for all prompts."""
        if rows is None:
            if self._all is None:
                self._all = self.rounds(torch.arange(self.num_prompts))
            return self._all
        where, group = self._groups(rows)
        seen = self.trials[group] > 0
        where, group = where[seen], group[seen]
        counts = torch.bincount(where, minlength=len(rows))
        rank = torch.arange(len(where)) - (counts.cumsum(0) - counts)[where]
        most = max(1, int(counts.max())) if len(rows) else 1
        steps = torch.full((len(rows), most), self.num_steps)
        steps[where, rank] = self.step[group]
        return steps

    def _groups(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Long [G], [G]: the places in `rows` of the prompts' groups, ascending, and which groups those are."""
        counts = self._ends[rows] - self._starts[rows]
        where = torch.arange(len(rows)).repeat_interleave(counts)
        first = self._starts[rows] - (counts.cumsum(0) - counts)
        return where, torch.arange(len(where)) + first[where]
