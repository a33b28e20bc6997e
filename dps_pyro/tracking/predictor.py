"""What all trackers of prompts share: steps, late observations, new prompts, saved states."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dps_pyro.dynamics.step import Field, Step
from dps_pyro.history.log import Features, RolloutHistory, useful_by_sum
from dps_pyro.history.values import Groups as Columns
from dps_pyro.support import checks
from dps_pyro.support.devices import off_device, on_device
from dps_pyro.support.places import placed, put
from dps_pyro.tracking.groups import Groups, State
from dps_pyro.tracking.late import Replayed, Score
from dps_pyro.tracking.rates import Rates, expected_next
from dps_pyro.tracking.snapshots import Snapshots

__all__ = ["Filter", "Predictor"]


class Filter(ABC):
    """Online beliefs about N prompts. A subclass says how a state starts and how it advances; the rest follows.

    Args:
        num_prompts: N; rows are 0..N-1.
        dtype: the dtype of the state.
        device: where the state lies and is computed. The log, and what the methods take and return, lie on the CPU.
            The default is the CPU.

    Arguments are not checked here: `PromptSampler` checks what users pass.
    """

    states: tuple[str, ...]
    """The names of the belief's columns, from unsolved to solved."""
    ways: tuple[int, ...] = ()
    """The shape of a group's score: one number, or [S] numbers if the filter runs at S values of the parameters."""
    tolerance: float = 0.0
    """A group is useful if its largest and smallest reward differ by more than this."""

    within: bool = False
    """See `places.HasDevice`."""

    def __init__(self, num_prompts: int, dtype: torch.dtype, device: torch.device | None = None) -> None:
        self.num_prompts = num_prompts
        self.dtype = dtype
        self.device = device
        self.step = 0
        """The coming training step."""
        self.history = RolloutHistory(num_prompts)
        self._known = {"progress": 0.0}  # what was last known of the policy and of the user's own columns
        self._last: Tensor | None = None  # long [N], the last visit of each prompt or -1; None until it is asked for
        self.snapshots = Snapshots()
        """Earlier states, from which late groups are filtered."""
        with on_device(device):
            self._theta = self._parameters(None)
            self._state = self._start(num_prompts, self._theta)

    # ------------------------------------------------------------------------------------------- what a filter says

    @property
    @abstractmethod
    def belief(self) -> Tensor:
        """[N, K], the belief about each prompt before the coming step's rollouts, over `states`; rows sum to 1. On the
        CPU it is not a copy: do not change it."""

    @placed
    def mass(self) -> Tensor:
        """[K], the mean of the beliefs over all prompts."""
        return self.belief.mean(0)

    @abstractmethod
    def informative(self, trials: int) -> Tensor:
        """[N], the predictive chance that a group of `trials` rollouts is useful: that its rewards differ by
        more than `tolerance`. With rewards of 0 and 1 this means neither all wrong nor all right."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Tensor:
        """[N], a draw from the belief about each prompt's success rate, the chance that one rollout solves it."""

    def rates(self) -> Rates:
        """The law of each prompt's success rate before the coming step's rollouts.

        Raises:
            NotImplementedError: this filter does not say.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how success rates are distributed: rates()")

    def expected(self, rows: Tensor, solved: Tensor, trials: Tensor) -> Tensor:
        """float64 [V], the expected reward of one more rollout of each prompt in `rows` [V] in the coming step, where
        `trials` [V] other rollouts of it in the same step earned `solved` [V] together; rows may repeat.

        Raises:
            NotImplementedError: this filter does not say.
        """
        return expected_next(self.rates().of(rows), solved.double(), trials.double() - solved.double())

    def _parameters(self, rows: Tensor | None) -> Any:  # noqa: B027 - most need none
        """What `_start` and `_advance` need to know of the prompts `rows` [V], or of all prompts."""

    @abstractmethod
    def _start(self, num_rows: int, theta: Any) -> State:
        """The state before the first step."""

    @abstractmethod
    def _advance(self, state: State, groups: Groups, step: Step, theta: Any) -> tuple[State, Tensor]:
        """Return the state before the next step, and `log p(y_t | y_<t)` of the groups, [V, *ways], 0 for groups
        without rollouts. `step` has all rows of the state."""

    # ------------------------------------------------------------------------------------------------- what follows

    @placed
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
        """Take in one step's groups and move on to the next step.

        Args:
            rows: long [V], distinct.
            solved: [V], within 0..trials.
            trials: long [V]; 0 conditions on nothing.
            step: the training step that the rollouts belong to. The default is the coming one. A later one first lets
                the steps between pass. An earlier one is a late observation: the history of its prompts is filtered
                again, exactly, and the clock stays.
            predicted: [V], the chances of a useful group predicted at selection, for the log.
            trained: bool [V], whether the policy was updated on the group. The default is true for groups with
                rollouts.
            progress: the policy's overall progress before the step. The default is the last known value. It is ignored
                for a late observation, because the steps that followed did not know it.
            useful: bool [V], whether the group was useful, for the log. The default is what its sum says.
            columns: the user's own numbers for the step, by name. A column that is left out keeps its last known value.
                Columns are ignored for a late observation.

        Returns:
            [V], the prequential scores: the log-probability of each prompt's group given everything observed before
            this call. For a group of the coming step that is `log p(y_t | y_<t)`. For a late group it is what the
            group adds to the log-probability of the prompt's whole history, later steps included. In whatever order
            groups arrive, the scores therefore add up to the log-probability of the log, and are -inf for a group
            that the model holds impossible.
        """
        at = self.step if step is None else step
        trained = trials > 0 if trained is None else trained
        useful = useful_by_sum(solved, trials, self.tolerance) if useful is None else useful
        chance = torch.full([len(rows)], math.nan) if predicted is None else predicted
        record = partial(self._record, rows, at, Columns(solved, trials, chance, trained, useful))
        if at < self.step and len(rows) == 0:
            return torch.zeros(0, *self.ways, dtype=self.dtype)
        if at < self.step:
            theta = self._parameters(rows)
            snapshot = self.snapshots.before(at)
            without = self._replay(rows, theta, until=self.step, since=snapshot).score
            record(progress=None, columns=None)
            again = self._replay(rows, theta, until=self.step, since=snapshot, mend=True)
            self._put(rows, again.state)
            self._visited(rows, trials, at)
            return again.score.less(without)
        state, nobody = self._state, partial(torch.zeros, self.num_prompts)
        for number in range(self.step, at):
            idle = self._step(partial(nobody, dtype=torch.long), number=number)
            state, _ = self._advance(state, Groups(rows, rows, solved, trials, trained).nothing(), idle, self._theta)
        known = self._known | dict(columns or {}) | ({} if progress is None else {"progress": progress})
        everywhere = self._step(
            lambda: nobody(dtype=torch.long).index_copy(0, rows, trials),
            lambda: nobody(dtype=torch.bool).index_copy(0, rows, trained),
            number=at,
            known=known,
        )
        state, evidence = self._advance(state, Groups(rows, rows, solved, trials, trained), everywhere, self._theta)
        record(progress=progress, columns=columns)
        self._state, self.step, self._known = self._laid_out(state), at + 1, known
        self.snapshots.keep(self.step, state)
        self._visited(rows, trials, at)
        return evidence

    def _record(self, rows: Tensor, step: int, groups: Columns, **told: Any) -> None:
        """Append a step's groups, and what was told of the step, to the log, which lies on the CPU."""
        with off_device(self.device):
            rows, groups = put((rows, groups), torch.device("cpu"))
            self.history.append_valid(rows, step, groups, **told)

    @placed
    def add(self, prompts: int | Sequence[str], features: Features | None = None) -> None:
        """Track more prompts. They count as unvisited since the first step.

        Args:
            prompts: the number of new prompts, or their ids if the history has ids.
            features: the features of the new prompts, if the history has features.

        Raises:
            ValueError: the filter has parameters per prompt, which new prompts lack; an id exists already; or the
                features are not those of the prompts before.
        """
        old = self.num_prompts
        self.num_prompts += prompts if isinstance(prompts, int) else len(prompts)
        try:
            theta = self._parameters(None)
            with off_device(self.device):
                self.history.add(prompts, features)
        except ValueError:
            self.num_prompts = old
            raise
        self._theta, self._last = theta, None
        self.snapshots.clear()
        new = torch.arange(old, self.num_prompts)
        fresh = self._replay(new, self._parameters(new), until=self.step).state if len(new) else {}
        longer = {name: torch.cat([value, fresh.get(name, value[:0])]) for name, value in self._state.items()}
        self._state = self._laid_out(longer)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a filter of the same model and size needs to continue, as tensors and numbers."""
        return {
            "filter": put(self._state, torch.device("cpu")),
            "snapshots": self.snapshots.state_dict(),
            "history": self.history.state_dict(),
            "step": self.step,
            "progress": self._known["progress"],
            "known": dict(self._known),
            "num_prompts": self.num_prompts,
        }

    @placed
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: the state belongs to another kind of model or number of prompts, or is no state of a filter.
        """
        names = ("filter", "history", "step", "progress")
        missing = [name for name in names if name not in checks.instance("state", state, Mapping)]
        if missing:
            raise ValueError(f"state: expected {', '.join(names)}, got none of {', '.join(missing)}")
        saved = checks.instance("state", state["filter"], Mapping)
        shapes = {name: tuple(value.shape) for name, value in self._state.items()}
        came = {name: tuple(checks.instance("state", value, Tensor).shape) for name, value in saved.items()}
        if shapes != came:
            raise ValueError(f"state: expected a filter of shapes {shapes}, got {came}")
        step = int(state["step"])
        # Saved too, because filtering from a snapshot and from the first step may be rounded otherwise.
        self.snapshots.load_state_dict(state.get("snapshots", {}), self._state)  # not in states of earlier versions
        known = {"progress": float(state["progress"]), **state.get("known", {})}  # not in states of earlier versions
        with off_device(self.device):
            self.history.load_state_dict(put(state["history"], torch.device("cpu")))
        self.step, self._known, self._last = step, known, None
        # Copied into tensors like the filter's own: in another order or at an odd address, sums of products are rounded
        # otherwise.
        self._state = {name: torch.empty_like(self._state[name]).copy_(value) for name, value in saved.items()}
        new = state.get("fresh")  # prompts that the saved filter did not have (`dps_pyro.selection.state.matching`)
        if new is not None and len(new):
            again = self._replay(new, self._parameters(new), until=self.step).state
            self._put(new, again)

    def _put(self, rows: Tensor, found: State) -> None:
        changed = {name: value.index_copy(0, rows, found[name]) for name, value in self._state.items()}
        self._state = self._laid_out(changed)

    def _laid_out(self, state: State) -> State:
        """The state with its numbers in the order in memory in which they are loaded. Sums of products are rounded
        otherwise in another order, and a run that was resumed would not repeat one that was not."""
        return state

    def coming(self, trials: int) -> Step:
        """Describe the coming step as a model's methods take it, if every prompt were rolled out `trials` times."""
        return self._step(torch.tensor([trials]))

    def _step(
        self,
        trials: Field,
        trained: Field | None = None,
        number: int | None = None,
        known: Mapping[str, float] | None = None,
    ) -> Step:
        """Describe a step in which the prompts are rolled out `trials` [N or 1] times: the coming step, or the step
        `number`. `known` holds its columns, which are otherwise the last known ones. Fields are made when a model asks
        for them."""
        at = self.step if number is None else number

        def made(value: float) -> Field:
            return lambda: torch.tensor([value], dtype=self.dtype)

        columns: dict[str, Field] = {name: made(value) for name, value in (known or self._known).items()}
        progress = columns.pop("progress")
        return Step(
            trials,
            trained,
            progress,
            lambda: torch.tensor([at]),
            lambda: at - self._last_visits(),
            columns | self._features(None),
        )

    def _features(self, rows: Tensor | None) -> dict[str, Field]:
        """The prompts' own columns."""

        def made(column: list[float]) -> Field:
            def tensor() -> Tensor:
                values = torch.tensor(column, dtype=self.dtype)
                return values if rows is None else values[rows]

            return tensor

        return {name: made(column) for name, column in self.history.numeric_features().items()}

    def _last_visits(self) -> Tensor:
        """Long [N], the step at which each prompt was last rolled out; -1 for prompts that never were."""
        if self._last is None:
            events = self.history.events
            self._last = torch.full([self.num_prompts], -1)
            self._visited(*put((events.prompt, events.trials, events.step), self._last.device))
        return self._last

    def _visited(self, rows: Tensor, trials: Tensor, step: int | Tensor) -> None:
        """Record visits, for models that ask for the last one."""
        if self._last is not None:
            now = torch.as_tensor(step).expand(len(rows))
            self._last = self._last.scatter_reduce(0, rows[trials > 0], now[trials > 0], "amax")

    def _replay(
        self,
        rows: Tensor,
        theta: Any,
        until: int,
        since: tuple[int, State] | None = None,
        mend: bool = False,
    ) -> Replayed:
        """Filter the prompts `rows` [V], at least one, again from the history, up to the state before step `until`:
        from the first step, or `since` a snapshot. With `mend` the snapshots on the way get the states found."""
        start, state = (0, self._start(len(rows), theta)) if since is None else since
        state = state if since is None else self._laid_out({name: value[rows] for name, value in state.items()})
        score = Score.nothing((len(rows), *self.ways), self.dtype)
        with off_device(self.device):
            events = self.history.rows(rows.cpu())
        prompt, at, solved, trials, _, trained, *_ = put(tuple(events), rows.device)
        levels = {name: self._levels(name, until) for name in ["progress", *self.history.step_columns]}
        features = self._features(rows)
        before = (at < start) & (trials > 0)
        last = torch.full([len(rows)], -1).scatter_reduce(0, prompt[before], at[before], "amax")
        for t in range(start, until):
            if mend and t > start:
                self.snapshots.mend(t, rows, state)
            now = (at == t).nonzero().squeeze(-1)
            sizes = torch.zeros(len(rows), dtype=torch.long).index_add(0, prompt[now], trials[now])
            counts = torch.zeros(len(rows), dtype=torch.float64).index_add(0, prompt[now], solved[now])
            updated = torch.zeros(len(rows), dtype=torch.bool)
            updated[prompt[now][trained[now]]] = True
            seen = sizes.nonzero().squeeze(-1)
            groups = Groups(seen, rows[seen], counts[seen], sizes[seen], updated[seen])
            columns: dict[str, Field] = {name: level[t : t + 1] for name, level in levels.items()}
            progress = columns.pop("progress")
            step = Step(sizes, updated, progress, torch.tensor([t]), t - last, columns | features)
            state, evidence = self._advance(state, groups, step, theta)
            score = score.plus(seen, evidence)
            last = last.index_fill(0, seen, t)
        if mend:
            self.snapshots.mend(until, rows, state)
        return Replayed(state, score)

    def _levels(self, name: str, until: int) -> Tensor:
        """[until], the known value of a column at each step."""
        with off_device(self.device):
            level = self.history.level(name).to(self.dtype)
        level = level if self.device is None else level.to(self.device)
        return torch.cat([level, level.new_full([max(0, until - len(level))], self._known.get(name, 0.0))])


@runtime_checkable
class Predictor(Protocol):
    """A model that brings a filter of its own, such as a model that learns while it filters (`PaperDPS`), or a model
    that is not a hidden Markov model (`BetaBernoulli`)."""

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the belief's columns, from unsolved to solved."""
        ...

    def tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> Filter:
        """Make the filter of `num_prompts` prompts. A model whose filter can compute on a GPU takes `device`, too.

        Raises:
            ValueError: `values` of a fit were given to a filter that takes none.
        """
        ...
