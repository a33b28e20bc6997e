"""What every tracker of prompts does, whatever it believes of them: steps, late observations, new prompts, states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dps_pyro.dynamics.step import Step
from dps_pyro.history.log import Features, RolloutHistory, useful_by_sum
from dps_pyro.support import checks
from dps_pyro.tracking.rates import Rates, expected_next

__all__ = ["Filter", "Groups", "Predictor", "State"]

State = dict[str, Tensor]
"""What a filter carries from step to step, prompts first."""


class Groups(NamedTuple):
    """Some prompts' groups in one step."""

    at: Tensor  # long [V], their places in the state at hand
    prompts: Tensor  # long [V], their rows among all prompts
    solved: Tensor  # [V]
    trials: Tensor  # long [V]; 0 conditions on nothing


class Filter(ABC):
    """N prompts' beliefs, online. A subclass says how a state starts and how it advances; the rest follows.

    Args:
        num_prompts: N; rows are 0..N-1.
        dtype: of the state.

    What is observed is taken as valid: `PromptSampler` checks what users hand in.
    """

    states: tuple[str, ...]
    """The names of the belief's columns, from unsolved to solved."""
    tolerance: float = 0.0
    """A group is useful where its largest and smallest reward differ by more than this."""

    def __init__(self, num_prompts: int, dtype: torch.dtype) -> None:
        self.num_prompts = num_prompts
        self.dtype = dtype
        self.step = 0
        """The coming training step."""
        self.history = RolloutHistory(num_prompts)
        self._known = 0.0  # the policy's overall progress
        self._theta = self._parameters(None)
        self._state = self._start(num_prompts, self._theta)

    # ------------------------------------------------------------------------------------------- what a filter says

    @property
    @abstractmethod
    def belief(self) -> Tensor:
        """[N, K], what is believed of each prompt before the coming step's rollouts, over `states`; rows sum to 1. Not
        a copy: read it only."""

    @abstractmethod
    def informative(self, trials: int) -> Tensor:
        """[N], the predictive chance that a group of `trials` rollouts is useful: its rewards differ by more than
        `tolerance`. With rewards of 0 and 1: it is neither all wrong nor all right."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Tensor:
        """[N], a draw of each prompt's success rate, the chance that one rollout solves it, from what is believed."""

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
        """What `_start` and `_advance` need of the prompts `rows` [V], or of all."""

    @abstractmethod
    def _start(self, num_rows: int, theta: Any) -> State:
        """The state before the first step."""

    @abstractmethod
    def _advance(self, state: State, groups: Groups, step: Step, theta: Any) -> tuple[State, Tensor]:
        """The state before the next step, and [V], `log p(y_t | y_<t)` of the groups (0 of those without rollouts).
        `step` has all rows of the state."""

    # ------------------------------------------------------------------------------------------------- what follows

    def observe(
        self,
        rows: Tensor,
        solved: Tensor,
        trials: Tensor,
        step: int | None = None,
        predicted: Tensor | None = None,
        trained: Tensor | None = None,
        progress: float | None = None,
        useful: Tensor | None = None,
    ) -> Tensor:
        """Take in one step's groups and move on to the next step.

        Args:
            rows: long [V], distinct.
            solved: [V], within 0..trials.
            trials: long [V]; 0 conditions on nothing.
            step: the training step that the rollouts belong to; the coming one if left out. A later one first lets
                the steps between pass. An earlier one is a late observation: the history of its prompts is filtered
                again, exactly, and the clock stays.
            predicted: [V], the chances of a useful group predicted at selection, for the log.
            trained: bool [V], whether the policy was updated on the group; wherever there were rollouts if left out.
            progress: the policy's overall progress before the step; the last known if left out. Not of a late
                observation: the steps that followed knew nothing of it.
            useful: bool [V], whether the group was useful, for the log; what its sum says of it if left out.

        Returns:
            [V], `log p(y_t | y_<t)`; of a late observation given what had come before step t when it was made.
        """
        at = self.step if step is None else step
        trained = trials > 0 if trained is None else trained
        useful = useful_by_sum(solved, trials, self.tolerance) if useful is None else useful
        columns: dict[str, Any] = {"solved": solved, "trials": trials, "predicted": predicted, "trained": trained}
        record = partial(self.history.append, rows, step=at, useful=useful, **columns)
        if at < self.step and len(rows) == 0:
            return torch.zeros(0, dtype=self.dtype)
        if at < self.step:
            theta = self._parameters(rows)
            before = self._replay(rows, theta, until=at)
            now = Groups(torch.arange(len(rows)), rows, solved, trials)
            evidence = self._advance(before, now, Step(trials, trained, self._progress()), theta)[1]
            record()
            again = self._replay(rows, theta, until=self.step)
            self._state = {name: value.index_copy(0, rows, again[name]) for name, value in self._state.items()}
            return evidence
        state, nobody = self._state, torch.zeros(self.num_prompts, dtype=torch.long)
        for _ in range(self.step, at):
            idle = Step(nobody, nobody.bool(), self._progress())
            state, _ = self._advance(state, _nothing(rows, solved, trials), idle, self._theta)
        self._known = self._known if progress is None else progress
        seen = nobody.index_copy(0, rows, trials)
        everywhere = Step(seen, nobody.bool().index_copy(0, rows, trained), self._progress())
        state, evidence = self._advance(state, Groups(rows, rows, solved, trials), everywhere, self._theta)
        record(progress=progress)
        self._state, self.step = state, at + 1
        return evidence

    def add(self, prompts: int | Sequence[str], features: Features | None = None) -> None:
        """Track more prompts, as unvisited ones that have been there from the first step.

        Args:
            prompts: their number, or their ids where the history has ids.
            features: theirs, where the history has features.

        Raises:
            ValueError: there are parameters of each prompt's own, which know nothing of new prompts; the ids are not
                new, or the features not those of the prompts before.
        """
        old = self.num_prompts
        self.num_prompts += prompts if isinstance(prompts, int) else len(prompts)
        try:
            theta = self._parameters(None)
            self.history.add(prompts, features)
        except ValueError:
            self.num_prompts = old
            raise
        self._theta = theta
        new = torch.arange(old, self.num_prompts)
        fresh = self._replay(new, self._parameters(new), until=self.step) if len(new) else {}
        self._state = {name: torch.cat([value, fresh.get(name, value[:0])]) for name, value in self._state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a filter of the same model and size needs to go on, tensors and numbers."""
        return {
            "filter": dict(self._state),
            "history": self.history.state_dict(),
            "step": self.step,
            "progress": self._known,
            "num_prompts": self.num_prompts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: it belongs to another kind of model or number of prompts, or is none.
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
        step, known = int(state["step"]), float(state["progress"])
        self.history.load_state_dict(state["history"])
        self.step, self._known = step, known
        self._state = {name: value.to(self._state[name].dtype) for name, value in saved.items()}

    def _replay(self, rows: Tensor, theta: Any, until: int) -> State:
        """The state of `rows` [V], at least one, before step `until`, filtered anew from the history."""
        state = self._start(len(rows), theta)
        prompt, at, solved, trials, _, trained, *_ = self.history.rows(rows)
        progress = self.history.progress().to(self.dtype)
        progress = torch.cat([progress, progress.new_full([max(0, until - len(progress))], self._known)])
        for t in range(until):
            now = (at == t).nonzero().squeeze(-1)
            sizes = torch.zeros(len(rows), dtype=torch.long).index_add(0, prompt[now], trials[now])
            counts = torch.zeros(len(rows), dtype=torch.float64).index_add(0, prompt[now], solved[now])
            updated = torch.zeros(len(rows), dtype=torch.bool)
            updated[prompt[now][trained[now]]] = True
            seen = sizes.nonzero().squeeze(-1)
            groups = Groups(seen, rows[seen], counts[seen], sizes[seen])
            state, _ = self._advance(state, groups, Step(sizes, updated, progress[t : t + 1]), theta)
        return state

    def _progress(self) -> Tensor:
        return torch.tensor([self._known], dtype=self.dtype)


def _nothing(rows: Tensor, solved: Tensor, trials: Tensor) -> Groups:
    return Groups(rows[:0], rows[:0], solved[:0], trials[:0])


@runtime_checkable
class Predictor(Protocol):
    """A model that brings a filter of its own, such as one that learns while it filters (`PaperDPS`), or one that is
    no hidden Markov model at all (`BetaBernoulli`)."""

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the belief's columns, from unsolved to solved."""
        ...

    def tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> Filter:
        """The filter of `num_prompts` prompts.

        Raises:
            ValueError: there are `values` of a fit, and it takes none.
        """
        ...
