r"""Single-stream policy optimization's value tracker (SPO, arXiv 2509.13232): a Beta that forgets by how far the policy
has moved.

    rho   = clip(2^(-D / D_half), least, most)       D: how far the policy has moved since the prompt's last rollout
    alpha <- rho alpha + s                            s of the group's n rollouts solved the prompt
    beta  <- rho beta  + n - s

and the tracked value is v = alpha / (alpha + beta). SPO takes one rollout per prompt, the value for a baseline, and
advantages normalised over the batch, and draws prompts with weights sqrt(v (1 - v)) + 0.05:

    dynamics: SPO, acquisition: priority, group_size: 1, baseline: belief, baseline_scale: batch

From the authors' code (github.com/verl-project/verl-recipe, spo/spo_ray_trainer.py): D_half = 0.06, most = 0.96, the
start at alpha = beta = 1/2 where no values were estimated offline, D = 0 for a prompt's first rollout, and the weights.
Their D is the mean absolute change of the log-probabilities of the prompt's last completion, measured with an extra
forward pass. Assumed here: D, which is not measured, grows by `drift` nats per token in each step; and least = 0.875,
which a configuration of theirs sets that was not read.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dps_pyro.dynamics.step import Step
from dps_pyro.models.selectors.counts import CountingFilter, group_size, no_values
from dps_pyro.support import checks
from dps_pyro.tracking.groups import Groups, State
from dps_pyro.tracking.predictor import Filter
from dps_pyro.tracking.rates import BetaRates

__all__ = ["SPO"]


class SPO:
    """A Beta posterior of each prompt's success rate, which forgets by the age of what it knows.

    Args:
        drift: how far the policy moves in a step, in nats per token, at least 0.
        half: the distance after which half of the counts is forgotten, above 0.
        keep: the least and the most that is kept of the counts when the next group comes, in [0, 1].
        start: alpha and beta of a prompt never seen, above 0.
        trials: the group size that the beliefs speak of.
    """

    states: tuple[str, ...] = CountingFilter.states

    def __init__(
        self,
        drift: float = 0.001,
        half: float = 0.06,
        keep: tuple[float, float] = (0.875, 0.96),
        start: tuple[float, float] = (0.5, 0.5),
        trials: int = 8,
    ) -> None:
        self.drift = checks.positive("drift", drift, or_zero=True)
        self.half = checks.positive("half", half)
        least, most = (checks.positive("keep", value, or_zero=True) for value in keep)
        if not least <= most <= 1:
            raise ValueError(f"keep: expected 0 <= least <= most <= 1, got {keep}")
        self.keep = (least, most)
        self.start = (checks.positive("start", start[0]), checks.positive("start", start[1]))
        self.trials = group_size(trials)

    def tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> Filter:
        """The tracker of `num_prompts` prompts.

        Raises:
            ValueError: there are `values`: nothing is fitted.
        """
        no_values("SPO", values)
        return _Values(self, num_prompts, dtype)


class _Values(CountingFilter):
    """Alpha and beta [N], and the steps since each prompt's last rollout [N], -1 where there was none yet."""

    def __init__(self, model: SPO, num_prompts: int, dtype: torch.dtype | None) -> None:
        self.model = model
        super().__init__(num_prompts, model.trials, dtype)

    def rates(self) -> BetaRates:
        return BetaRates(self._state["alpha"].double(), self._state["beta"].double())

    def _start(self, num_rows: int, theta: None) -> State:
        alpha, beta = (torch.full((num_rows,), value, dtype=self.dtype) for value in self.model.start)
        return {"alpha": alpha, "beta": beta, "age": torch.full_like(alpha, -1)}

    def _advance(self, state: State, groups: Groups, step: Step, theta: None) -> tuple[State, Tensor]:
        alpha, beta, age = (state[name][groups.at].double() for name in ("alpha", "beta", "age"))
        evidence = self._log_evidence(BetaRates(alpha, beta), groups.solved, groups.trials)
        came = groups.trials > 0
        kept = (2 ** (-self.model.drift * age.clamp_min(0) / self.model.half)).clamp(*self.model.keep)
        found = {
            "alpha": torch.where(came, kept * alpha + groups.solved, alpha),
            "beta": torch.where(came, kept * beta + groups.trials - groups.solved, beta),
            "age": torch.where(came, 0.0, age),
        }
        after = {name: value.index_copy(0, groups.at, found[name].to(value.dtype)) for name, value in state.items()}
        return {**after, "age": after["age"] + (after["age"] >= 0)}, evidence
