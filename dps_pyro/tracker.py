"""Every prompt's belief, online: condition the prompts that were rolled out, let all of them move on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dps_pyro import checks
from dps_pyro.dynamics import Dynamics, Step, condition, predict, unchecked
from dps_pyro.history import Features, RolloutHistory

__all__ = ["State", "Tracker", "filters_itself"]

State = dict[str, Tensor]
"""What the filter carries from step to step, rows first. "belief" [N, K] is always there."""


def filters_itself(dynamics: Dynamics[Any]) -> bool:
    """Whether a model brings a filter of its own, one that learns while it filters (`PaperDPS`)."""
    return type(dynamics).tracker is not Dynamics.tracker


class Tracker:
    """The exact filter over N prompts.

    Args:
        dynamics: the model.
        num_prompts: N.
        values: site name -> value, such as `Posterior.point`; sites left out stand at their prior means.
        dtype: of the beliefs; torch's default if left out.

    Rows are 0..N-1. What is observed is taken as valid: `PromptSampler` checks what users hand in.

    Raises:
        ValueError: the model brings a filter of its own (`dynamics.tracker(N)` makes it), or `values` are not its.
    """

    def __init__(
        self,
        dynamics: Dynamics[Any],
        num_prompts: int,
        *,
        values: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if filters_itself(checks.instance("dynamics", dynamics, Dynamics)) and type(self) is Tracker:
            made = f"{type(dynamics).__name__} brings a filter of its own: use dynamics.tracker({num_prompts})"
            raise ValueError(f"dynamics: expected a model that this filter runs, but {made}")
        self.dynamics = dynamics
        self.num_prompts = num_prompts
        self.dtype = dtype or torch.get_default_dtype()
        self.step = 0
        """The coming training step."""
        self.history = RolloutHistory(num_prompts)
        self._known = 0.0  # the policy's overall progress
        self._values = dict(values or {})
        self._theta = dynamics.parameters(num_prompts, self._values)
        self._state = self._start(num_prompts, self._theta)

    @property
    def belief(self) -> Tensor:
        """[N, K], `p(z_t | y_<t)` for the coming step t. The filter's own tensor, not a copy: read it only."""
        return self._state["belief"]

    def informative(self, trials: int, rows: Tensor | None = None) -> Tensor:
        """[N], the predictive chance that a group of `trials` rollouts is neither all wrong nor all right."""
        theta = self._theta if rows is None else self.dynamics.parameters(self.num_prompts, self._values, rows)
        by_state = self.dynamics.informative(theta, Step(torch.tensor([trials]))).to(self.dtype)
        belief = self.belief if rows is None else self.belief[rows]
        return belief @ by_state[0] if by_state.shape[0] == 1 else (belief * by_state).sum(-1)

    def observe(
        self,
        rows: Tensor,
        solved: Tensor,
        trials: Tensor,
        step: int | None = None,
        predicted: Tensor | None = None,
        trained: Tensor | None = None,
        progress: float | None = None,
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

        Returns:
            [V], `log p(y_t | y_<t)`; of a late observation given what had come before step t when it was made.
        """
        at = self.step if step is None else step
        trained = trials > 0 if trained is None else trained
        columns = {"solved": solved, "trials": trials, "predicted": predicted, "trained": trained}
        if at < self.step:
            before = self._replay(rows, until=at)["belief"]
            conditioned = condition(before, self._log_likelihood(rows, solved, trials))
            self.history.append(rows, step=at, **columns)
            again = self._replay(rows, until=self.step)
            self._state = {name: value.index_copy(0, rows, again[name]) for name, value in self._state.items()}
            return conditioned.log_evidence
        state, nobody = self._state, torch.zeros(self.num_prompts, dtype=torch.long)
        for _ in range(self.step, at):
            idle = Step(nobody, nobody.bool(), self._progress())
            state = self._advance(state, rows[:0], state["belief"][:0], idle, self._theta)
        conditioned = condition(state["belief"][rows], self._log_likelihood(rows, solved, trials))
        visited = trials > 0
        self._known = self._known if progress is None else progress
        everywhere = Step(
            nobody.index_copy(0, rows, trials), nobody.bool().index_copy(0, rows, trained), self._progress()
        )
        state = self._advance(state, rows[visited], conditioned.belief[visited], everywhere, self._theta)
        self.history.append(rows, step=at, **columns, progress=progress)
        self._state, self.step = state, at + 1
        return conditioned.log_evidence

    def add(self, prompts: int | Sequence[str], features: Features | None = None) -> None:
        """Track more prompts, as unvisited ones that have been there from the first step.

        Args:
            prompts: their number, or their ids where the history has ids.
            features: theirs, where the history has features.

        Raises:
            ValueError: `values` holds per-prompt sites, which know nothing of new prompts; or the ids are not new.
        """
        old = self.num_prompts
        new = old + (prompts if isinstance(prompts, int) else len(prompts))
        theta = self.dynamics.parameters(new, self._values)
        self.history.add(prompts, features)
        self.num_prompts, self._theta = new, theta
        fresh = self._replay(torch.arange(old, self.num_prompts), until=self.step)
        self._state = {name: torch.cat([value, fresh[name]]) for name, value in self._state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a filter of the same model and size needs to go on, tensors and numbers."""
        return {
            "filter": dict(self._state),
            "values": dict(self._values),
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
        _expect(state, "filter", "values", "history", "step", "progress")
        saved = checks.instance("state", state["filter"], Mapping)
        shapes = {name: tuple(value.shape) for name, value in self._state.items()}
        came = {name: tuple(checks.instance("state", value, Tensor).shape) for name, value in saved.items()}
        if shapes != came:
            raise ValueError(f"state: expected a filter of shapes {shapes}, got {came}")
        theta = self.dynamics.parameters(self.num_prompts, state["values"])
        step = int(state["step"])
        self.history.load_state_dict(state["history"])
        self._values, self._theta, self.step = dict(state["values"]), theta, step
        self._known = float(state["progress"])
        self._state = {name: value.to(self.dtype) for name, value in saved.items()}

    # ------------------------------------------------------------------------------------------------- the filter

    def _start(self, num_rows: int, theta: Any) -> State:
        """The carried state before the first step."""
        initial = self.dynamics.initial(theta).probs.to(self.dtype)
        return {"belief": initial.expand(num_rows, initial.shape[-1]).clone()}

    def _advance(self, state: State, rows: Tensor, posterior: Tensor, step: Step, theta: Any) -> State:
        """One step: `rows` [V] of the state now have `posterior` [V, K]; all of it moves on."""
        belief = state["belief"].index_copy(0, rows, posterior)
        return {"belief": predict(belief, self.dynamics.transition(theta, step).probs.to(self.dtype))}

    def _log_likelihood(self, rows: Tensor, solved: Tensor, trials: Tensor) -> Tensor:
        """[V, K], `log p(y_t | z_t)`; zeros where there were no rollouts."""
        if len(rows) == 0:  # no plate in Pyro may be empty
            return self.belief[:0]
        theta = self.dynamics.parameters(self.num_prompts, self._values, rows)
        law = unchecked(self.dynamics.emission(theta, Step(trials)))
        outcome = solved.to(self.dtype).unsqueeze(-1)
        return torch.where(trials.unsqueeze(-1) > 0, law.log_prob(outcome), 0.0).to(self.dtype)

    def _replay(self, rows: Tensor, until: int) -> State:
        """The state of `rows` [V] before step `until`, filtered anew from the history."""
        if len(rows) == 0:  # no plate in Pyro may be empty
            return {name: value[:0] for name, value in self._state.items()}
        theta = self.dynamics.parameters(self.num_prompts, self._values, rows)
        state = self._start(len(rows), theta)
        prompt, at, solved, trials, _, trained, _ = self.history.rows(rows)
        progress = self.history.progress().to(self.dtype)
        progress = torch.cat([progress, progress.new_full([max(0, until - len(progress))], self._known)])
        for t in range(until):
            now = (at == t).nonzero().squeeze(-1)
            everywhere = torch.zeros(len(rows), dtype=torch.long).index_add(0, prompt[now], trials[now])
            counts = torch.zeros(len(rows), dtype=torch.float64).index_add(0, prompt[now], solved[now])
            updated = torch.zeros(len(rows), dtype=torch.bool)
            updated[prompt[now][trained[now]]] = True
            seen = everywhere.nonzero().squeeze(-1)
            likelihood = self._log_likelihood(rows[seen], counts[seen], everywhere[seen])
            posterior = condition(state["belief"][seen], likelihood).belief
            state = self._advance(state, seen, posterior, Step(everywhere, updated, progress[t : t + 1]), theta)
        return state

    def _progress(self) -> Tensor:
        return torch.tensor([self._known], dtype=self.dtype)


def _expect(state: Any, *names: str) -> None:
    missing = [name for name in names if name not in checks.instance("state", state, Mapping)]
    if missing:
        raise ValueError(f"state: expected {', '.join(names)}, got none of {', '.join(missing)}")
