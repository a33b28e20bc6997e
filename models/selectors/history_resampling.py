"""History resampling: leave out of the next epoch what was all right in this one (SRPO, arXiv 2504.14286, section 3.2).

Training goes through the prompts in epochs, each in a random order. At the end of an epoch the prompts whose rollouts
were all correct are dropped ("too easy"); the mixed and the all wrong ones are kept. The DPS paper compares with it.

Assumed, as no code was published: a prompt that was dropped stays dropped, since it gets no rollouts that could bring
it back, until none are left, and then all are back. Use it with `acquisition="top"`: `informative` is 1 for the prompts
that are still to come in this epoch, 1/2 for those that were, and 0 for those that were dropped.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dps_pyro.dynamics.step import Step
from dps_pyro.models.selectors.counts import CountingFilter, group_size, no_values
from dps_pyro.tracking.groups import Groups, State
from dps_pyro.tracking.predictor import Filter
from dps_pyro.tracking.rates import BetaRates

__all__ = ["HistoryResampling"]


class HistoryResampling:
    """Epochs without what was mastered in the one before.

    Args:
        trials: the group size that the beliefs speak of, which are those of the last group's counts under a flat prior.
    """

    states: tuple[str, ...] = CountingFilter.states

    def __init__(self, trials: int = 8) -> None:
        self.trials = group_size(trials)

    def tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> Filter:
        """The tracker of `num_prompts` prompts.

        Raises:
            ValueError: there are `values`: nothing is fitted.
        """
        no_values("HistoryResampling", values)
        return _Epochs(num_prompts, self.trials, dtype)


class _Epochs(CountingFilter):
    """Whether each prompt is kept, was seen in this epoch, and was all right; its last group's counts."""

    def rates(self) -> BetaRates:
        return BetaRates(self._state["solved"].double() + 1, self._state["failed"].double() + 1)

    def informative(self, trials: int) -> Tensor:
        """[N], 1 for what is still to come in this epoch, 1/2 for what was, 0 for what was dropped."""
        still = torch.where(self._state["seen"], 0.5, 1.0)
        return torch.where(self._state["kept"], still, 0.0).to(self.dtype)

    def learn(self, rows: Tensor, solved: Tensor, trials: Tensor) -> None:
        kept, seen, easy = (self._state[name] for name in ("kept", "seen", "easy"))
        if bool((seen | ~kept).all()):
            left = kept & ~easy
            self._state["kept"] = left if bool(left.any()) else torch.ones_like(kept)
            self._state["seen"] = torch.zeros_like(seen)

    def _start(self, num_rows: int, theta: None) -> State:
        no, zero = torch.zeros(num_rows, dtype=torch.bool), torch.zeros(num_rows, dtype=self.dtype)
        return {"kept": ~no, "seen": no.clone(), "easy": no.clone(), "solved": zero.clone(), "failed": zero.clone()}

    def _advance(self, state: State, groups: Groups, step: Step, theta: None) -> tuple[State, Tensor]:
        law = BetaRates(*(state[name][groups.at].double() + 1 for name in ("solved", "failed")))
        came = groups.trials > 0
        at, solved, trials = groups.at[came], groups.solved[came], groups.trials[came]
        failed = trials - solved
        found = {"seen": torch.ones_like(came[came]), "easy": failed == 0, "solved": solved, "failed": failed}
        after = {name: state[name].index_copy(0, at, value.to(state[name].dtype)) for name, value in found.items()}
        return {**state, **after}, self._log_evidence(law, groups.solved, groups.trials)
