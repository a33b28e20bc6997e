"""The filter of `Siblings` whose cost follows what was seen: the unvisited prompts of a group share one belief."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.models.siblings.population import Kin, Pooling, Population, tilt, tilted
from dps_pyro.support import checks
from dps_pyro.tracking.late import PromptGroups, groups_of
from dps_pyro.tracking.pools.kinds import Kinds
from dps_pyro.tracking.pools.moves import moved
from dps_pyro.tracking.pools.pooled import PooledTracker

__all__ = ["PooledSiblings"]


class PooledSiblings(PooledTracker):
    """The filter of the visited prompts, which follow their siblings, and of each group the population's belief of the
    others, once.

    Args:
        dynamics: the model that filters the prompts that were rolled out.
        pooling: how the others learn from them.
        num_prompts: N.
        kinds: the kinds of prompts. Those of one kind are alike to the dynamics model, and siblings.
        values: site name -> value of the dynamics model. Sites that are left out have their prior means.
        dtype: the dtype of the beliefs. The default is torch's.
    """

    def __init__(
        self,
        dynamics: Dynamics[Any],
        pooling: Pooling,
        num_prompts: int,
        kinds: Kinds,
        values: Mapping[str, Tensor] | None,
        dtype: torch.dtype | None,
    ) -> None:
        self.pooling = pooling
        self._past: dict[int, Population] = {}  # before which step
        self._tilts: dict[int, Tensor] = {}  # [G, K], what visited prompts were multiplied by before which step
        super().__init__(dynamics, num_prompts, kinds=kinds, values=values, dtype=dtype)

    def observe(
        self, rows: Tensor, solved: Tensor, trials: Tensor, step: int | None = None, *others: Any, **named: Any
    ) -> Tensor:
        """See `Filter.observe`."""
        at = self.step if step is None else step
        late = at < self.step
        for number in range(self.step, at):  # prompts follow their siblings in these steps, too
            super().observe(rows[:0], solved[:0], trials[:0], number)
            self._meet(self._evidence(number))
        told = self._evidence(at) if late else self._told(rows, solved, trials, at)
        found = super().observe(rows, solved, trials, at, *others, **named)
        if not late:
            self._meet(told)
        return found

    def state_dict(self) -> dict[str, Any]:
        """See `PooledTracker.state_dict`."""
        past = {str(step): population._asdict() for step, population in self._past.items()}
        return {**super().state_dict(), "population": past}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `PooledTracker.load_state_dict`; a state of the filter that keeps a belief for every prompt will do."""
        saved = checks.instance("state", state, Mapping)
        kept = saved.get("filter")
        dense = isinstance(kept, Mapping) and set(kept) == {"belief", "start", "kin", "seen"}
        super().load_state_dict(self._of_slots(state) if dense else state)
        self._past = {int(step): Population(**population) for step, population in saved.get("population", {}).items()}
        self._tilts.clear()
        if dense:
            self.pool = self._kin(self.step).belief
            events = self.history.events
            visits = torch.bincount(events.prompt[events.trials > 0], minlength=self.num_prompts)
            self.slots.visits.copy_(visits[self.slots.row.long()])

    def _of_slots(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state of the filter that keeps a belief for every prompt as a state of this one, but for the pool."""
        belief, seen = state["filter"]["belief"], state["filter"]["seen"]
        if belief.shape != (self.num_prompts, self.pool.shape[-1]):
            got = tuple(belief.shape)
            raise ValueError(f"state: expected beliefs of {self.num_prompts} prompts, got {got}")
        rows, since = seen.nonzero().squeeze(-1), int(state["step"])
        slots = {"row": rows, "since": torch.full_like(rows, since), "visits": torch.zeros_like(rows)}
        mass = self.by_kind(self.kinds.at(rows), belief[rows])
        own = {**slots, "belief": belief[rows], "pool": self.pool, "mass": mass}
        return {**state, "filter": own, "settled": since, "touched": rows[:0]}

    def begun(self, kind: Tensor, groups: PromptGroups) -> tuple[PromptGroups, Tensor, Tensor]:
        """See `PooledTracker.begun`: each prompt begins where its siblings were before its first rollout."""
        late = self.step + 1
        seen = groups.trials > 0
        first = torch.full_like(kind, late).scatter_reduce(0, groups.at[seen], groups.step[seen], "amin")
        kept = groups.step >= first[groups.at]
        first = torch.where(first == late, self.step, first)
        belief = self.pool[kind]
        for step in first.unique().tolist():
            at = (first == step).nonzero().squeeze(-1)
            belief[at] = self._kin(step).belief[kind[at]]
        return PromptGroups(*(column[kept] for column in groups)), belief, first

    def _find_kinds(self, num_prompts: int) -> Kinds | None:
        found = super()._find_kinds(num_prompts)
        return None if found is None else found.divided(self.pooling.of(num_prompts))

    def _begin(self) -> None:
        self._past.clear()
        self._tilts.clear()
        self._own = self.pooling.of(self.num_prompts)[self.kinds.example]  # long [G], the group of each kind
        super()._begin()

    def _again(self) -> None:
        """All prompts filtered anew from the history, step by step, as each group's members learn from each other."""
        until, before = self.step, self._known
        rows = self.history.events.prompt.unique()
        groups = groups_of(self.history, rows)
        by_step = groups.step.argsort(stable=True).split(torch.bincount(groups.step, minlength=until).tolist())
        levels = {name: self._levels(name, until).tolist() for name in ["progress", *self.history.step_columns]}
        history, self.history = self.history, type(self.history)(self.num_prompts)
        self._begin()
        self.step = 0
        try:
            for number, now in enumerate(by_step):
                known = {name: values[number] for name, values in levels.items()}
                progress = known.pop("progress")
                _, _, solved, trials, trained, _ = (column[now] for column in groups)
                self.observe(
                    rows[groups.at[now]], solved, trials, number, trained=trained, progress=progress, columns=known
                )
        finally:
            self.history, self.step, self._known = history, until, before

    def stay(self, trials: Tensor, trained: Tensor) -> Tensor:
        """See `PooledTracker.stay`: a prompt without rollouts follows its siblings."""
        return trials > 0

    def waited(self, belief: Tensor, kind: Tensor, start: Tensor, stop: Tensor | int) -> Tensor:
        """See `PooledTracker.waited`: prompts follow their siblings while they wait."""
        belief, left, end = belief.clone(), start.clone(), torch.as_tensor(stop).expand(start.shape)
        while bool((left < end).any()):
            now = int(left[left < end].min())
            rows = ((left == now) & (left < end)).nonzero().squeeze(-1)
            ahead = self.moves.over(belief[rows], kind[rows], left[rows], now + 1)
            belief[rows] = self.followed(ahead, kind[rows], torch.full_like(rows, now + 1))
            left[rows] = now + 1
        return belief

    def followed(self, belief: Tensor, kind: Tensor, step: Tensor) -> Tensor:
        """See `PooledTracker.followed`."""
        found = belief.clone()
        for number in step.unique().tolist():
            rows = (step == number).nonzero().squeeze(-1)
            factor = self._tilt(number)
            if factor is not None:
                found[rows] = tilted(belief[rows], factor[kind[rows]])
        return found

    def _evidence(self, step: int) -> Tensor:
        """float64 [H], the evidence for each way of pooling before a step."""
        known = self._past.get(step)
        return torch.zeros(self.pooling.ways, dtype=torch.float64) if known is None else known.evidence

    def _told(self, rows: Tensor, solved: Tensor, trials: Tensor, step: int) -> Tensor:
        """The same after the first groups of prompts among `rows` [V] in the coming step."""
        population = self._past.get(step)
        first = (self.slots.of[rows] < 0) & (trials > 0)
        if population is None or not bool(first.any()):
            return self._evidence(step)
        rows, solved, trials = rows[first], solved[first], trials[first]
        shown = self.shown(self.theta_of(rows), self._step(trials), solved, trials)
        kind = self.kinds.at(rows)
        places = self.pooling.places(self._own[kind], None, population)
        return self.pooling.told(self._starts(step)[kind], places, population, shown)

    def _meet(self, evidence: Tensor) -> None:
        """Visited prompts follow their siblings, and strangers are where their siblings are, before the coming step."""
        self.settle()
        seen = self.kinds.sizes - self.strangers
        nobody = self.pooling.nobody(self.pool)._replace(evidence=evidence)
        places = self.pooling.places(self._own, None, nobody)
        self._past[self.step] = self.pooling.filled(nobody, self.mass_seen.to(self.dtype), seen, places)
        kin = self._kin(self.step)
        factor = self._tilts[self.step] = tilt(kin.belief, self.pool, kin.number)
        for known in (self._past, self._tilts):
            known.pop(self.step - self._past[self.step].remembered, None)
        kind = self.kinds.at(self.slots.row.long())
        self.slots.belief.copy_(tilted(self.slots.belief, factor[kind]))
        self.mass_seen = self.by_kind(kind, self.slots.belief)
        self.pool = kin.belief
        self.outlooks.step_on()

    def _tilt(self, step: int) -> Tensor | None:
        """[G, K], what the visited prompts of each kind were multiplied by before a step; None if it was too long
        ago."""
        if step not in self._tilts and step in self._past:
            kin, before = self._kin(step), self._kin(step - 1).belief
            known = {name: float(self.level_at(name, step - 1)) for name in ["progress", *self.history.step_columns]}
            self._tilts[step] = tilt(kin.belief, moved(before, self._waiting(step - 1, known)), kin.number)
        return self._tilts.get(step)

    def _starts(self, step: int) -> Tensor:
        """[G, K], where the dynamics model alone expects strangers of each kind before a step."""
        everyone = torch.arange(len(self._own))
        initial = self.dynamics.initial(self._theta).probs.to(self.dtype).expand_as(self.pool)
        return self.moves.over(initial, everyone, torch.zeros_like(everyone), step)

    def _kin(self, step: int) -> Kin:
        """What is believed of strangers of each kind before a step."""
        start, known = self._starts(step), self._past.get(step)
        if known is None:
            return Kin(start, torch.zeros_like(start[:, :1]))
        return self.pooling.kin(start, self.pooling.places(self._own, None, known), known)
