"""The exact filter at a cost that follows what was seen: equals share one belief, and waiting prompts wait.

Prompts of one kind that were never rolled out have the same belief: it is kept once, beside how many they are. A prompt
that was rolled out has a slot with its belief, and the step before which it was believed. It is brought up to date when
somebody looks, over all steps that it waited for at once (`Moves`). The beliefs are those of the plain `Tracker`, to
rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.forward import condition, predict
from dps_pyro.dynamics.laws import unchecked
from dps_pyro.dynamics.step import Step
from dps_pyro.history.log import Features, useful_by_sum
from dps_pyro.history.values import Groups
from dps_pyro.support import checks
from dps_pyro.tracking.groups import State
from dps_pyro.tracking.late import Late, PromptGroups, groups_of, observe_late
from dps_pyro.tracking.pools.kinds import Kinds, kinds_of
from dps_pyro.tracking.pools.moves import Moves, moved
from dps_pyro.tracking.pools.outlook import Outlook, Outlooks
from dps_pyro.tracking.pools.slots import Slots
from dps_pyro.tracking.pools.tables import Tables, moved_by_laws
from dps_pyro.tracking.pools.waiting import Waiting
from dps_pyro.tracking.tracker import Tracker

__all__ = ["PooledTracker"]


class PooledTracker(Tracker):
    """The exact filter over N prompts of a few kinds.

    Args:
        dynamics: the model.
        num_prompts: N.
        kinds: the prompts' kinds, as `kinds_of` finds them. They are found if they are left out.
        values: site name -> value, such as `Posterior.point`; sites left out stand at their prior means.
        dtype: the dtype of the beliefs. The default is torch's.

    Raises:
        ValueError: the prompts are not of a few kinds (use `Tracker`), or `values` are not the model's.
    """

    slots: Slots
    moves: Moves
    waiting: Waiting
    pool: Tensor
    """[G, K], what is believed of the prompts of each kind that were never rolled out."""
    mass_seen: Tensor  # float64 [G, K], the sums of the beliefs of each kind's visited prompts
    strangers: Tensor
    """Long [G], how many prompts of each kind were never rolled out."""
    outlooks: Outlooks
    _waits: tuple[Any, Tensor] | None = None  # the parameters, and the moves at them where they are always the same
    _looked_up: Tables | None = None

    def __init__(
        self,
        dynamics: Dynamics[Any],
        num_prompts: int,
        *,
        kinds: Kinds | None = None,
        values: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        found = kinds_of(dynamics, num_prompts, values) if kinds is None else kinds
        if found is None:
            name = type(dynamics).__name__
            raise ValueError(f"dynamics: expected prompts of a few kinds, got {name} without: use Tracker")
        self.kinds = found
        super().__init__(dynamics, num_prompts, values=values, dtype=dtype)
        self._begin()

    # ----------------------------------------------------------------------------------------- what is believed

    @property
    def belief(self) -> Tensor:
        """[N, K], `p(z_t | y_<t)` for the coming step t, made anew: its cost follows N."""
        everyone = self.pool[self.kinds.at(torch.arange(self.num_prompts))]
        return everyone.index_copy(0, self.slots.row.long(), self.believed())

    def believed(self, slots: Tensor | None = None) -> Tensor:
        """[V, K], `p(z_t | y_<t)` of the prompts in the slots [V], or in all."""
        if slots is None:
            return self.waiting.up_to_date(torch.empty_like(self.slots.belief), self.kinds, self.step)
        return self.waiting.believed(slots, self.kinds, self.step)

    def informative(self, trials: int) -> Tensor:
        """[N], the predictive chance that a group of `trials` rollouts is useful, made anew: its cost follows N."""
        outlook = self.outlook(trials)
        everyone = outlook.pool[self.kinds.at(torch.arange(self.num_prompts))]
        return everyone.index_copy(0, self.slots.row.long(), outlook.slots())

    def outlook(self, trials: int) -> Outlook:
        """The chances of a useful group of `trials` rollouts, for whoever asks for some of them."""
        return self.outlooks.of(trials)

    def by_state(self, trials: int) -> Tensor:
        """[G or 1, K], the chance in each state that a group of `trials` rollouts in the coming step is useful."""
        return self.laws(self._theta).informative(trials, self.coming)

    def rates_by_state(self) -> Tensor:
        """[G or 1, K], the mean reward of one rollout in each state.

        Raises:
            NotImplementedError: the model's emission has no mean.
        """
        return super()._means(self._theta)

    def expected(self, rows: Tensor, solved: Tensor, trials: Tensor) -> Tensor:
        """See `Tracker.expected`."""
        shown = self.shown(self.theta_of(rows), self._step(trials), solved, trials)
        means = self.rates_by_state()
        weights = condition(self.believed_of(rows), shown).belief
        expected: Tensor = (weights * (means if len(means) == 1 else means[self.kinds.at(rows)])).sum(-1).double()
        return expected

    def believed_of(self, rows: Tensor) -> Tensor:
        """[V, K], `p(z_t | y_<t)` of the prompts `rows` [V]."""
        found, slots = self.pool[self.kinds.at(rows)], self.slots.of[rows].long()
        seen = (slots >= 0).nonzero().squeeze(-1)
        return found.index_copy(0, seen, self.believed(slots[seen]))

    def masses(self) -> Tensor:
        """float64 [G, K], the sums of the beliefs of each kind's prompts."""
        return self.mass_seen + self.pool.double() * self.strangers.unsqueeze(-1)

    def mass(self) -> Tensor:
        """float64 [K], the mean of the beliefs over all prompts; its cost does not follow N."""
        total = self.masses().sum(0)
        return total / total.sum()

    def mean_informative(self, trials: int) -> float:
        """The mean over all prompts of `informative`; its cost does not follow N."""
        return self.outlook(trials).mean()

    # ----------------------------------------------------------------------------------------- what is observed

    def observe(
        self,
        rows: Tensor,
        solved: Tensor,
        trials: Tensor,
        step: int | None = None,
        *,
        predicted: Tensor | None = None,
        trained: Tensor | None = None,
        progress: float | None = None,
        useful: Tensor | None = None,
        columns: Mapping[str, float] | None = None,
    ) -> Tensor:
        """See `Filter.observe`."""
        at = self.step if step is None else step
        trained = trials > 0 if trained is None else trained
        useful = useful_by_sum(solved, trials, self.tolerance) if useful is None else useful
        groups: dict[str, Any] = {"solved": solved, "trials": trials, "predicted": predicted, "trained": trained}
        if at < self.step:
            return observe_late(self, rows, at, {**groups, "useful": useful})
        known = self._known | dict(columns or {}) | ({} if progress is None else {"progress": progress})
        pool, mass, moves = self.pool, self.mass_seen, []
        for number in range(self.step, at + 1):
            moves.append(self._waiting(number, known if number == at else None))
            if number < at:
                pool, mass = moved(pool, moves[-1]), moved(mass, moves[-1].double(), False)
        kind, slot = self.kinds.at(rows), self.slots.of[rows].long()
        old = (slot >= 0).nonzero().squeeze(-1)
        belief = self._until(at, pool, kind, slot, old, moves)
        found = self._tables().moved(belief, kind, solved, trials, trained) if self.kinds.steady and len(rows) else None
        after, evidence = found or moved_by_laws(self, belief, rows, solved, trials, trained, at, known)
        chance = torch.full([len(rows)], math.nan) if predicted is None else predicted
        self.history.append_valid(rows, at, Groups(solved, trials, chance, trained, useful), progress, columns)
        # Nothing fails from here on.
        for move in moves:
            self.moves.append(move)
        gone, come = self.by_kind(kind[old], belief[old]), self.by_kind(kind, after)
        stays = self.stay(trials, trained) | (slot >= 0)  # others had no slot, and need none
        if not bool(stays.all()):
            rows, kind, after, trials = rows[stays], kind[stays], after[stays], trials[stays]
            come = self.by_kind(kind, after)
        self.mass_seen = moved(mass - gone, moves[-1].double(), False) + come
        self.pool = moved(pool, moves[-1])
        self.step, self._known = at + 1, known
        self.take(rows, kind, after, trials > 0)
        return evidence

    def _until(self, at: int, pool: Tensor, kind: Tensor, slot: Tensor, old: Tensor, moves: Sequence[Tensor]) -> Tensor:
        """[V, K], what is believed before step `at` of prompts of the kinds [V] in the slots [V]; `old` are the places
        of those that have a slot, and `moves` those from the coming step on."""
        belief = pool.index_select(0, kind)
        if len(old) == 0:
            return belief
        until = at if self.moves.steady else self.step
        slot, kind = slot[old], kind[old]
        now = self.moves.over(self.slots.belief.index_select(0, slot), kind, self.slots.since[slot].long(), until)
        for move in [] if self.moves.steady else moves[:-1]:
            now = predict(now, move if len(move) == 1 else move[kind])
        return now if len(old) == len(belief) else belief.index_copy_(0, old, now)

    def by_kind(self, kind: Tensor, belief: Tensor) -> Tensor:
        """float64 [G, K], the sums of the beliefs [V, K] of prompts of the kinds [V]."""
        if len(self.strangers) == 1:
            return belief.sum(0, keepdim=True, dtype=torch.float64)
        return torch.zeros_like(self.mass_seen).index_add_(0, kind, belief.double())

    def take(self, rows: Tensor, kind: Tensor, belief: Tensor, visited: Tensor) -> None:
        """These prompts [V] have these beliefs [V, K] before the coming step, and were visited, or not."""
        before = self.slots.count
        slots = self.slots.at(rows)
        if self.slots.count > before:
            self.strangers = self.strangers - torch.bincount(kind[slots >= before], minlength=len(self.strangers))
        self.slots.belief.index_copy_(0, slots, belief)
        self.slots.since[slots] = self.step
        self.slots.visits.index_add_(0, slots, visited.to(torch.int32))
        self.waiting.touched.add(slots)
        self.outlooks.step_on()

    def settle(self) -> None:
        """Bring all slots up to date. Only the cost of the next look at many of them changes."""
        self.waiting.settle(self.kinds, self.step)

    def add(self, prompts: int | Sequence[str], features: Features | None = None) -> None:
        """See `Filter.add`."""
        old = self.num_prompts
        more = prompts if isinstance(prompts, int) else len(prompts)
        kinds = self._find_kinds(old + more)
        if kinds is None or len(kinds.example) != len(self.kinds.example):
            raise ValueError("prompts: expected new ones of the kinds that there are, got others")
        self.history.add(prompts, features)
        self.num_prompts, self.kinds = old + more, kinds
        self._theta, self._last = self._parameters(None), None
        self.outlooks = Outlooks(self)
        self.slots.more_prompts(more)
        self._count()

    def refilter(self, values: Mapping[str, Tensor]) -> None:
        """See `Tracker.refilter`."""
        before = self._values, self._theta, self.kinds
        self._values = dict(values)
        try:
            kinds = self._find_kinds(self.num_prompts)
            if kinds is None:
                raise ValueError("values: expected prompts of a few kinds at these values, too")
            self.kinds, self._theta = kinds, self._parameters(None)
        except ValueError:
            self._values, self._theta, self.kinds = before
            raise
        self._again()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a filter of the same model and size needs to go on: as large as what was seen."""
        own = {**self.slots.state_dict(), "pool": self.pool, "mass": self.mass_seen}
        waiting = {"settled": self.waiting.settled, "touched": self.waiting.touched.slots.clone()}
        return {**super().state_dict(), "filter": {name: value.clone() for name, value in own.items()}, **waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Filter.load_state_dict`; a state of a plain `Tracker` will do as well."""
        saved: Any = checks.instance("state", checks.instance("state", state, Mapping).get("filter"), Mapping)
        names = tuple(self.slots.state_dict())
        dense = set(saved) == {"belief"}
        if dense and saved["belief"].shape != (self.num_prompts, self.pool.shape[-1]):
            got = tuple(saved["belief"].shape)
            raise ValueError(f"state: expected beliefs of {self.num_prompts} prompts, got {got}")
        if not dense:
            self._check(saved, (*names, "pool", "mass"))
        super().load_state_dict({**state, "filter": {}, "snapshots": {}})
        self.kinds = self._find_kinds(self.num_prompts) or self.kinds
        if dense:
            self._again()
            return
        self._begin()
        self._replay_moves(self.step)
        belief = saved["belief"].to(self.dtype)
        self.slots.load_state_dict({name: belief if name == "belief" else saved[name] for name in names})
        self.pool, self.mass_seen = saved["pool"].to(self.dtype), saved["mass"].double()
        self.waiting.resume(int(state["settled"]), state["touched"].long())
        self._count()

    def _check(self, saved: Mapping[str, Tensor], names: Sequence[str]) -> None:
        """Raise a ValueError if a saved filter is of other kinds or more prompts."""
        shapes = {"pool": self.pool.shape, "mass": self.mass_seen.shape}
        if set(saved) != set(names) or any(saved[name].shape != shape for name, shape in shapes.items()):
            raise ValueError(f"state: expected a filter's {', '.join(names)} of {len(self.pool)} kinds, got others")
        if len(saved["row"]) and int(saved["row"].max()) >= self.num_prompts:
            raise ValueError(f"state: expected rows of {self.num_prompts} prompts, got {int(saved['row'].max())}")

    def _parameters(self, rows: Tensor | None) -> Any:
        return super()._parameters(self.kinds.example if rows is None else rows)

    def _start(self, num_rows: int, theta: Any) -> State:
        return {}

    def _begin(self) -> None:
        """As before the first step, but for the history and the clock."""
        initial = self.dynamics.initial(self._theta).probs.to(self.dtype)
        self.pool = initial.expand(len(self.kinds.example), initial.shape[-1]).clone()
        self.slots = Slots(self.num_prompts, initial.shape[-1], self.dtype)
        self.mass_seen = torch.zeros_like(self.pool, dtype=torch.float64)
        self.moves = Moves(self._waiting(0) if self.kinds.steady else None)
        self.waiting = Waiting(self.slots, self.moves)
        self.outlooks = Outlooks(self)
        self._count()

    def _find_kinds(self, num_prompts: int) -> Kinds | None:
        return kinds_of(self.dynamics, num_prompts, self._values)

    def stay(self, trials: Tensor, trained: Tensor) -> Tensor:
        """Bool [V], which groups make their prompt differ from those that were never rolled out."""
        return (trials > 0) | trained

    def begun(self, kind: Tensor, groups: PromptGroups) -> tuple[PromptGroups, Tensor, Tensor]:
        """The groups that prompts of the kinds [V] are filtered with from nothing, and what is believed of the prompts
        at first: [V, K], before the steps [V]."""
        first = self.dynamics.initial(self._theta).probs.to(self.dtype).expand_as(self.pool)
        return groups, first[kind], torch.zeros_like(kind)

    def waited(self, belief: Tensor, kind: Tensor, start: Tensor, stop: Tensor | int) -> Tensor:
        """[V, K], the beliefs [V, K] before the steps `start` [V] of prompts that wait until `stop` [V]."""
        return self.moves.over(belief, kind, start, stop)

    def followed(self, belief: Tensor, kind: Tensor, step: Tensor) -> Tensor:
        """[V, K], the beliefs [V, K] by the prompts' own rollouts before the steps [V], after they followed others."""
        return belief

    def _count(self) -> None:
        visited = torch.bincount(self.kinds.at(self.slots.row.long()), minlength=len(self.kinds.sizes))
        self.strangers = self.kinds.sizes - visited

    def _waiting(self, number: int, known: Mapping[str, float] | None = None) -> Tensor:
        """[G or 1, K, K], the moves in step `number` of prompts that nobody rolled out."""
        if self.kinds.steady and self._waits is not None and self._waits[0] is self._theta:
            return self._waits[1]
        idle = self._step(torch.tensor([0]), torch.tensor([False]), number=number, known=known)
        matrix = self.dynamics.transition(self._theta, idle).probs.to(self.dtype)
        matrix = matrix if matrix.ndim == 3 else matrix.unsqueeze(0)
        self._waits = self._theta, matrix
        return matrix

    def _tables(self) -> Tables:
        """The laws by the size of a group, for models whose laws are the same at all steps."""
        if self._looked_up is None or self._looked_up.theta is not self._theta:
            self._looked_up = Tables(self, self._theta)
        return self._looked_up

    def _means(self, theta: Any) -> Tensor:
        """[N or 1, K], see `Tracker`; its cost follows N if the kinds' rewards differ."""
        means = super()._means(theta)
        return means if len(means) == 1 else means[self.kinds.at(torch.arange(self.num_prompts))]

    def _worth(self, theta: Any, trials: int, means: Tensor) -> Tensor:
        """[N, K], see `Tracker`; its cost follows N."""
        worth = super()._worth(theta, trials, super()._means(theta))
        return worth.expand(len(self.kinds.example), -1)[self.kinds.at(torch.arange(self.num_prompts))]

    def shown(self, theta: Any, step: Step, solved: Tensor, trials: Tensor) -> Tensor:
        """[V, K], `log p(y_t | z_t)` of V groups; zeros where there were no rollouts."""
        if len(trials) == 0:
            return self.pool[:0]
        law = unchecked(self.dynamics.emission(theta, step))
        outcome = solved.to(self.dtype).unsqueeze(-1)
        return torch.where(trials.unsqueeze(-1) > 0, law.log_prob(outcome), 0.0).to(self.dtype)

    def theta_of(self, rows: Tensor) -> Any:
        """The parameters of the prompts `rows` [V]."""
        return self._theta if self.kinds.of is None or len(rows) == 0 else self._parameters(rows)

    def level_at(self, name: str, number: int) -> Tensor:
        """[1], what was known of a step's column at step `number`."""
        return self._levels(name, number + 1)[number : number + 1]

    def _replay_moves(self, until: int) -> None:
        """The moves up to step `until`, from what the history knows of the steps."""
        if self.moves.steady:
            return
        levels = {name: self._levels(name, until).tolist() for name in ["progress", *self.history.step_columns]}
        for number in range(until):
            self.moves.append(self._waiting(number, {name: level[number] for name, level in levels.items()}))

    def _again(self) -> None:
        """All prompts filtered anew from the history."""
        self._begin()
        self._replay_moves(self.step)
        everyone = torch.arange(len(self.kinds.example))
        self.pool = self.moves.over(self.pool, everyone, torch.zeros_like(everyone), self.step)
        events = self.history.events
        rows = events.prompt[(events.trials > 0) | events.trained].unique()
        for part in rows.split(1 << 16):
            kind = self.kinds.at(part)
            groups = groups_of(self.history, part)
            found = Late(self, part, kind).run(groups)
            self.take(part, kind, found.belief, torch.zeros_like(part, dtype=torch.bool))
            self.slots.visits[self.slots.at(part)] = groups.visits(len(part)).to(torch.int32)
            self.mass_seen.index_add_(0, kind, found.belief.double())
