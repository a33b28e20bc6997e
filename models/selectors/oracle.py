"""An oracle: it is told how often each prompt is solved now, from rollouts that nobody counts.

No selector can have this. It bounds what prediction can bring at all: what is left between it and dynamic sampling is
chance, what is left between it and a model is for better models to gain. `dps-pyro train` tells it before each choice,
or every few steps (`oracle_rollouts`, `oracle_every`), which takes rollouts of every prompt and is slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dps_pyro.dynamics.step import Step
from dps_pyro.models.selectors.counts import CountingFilter, group_size, no_values
from dps_pyro.support import checks
from dps_pyro.tracking.groups import Groups, State
from dps_pyro.tracking.rates import BetaRates

__all__ = ["Oracle", "OracleFilter"]


class Oracle:
    """Success rates from counts that the tracker is told.

    Args:
        prior: (alpha, beta), above 0, to which the counts are added. With a few dozen rollouts it hardly matters.
        trials: the group size that the beliefs speak of.
    """

    states: tuple[str, ...] = CountingFilter.states

    def __init__(self, prior: Sequence[float] = (0.25, 0.25), trials: int = 8) -> None:
        self.prior = (checks.positive("prior", prior[0]), checks.positive("prior", prior[1]))
        self.trials = group_size(trials)

    def tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> OracleFilter:
        """The tracker of `num_prompts` prompts; `tell` it.

        Raises:
            ValueError: there are `values`: nothing is fitted.
        """
        no_values("Oracle", values)
        return OracleFilter(self, num_prompts, dtype)


class OracleFilter(CountingFilter):
    """The counts last told, [N] each. What is observed teaches it nothing: it knows better."""

    def __init__(self, model: Oracle, num_prompts: int, dtype: torch.dtype | None) -> None:
        self.model = model
        super().__init__(num_prompts, model.trials, dtype)

    def tell(self, rows: Tensor, solved: Tensor, trials: Tensor) -> None:
        """How many of how many uncounted rollouts of the prompts `rows` [V] were right; in place of what was told
        before."""
        for name, count in (("solved", solved), ("failed", trials - solved)):
            self._state[name] = self._state[name].index_copy(0, rows, count.to(self.dtype))

    def rates(self) -> BetaRates:
        """The Beta law after what was told."""
        return self._law(self._state)

    def _law(self, state: State) -> BetaRates:
        alpha, beta = self.model.prior
        return BetaRates(alpha + state["solved"].double(), beta + state["failed"].double())

    def _start(self, num_rows: int, theta: None) -> State:
        return {name: torch.zeros(num_rows, dtype=self.dtype) for name in ("solved", "failed")}

    def _advance(self, state: State, groups: Groups, step: Step, theta: None) -> tuple[State, Tensor]:
        return state, self._log_evidence(self._law(state).of(groups.at), groups.solved, groups.trials)
