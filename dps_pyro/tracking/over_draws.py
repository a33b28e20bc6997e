"""The exact filter at several draws of the parameters side by side, instead of at one point.

A filter that runs at a posterior's mean treats the parameters as known. This one runs at S draws of the parameters,
exactly at each, and returns averages over the draws. A draw's weight is how well it has predicted this run's groups:

    w_s ∝ p(y_<t | theta_s)        p(z_t | y_<t) = sum_s w_s p(z_t | y_<t, theta_s)        w_s = 1 / S at the start

This is Bayes' rule with a prior that gives each draw the same weight. A draw has the parameters of all prompts, so a
weight is shared by all prompts, too. After many groups one draw may have nearly all of the weight. The average is then
the belief at that draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.forward import condition, predict
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks
from dps_pyro.support.devices import on_device
from dps_pyro.support.places import placed
from dps_pyro.tracking.groups import Groups, State
from dps_pyro.tracking.rates import Mixture
from dps_pyro.tracking.tracker import Tracker

__all__ = ["TrackerOverDraws", "spread_out"]


class TrackerOverDraws(Tracker):
    """The exact filter over N prompts, averaged over S draws of the parameters. A step costs S times a `Tracker`'s.

    Args:
        dynamics: the model.
        num_prompts: N.
        values: site name -> [S, ...], such as a few of `posterior.draws` (`spread_out` picks them); sites that are left
            out have their prior means.
        dtype: the dtype of the beliefs. The default is torch's.
        device: where beliefs lie and are computed; see `Tracker`.

    Raises:
        ValueError: the model brings a filter of its own, `values` do not belong to it, or sites differ in the number of
            draws.
    """

    def __init__(
        self,
        dynamics: Dynamics[Any],
        num_prompts: int,
        *,
        values: Mapping[str, Tensor],
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.ways = (_number(values),)
        super().__init__(dynamics, num_prompts, values=values, dtype=dtype, device=device)
        with on_device(self.device):
            self._log_weights = self._even()

    @property
    @placed
    def weights(self) -> Tensor:
        """float64 [S], the weight of each draw given all groups so far; weights sum to 1."""
        return self._log_weights.exp()

    @property
    @placed
    def belief(self) -> Tensor:
        """[N, K], `p(z_t | y_<t)` for the coming step t, averaged over the draws."""
        return torch.einsum("nsk,s->nk", self._state["belief"], self.weights.to(self.dtype))

    @placed
    def informative(self, trials: int) -> Tensor:
        """[N], the predictive chance that a group of `trials` rollouts is useful, averaged over the draws."""
        return self._mean([self._informative(theta, belief, trials) for theta, belief in self._each()])

    @placed
    def progress(self, trials: int) -> Tensor:
        """[N], see `Tracker`; averaged over the draws."""
        return self._mean([self._progress(theta, belief, trials) for theta, belief in self._each()])

    @placed
    def rates(self) -> Mixture:
        """The mean rewards of one rollout in each state at each draw, weighted by belief and draw; see `Tracker`."""
        joint = self._state["belief"] * self.weights.to(self.dtype).unsqueeze(-1)
        return Mixture.of_states(self._every_mean().flatten(1), joint.flatten(1))

    @placed
    def expected(self, rows: Tensor, solved: Tensor, trials: Tensor) -> Tensor:
        """See `Tracker`; the draws are weighted anew by the other rollouts of each prompt."""
        groups = Groups(torch.arange(len(rows)), rows, solved, trials, trials > 0)
        step = self._step(torch.tensor([0])).at(rows).replace(trials=trials)
        conditioned = condition(self._state["belief"][rows], self._log_likelihood(groups, step))
        weights = (self._log_weights + conditioned.log_evidence).softmax(-1)
        weights = torch.where(weights.isnan(), self.weights, weights)  # impossible at every draw
        means = self._every_mean()
        by_draw = (conditioned.belief * (means if len(means) == 1 else means[rows])).sum(-1)
        return (weights * by_draw).sum(-1)

    @placed
    def draw(self, generator: torch.Generator) -> Tensor:
        """[N], the success rate in a state drawn from each prompt's belief at one draw of the parameters. That draw is
        chosen by weight, and is the same for all prompts."""
        at = int(torch.multinomial(self.weights.to(generator.device), 1, generator=generator))
        return self._draw(self._means(self._theta[at]), self._state["belief"][:, at], generator)

    @placed
    def observe(self, rows: Tensor, *groups: Any, **told: Any) -> Tensor:
        """See `Tracker`. The scores [V] of one call are those of its groups one after the other: the score of a group
        is conditional on the groups before it in the call, because they, too, change the weights of the draws. A group
        that is impossible at every draw does not change the weights."""
        by_draw = super().observe(rows, *groups, **told).double()
        together = self._log_weights + by_draw.cumsum(0)
        sofar = together.logsumexp(-1)
        if bool(sofar.isfinite().all()):
            if len(sofar):
                self._log_weights = together[-1] - sofar[-1]
            return sofar.diff(prepend=sofar.new_zeros(1)).to(self.dtype)
        return torch.stack([self._weigh(one) for one in by_draw]).to(self.dtype)

    @placed
    def refilter(self, values: Mapping[str, Tensor]) -> None:
        """Filter the whole history again at other draws, [S, ...] per site. The result, with its weights, is exactly
        that of a filter that had these draws from the first step.

        Raises:
            ValueError: `values` do not belong to the model, or have another number of draws. The filter is left
                unchanged.
        """
        if _number(values) != self.ways[0]:
            raise ValueError(f"values: expected {self.ways[0]} draws, got {_number(values)}")
        super().refilter(values)
        self._log_weights = self._even()
        every = self._replay(torch.arange(self.num_prompts), self._theta, until=self.step).score
        for one in torch.where(every.impossible > 0, float("-inf"), every.possible).double():
            self._weigh(one)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a filter of the same model and size needs to continue, as tensors and numbers."""
        return {**super().state_dict(), "log_weights": self._log_weights.to("cpu", copy=True)}

    @placed
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: the state belongs to another kind of model or number of prompts or draws, or is no state of a
                filter.
        """
        weights = checks.instance("state", state, Mapping).get("log_weights")
        if not isinstance(weights, Tensor) or weights.shape != self.ways:
            raise ValueError(f"state: expected log_weights of {self.ways[0]} draws, got {weights}")
        super().load_state_dict(state)
        self._log_weights = weights.double()

    # ------------------------------------------------------------------------------------------------- the filter

    def _parameters(self, rows: Tensor | None) -> list[Any]:
        """The parameters at each draw."""
        draws = ({name: value[at] for name, value in self._values.items()} for at in range(*self.ways))
        return [self.dynamics.parameters(self.num_prompts, values, rows) for values in draws]

    def _start(self, num_rows: int, theta: list[Any]) -> State:
        return {
            "belief": torch.stack([super(TrackerOverDraws, self)._start(num_rows, at)["belief"] for at in theta], 1)
        }

    def _move(self, state: State, at: Tensor, posterior: Tensor, step: Step, theta: list[Any]) -> State:
        belief = state["belief"].index_copy(0, at, posterior)
        moved = [predict(belief[:, draw], self.laws(one).moves(step)) for draw, one in enumerate(theta)]
        return {"belief": torch.stack(moved, 1)}

    def _log_likelihood(self, groups: Groups, step: Step) -> Tensor:
        """[V, S, K]."""
        if len(groups.at) == 0:
            return self._state["belief"][:0]
        return torch.stack([self._shown(theta, groups, step) for theta in self._parameters(groups.prompts)], 1)

    def _weigh(self, by_draw: Tensor) -> Tensor:
        """Weigh the draws by log-probabilities [S], and return the log-probability under all of them together."""
        together = self._log_weights + by_draw
        sofar = together.logsumexp(-1)
        if bool(sofar.isfinite()):
            self._log_weights = together - sofar
        return sofar

    def _each(self) -> list[tuple[Any, Tensor]]:
        """The parameters and the beliefs [N, K] at each draw."""
        return list(zip(self._theta, self._state["belief"].unbind(1), strict=True))

    def _mean(self, by_draw: list[Tensor]) -> Tensor:
        return torch.stack(by_draw, -1) @ self.weights.to(self.dtype)

    def _every_mean(self) -> Tensor:
        """[N or 1, S, K], the mean reward of one rollout in each state at each draw."""
        return torch.stack([self._means(theta) for theta in self._theta], 1)

    def _even(self) -> Tensor:
        return torch.full(self.ways, 1 / self.ways[0], dtype=torch.float64).log()


def spread_out(draws: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Take `count` of a posterior's draws, site name -> [count, ...], evenly spread over them, because successive draws
    of a chain are alike.

    Raises:
        ValueError: the posterior has fewer draws.
    """
    number = _number(draws)
    if number < count:
        raise ValueError(f"posterior_draws: expected at most the {number} draws that the posterior has, got {count}")
    at = torch.linspace(0, number - 1, count).round().long()
    return {name: value[at] for name, value in draws.items()}


def _number(values: Mapping[str, Tensor]) -> int:
    """The number of draws."""
    numbers = {len(value) if value.ndim else 0 for value in values.values()}
    if len(numbers) != 1 or 0 in numbers:
        raise ValueError(f"values: expected the same number of draws of each site, at least one, got {sorted(numbers)}")
    return numbers.pop()
