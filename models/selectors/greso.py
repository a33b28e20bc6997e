"""GRESO, selective rollouts (arXiv 2506.02177): skip prompts that were useless, the surer the more often in a row.

A prompt whose last z groups were all useless (rewards all equal) is rolled out with chance p^z only: p is `p_easy`
where the last of them was all right and `p_hard` where it was all wrong. After a useful group (z = 0) it is rolled out
for sure. The two adapt: after each step, each falls by `delta` where its kind of useless groups was at least its target
share of the step's groups, and rises by `delta` where it was less.

If prompts come in random order and each is accepted with its chance, the batch is one of `acquisition="thompson"`
with these chances. Use it with that acquisition; `informative` is p^z. Rollouts stop at a batch; the paper also
goes on to fill the batch with useful groups (dynamic sampling, `dynamic_sampling` here), in batches of adaptive size.

From the paper: the rule, the start at 1/2, steps of 0.01, and targets of 8.3 and 16.7 per cent (a quarter in all, 1 to
2); from the authors' code (github.com/Infini-AI-Lab/GRESO): that the two chances are kept apart. Assumed: that they are
kept within 0.01..0.99, since the part of the code that says so was not to be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.step import Step
from dps_pyro.models.selectors.counts import CountingFilter, group_size, no_values
from dps_pyro.support import checks
from dps_pyro.tracking.groups import Groups, State
from dps_pyro.tracking.predictor import Filter
from dps_pyro.tracking.rates import BetaRates

__all__ = ["GRESO"]


class GRESO:
    """Probabilistic skipping by the run of useless groups.

    Args:
        start: the chances p_easy and p_hard at first, in (0, 1).
        targets: the shares of all-right and of all-wrong groups that are aimed at, in (0, 1).
        delta: by how much the chances change a step, in (0, 1).
        trials: the group size that the beliefs speak of, which are those of the last group's counts under a flat prior.
    """

    states: tuple[str, ...] = CountingFilter.states

    def __init__(
        self,
        start: tuple[float, float] = (0.5, 0.5),
        targets: tuple[float, float] = (1 / 12, 1 / 6),
        delta: float = 0.01,
        trials: int = 8,
    ) -> None:
        for name, value in (("start", start), ("targets", targets), ("delta", (delta,))):
            if not all(0 < checks.positive(name, one) < 1 for one in value):
                raise ValueError(f"{name}: expected numbers in (0, 1), got {value}")
        self.start, self.targets, self.delta = (float(start[0]), float(start[1])), tuple(targets), float(delta)
        self.trials = group_size(trials)

    def tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> Filter:
        """The tracker of `num_prompts` prompts.

        Raises:
            ValueError: there are `values`: nothing is fitted.
        """
        no_values("GRESO", values)
        return _Skipping(self, num_prompts, dtype)


class _Skipping(CountingFilter):
    """Each prompt's run of useless groups, long [N], whether the last one was all right, and its counts."""

    def __init__(self, model: GRESO, num_prompts: int, dtype: torch.dtype | None) -> None:
        self.model = model
        self.chances = torch.tensor(model.start, dtype=torch.float64)  # p_easy, p_hard
        super().__init__(num_prompts, model.trials, dtype)

    def rates(self) -> BetaRates:
        return BetaRates(self._state["solved"].double() + 1, self._state["failed"].double() + 1)

    def informative(self, trials: int) -> Tensor:
        """[N], p^z, the chance that the prompt is rolled out when its turn comes."""
        base = torch.where(self._state["easy"], self.chances[0], self.chances[1])
        return (base ** self._state["run"]).to(self.dtype)

    def learn(self, rows: Tensor, solved: Tensor, trials: Tensor) -> None:
        came = trials > 0
        if not bool(came.any()):
            return
        shares = torch.stack([(solved[came] >= trials[came]), (solved[came] <= 0)]).double().mean(1)
        aims = torch.tensor(self.model.targets, dtype=torch.float64)
        step = torch.where(shares >= aims, -self.model.delta, self.model.delta)
        self.chances = (self.chances + step).clamp(0.01, 0.99)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "chances": self.chances.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        chances = checks.numbers("state", checks.instance("state", state, Mapping).get("chances", []))
        if chances.shape != (2,):
            raise ValueError("state: expected the two chances, as of GRESO, got none")
        super().load_state_dict(state)
        self.chances = chances.clone()

    def _start(self, num_rows: int, theta: None) -> State:
        zero = torch.zeros(num_rows, dtype=self.dtype)
        run, easy = torch.zeros(num_rows, dtype=torch.long), torch.zeros(num_rows, dtype=torch.bool)
        return {"run": run, "easy": easy, "solved": zero, "failed": zero.clone()}

    def _advance(self, state: State, groups: Groups, step: Step, theta: None) -> tuple[State, Tensor]:
        law = BetaRates(*(state[name][groups.at].double() + 1 for name in ("solved", "failed")))
        came = groups.trials > 0
        at, solved, trials = groups.at[came], groups.solved[came], groups.trials[came]
        failed = trials - solved
        useless = (solved <= 0) | (failed <= 0)
        found = {
            "run": torch.where(useless, state["run"][at] + 1, 0),
            "easy": failed <= 0,
            "solved": solved,
            "failed": failed,
        }
        after = {name: state[name].index_copy(0, at, value.to(state[name].dtype)) for name, value in found.items()}
        return after, self._log_evidence(law, groups.solved, groups.trials)
