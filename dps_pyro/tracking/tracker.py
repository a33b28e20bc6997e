"""The exact filter: it conditions the prompts that were rolled out, and moves all prompts on to the next step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.forward import condition, predict, prompt_by_prompt
from dps_pyro.dynamics.laws import unchecked
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks
from dps_pyro.support.devices import device_of, moved
from dps_pyro.support.places import placed, put
from dps_pyro.tracking.groups import Groups, State
from dps_pyro.tracking.laws import Laws
from dps_pyro.tracking.predictor import Filter, Predictor
from dps_pyro.tracking.rates import Mixture

__all__ = ["Tracker", "fitted_part", "is_fitted", "track"]


def is_fitted(dynamics: Dynamics[Any] | Predictor) -> TypeGuard[Dynamics[Any]]:
    """Whether a model is fitted to logs and then filtered; other models bring a filter of their own."""
    return isinstance(dynamics, Dynamics) and not isinstance(dynamics, Predictor)


def fitted_part(dynamics: Dynamics[Any] | Predictor) -> Dynamics[Any] | None:
    """The dynamics model whose parameters a fit learns: the model itself, or the model with which it filters (its
    attribute `dynamics`, as `Siblings` has). None for a model that learns while it filters."""
    if is_fitted(dynamics):
        return dynamics
    part = getattr(dynamics, "dynamics", None)
    return part if isinstance(part, Dynamics) and is_fitted(part) else None


def track(
    dynamics: Dynamics[Any] | Predictor,
    num_prompts: int,
    *,
    values: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Filter:
    """Make the online filter of `num_prompts` prompts at the given site values: a `Tracker`, or the model's own filter.

    Raises:
        ValueError: `dynamics` is no model, `values` do not belong to it, this machine does not have the device, or the
            model brings a filter of its own that computes on the CPU alone.
    """
    if isinstance(dynamics, type) or not isinstance(dynamics, Predictor):
        model: Any = dynamics
        model = checks.instance("dynamics", model, Dynamics)
        return Tracker(model, num_prompts, values=values, dtype=dtype, device=device)
    if device is None:
        return dynamics.tracker(num_prompts, values=values, dtype=dtype)
    made: Any = dynamics.tracker
    if "device" not in inspect.signature(made).parameters:
        name = type(dynamics).__name__
        raise ValueError(f"device: expected None for {name}, whose own filter computes on the CPU, got {device!r}")
    found: Filter = made(num_prompts, values=values, dtype=dtype, device=device)
    return found


class Tracker(Filter):
    """The exact filter over N prompts.

    Args:
        dynamics: the model.
        num_prompts: N.
        values: site name -> value, such as `Posterior.point`. Sites that are left out have their prior means.
        dtype: the dtype of the beliefs. The default is torch's.
        device: where beliefs lie and are computed, such as "cuda". The log, and what the methods take and return, lie
            on the CPU. The filter works on a copy of the model there. The default is the CPU.

    Raises:
        ValueError: the model brings a filter of its own (`track(dynamics, N)` makes it), `values` do not belong to it,
            or this machine does not have the device.
    """

    _laws: Laws | None = None  # at the filter's own parameters

    def __init__(
        self,
        dynamics: Dynamics[Any],
        num_prompts: int,
        *,
        values: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        checks.instance("dynamics", dynamics, Dynamics)
        if type(self) is Tracker and not is_fitted(dynamics):
            made = f"{type(dynamics).__name__} brings a filter of its own: use track(dynamics, {num_prompts})"
            raise ValueError(f"dynamics: expected a model that this filter runs, but {made}")
        place = device_of(device)
        self.dynamics = moved(dynamics, place)
        self.states, self.tolerance = dynamics.states, dynamics.tolerance
        self._values = moved(dict(values or {}), place)
        super().__init__(num_prompts, dtype or torch.get_default_dtype(), place)

    @property
    @placed
    def belief(self) -> Tensor:
        """[N, K], `p(z_t | y_<t)` for the coming step t. On the CPU it is the filter's own tensor, not a copy: read it
        only."""
        return self._state["belief"]

    @placed
    def informative(self, trials: int) -> Tensor:
        """[N], the predictive chance under the model that a group of `trials` rollouts is useful."""
        return self._informative(self._theta, self.belief, trials)

    def _informative(self, theta: Any, belief: Tensor, trials: int) -> Tensor:
        by_state = self.laws(theta).informative(trials, self.coming)
        return belief @ by_state[0] if by_state.shape[0] == 1 else (belief * by_state).sum(-1)

    @placed
    def rates(self) -> Mixture:
        """The states' mean rewards of one rollout, weighted by the belief. With rewards of 0 and 1 these are success
        rates. With graded rewards, the law is that of successes of the same frequency.

        Raises:
            NotImplementedError: the model's emission has no mean.
        """
        return Mixture.of_states(self._means(self._theta), self.belief)

    @placed
    def expected(self, rows: Tensor, solved: Tensor, trials: Tensor) -> Tensor:
        """See `Filter`. The states are weighted by the model's own emission of the sum of the other rewards, so that
        this is exact for rewards of any kind.

        Raises:
            NotImplementedError: the model's emission has no mean.
        """
        groups = Groups(torch.arange(len(rows)), rows, solved, trials, trials > 0)
        step = self._step(torch.tensor([0])).at(rows).replace(trials=trials)
        weights = condition(self.belief[rows], self._log_likelihood(groups, step)).belief
        means = self._means(self._theta)
        return (weights * (means if len(means) == 1 else means[rows])).sum(-1).double()

    @placed
    def draw(self, generator: torch.Generator) -> Tensor:
        """[N], the success rate in a state drawn from each prompt's belief.

        Raises:
            NotImplementedError: the model's emission has no mean.
        """
        return self._draw(self._means(self._theta), self.belief, generator)

    def _draw(self, rates: Tensor, belief: Tensor, generator: torch.Generator) -> Tensor:
        # The noise is the generator's, so that a seed gives the same draws on every device.
        noise = torch.rand(self.num_prompts, 1, generator=generator, dtype=self.dtype, device=generator.device)
        ceiling = noise.to(belief.device)
        state = (belief.cumsum(-1) < ceiling).sum(-1, keepdim=True).clamp_max(belief.shape[-1] - 1)
        drawn: Tensor = rates.expand(self.num_prompts, -1).gather(-1, state).squeeze(-1)
        return drawn

    @placed
    def progress(self, trials: int) -> Tensor:
        """[N], the gain in the expected reward of a rollout in the step after the coming one, if the prompt is rolled
        out `trials` times now and trained on if its group is useful, over leaving it alone:

            sum_k belief_k P(useful | k) sum_j (p(j | k, trained) - p(j | k, not trained)) mean_j

        It is 0 for a model whose transitions do not depend on training, and may be negative.

        Raises:
            NotImplementedError: the model's emission has no mean.
        """
        return self._progress(self._theta, self.belief, trials)

    def _progress(self, theta: Any, belief: Tensor, trials: int) -> Tensor:
        return (belief * self._worth(theta, trials, self._means(theta))).sum(-1)

    @placed
    def refilter(self, values: Mapping[str, Tensor]) -> None:
        """Filter the whole history again at other site values. The result is exactly that of a filter that had these
        values from the first step.

        Raises:
            ValueError: `values` do not belong to the model. The filter is left unchanged.
        """
        before = self._values
        self._values = dict(values)
        try:
            theta = self._parameters(None)
        except ValueError:
            self._values = before
            raise
        self._theta = theta
        self.snapshots.clear()
        self._state = self._replay(torch.arange(self.num_prompts), theta, until=self.step).state

    def state_dict(self) -> dict[str, Any]:
        """Return all that a filter of the same model and size needs to continue, as tensors and numbers."""
        return {**super().state_dict(), "values": put(self._values, torch.device("cpu"))}

    @placed
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: the state belongs to another kind of model or number of prompts, or is no state of a filter.
        """
        if "values" not in checks.instance("state", state, Mapping):
            raise ValueError("state: expected values, as of a Tracker, got none")
        before = self._values, self._theta
        self._values = dict(state["values"])
        try:
            self._theta = self._parameters(None)
            super().load_state_dict(state)
        except ValueError:
            self._values, self._theta = before
            raise

    # ------------------------------------------------------------------------------------------------- the filter

    def laws(self, theta: Any) -> Laws:
        """The model's laws at some parameters. What is kept of them is kept for the filter's own parameters alone."""
        if theta is not self._theta:
            return Laws(self.dynamics, theta, self.dtype)
        if self._laws is None or self._laws.theta is not theta:
            self._laws = Laws(self.dynamics, theta, self.dtype)
        return self._laws

    def _parameters(self, rows: Tensor | None) -> Any:
        return self.dynamics.parameters(self.num_prompts, self._values, rows)

    def _start(self, num_rows: int, theta: Any) -> State:
        initial = self.dynamics.initial(theta).probs.to(self.dtype)
        return {"belief": prompt_by_prompt(initial.expand(num_rows, initial.shape[-1]).clone())}

    def _laid_out(self, state: State) -> State:
        return {name: prompt_by_prompt(value) for name, value in state.items()}

    def _advance(self, state: State, groups: Groups, step: Step, theta: Any) -> tuple[State, Tensor]:
        likelihood = self._log_likelihood(groups, step)
        conditioned = condition(state["belief"][groups.at], likelihood)
        seen = groups.trials > 0
        return self._move(state, groups.at[seen], conditioned.belief[seen], step, theta), conditioned.log_evidence

    def _move(self, state: State, at: Tensor, posterior: Tensor, step: Step, theta: Any) -> State:
        """Take one step: the rows `at` [V] of the state get `posterior` [V, K], and all rows move on."""
        belief = (
            prompt_by_prompt(state["belief"]).clone().index_copy_(0, at, posterior)
        )  # `index_copy` changes the order
        return {"belief": predict(belief, self.laws(theta).moves(step))}

    def _worth(self, theta: Any, trials: int, means: Tensor) -> Tensor:
        """[N or 1, K], `progress` in each state, given the states' mean rewards `means` [N or 1, K]."""
        useful = self.laws(theta).informative(trials, self.coming)
        trained, left = self._step(torch.tensor([trials]), torch.tensor([True])), self.coming(0)
        ahead = [
            (self.dynamics.transition(theta, step).probs.to(self.dtype) @ means.unsqueeze(-1)).squeeze(-1)
            for step in (trained, left)
        ]
        return useful * (ahead[0] - ahead[1])

    def _means(self, theta: Any) -> Tensor:
        """[N or 1, K], the mean reward of one rollout in each state."""
        return self.laws(theta).means(self.coming)

    def _log_likelihood(self, groups: Groups, step: Step) -> Tensor:
        """[V, K], `log p(y_t | z_t)`; 0 for prompts without rollouts. `step` has all rows of the state."""
        if len(groups.at) == 0:  # no plate in Pyro may be empty
            return self.belief[:0]
        known = self.laws(self._theta).shown(groups.solved, groups.trials, groups.trained, step)
        return self._shown(self._parameters(groups.prompts), groups, step) if known is None else known

    def _shown(self, theta: Any, groups: Groups, step: Step) -> Tensor:
        """The same for at least one group, with the parameters of the groups' prompts."""
        law = unchecked(self.dynamics.emission(theta, step.at(groups.at)))
        outcome = groups.solved.to(self.dtype).unsqueeze(-1)
        return torch.where(groups.trials.unsqueeze(-1) > 0, law.log_prob(outcome), 0.0).to(self.dtype)
