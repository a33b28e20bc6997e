"""What the selectors here share: a Beta law of each prompt's success rate from counts, and observations without a time.

The published selectors learn from a group when it arrives. A late group therefore counts as one of the coming step.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.support import checks
from dps_pyro.tracking.predictor import Filter
from dps_pyro.tracking.rates import BetaRates

__all__ = ["CountingFilter"]


class CountingFilter(Filter):
    """A filter that knows counts of successes and failures, and learns from groups when they arrive.

    Args:
        num_prompts: N.
        trials: the group size that the beliefs speak of.
        dtype: the dtype of the beliefs.
    """

    states = Dynamics.states

    def __init__(self, num_prompts: int, trials: int, dtype: torch.dtype | None) -> None:
        self.trials = trials
        super().__init__(num_prompts, dtype or torch.get_default_dtype())

    @abstractmethod
    def rates(self) -> BetaRates:
        """The Beta law of each prompt's success rate."""

    @property
    def belief(self) -> Tensor:
        """[N, 3], the chances that a group of `trials` rollouts is all wrong, mixed, and all right."""
        law = self.rates()
        unsolved, solved = law.sequence(0, self.trials), law.sequence(self.trials, 0)
        return torch.stack([unsolved, (1 - unsolved - solved).clamp_min(0), solved], -1).to(self.dtype)

    def informative(self, trials: int) -> Tensor:
        """[N], the predictive chance of a useful group, by the Beta-binomial distribution."""
        law = self.rates()
        mixed = (1 - law.sequence(0, trials) - law.sequence(trials, 0)).clamp(0, 1)
        return (mixed if trials > 1 else torch.zeros_like(mixed)).to(self.dtype)

    def draw(self, generator: torch.Generator) -> Tensor:
        """[N], a draw of each prompt's success rate from its Beta law."""
        shapes = torch.stack(list(self.rates()))
        gammas = torch._standard_gamma(shapes, generator=generator).clamp_min(1e-300)
        return (gammas[0] / gammas.sum(0)).to(self.dtype)

    def observe(self, rows: Tensor, solved: Tensor, trials: Tensor, step: int | None = None, **more: Any) -> Tensor:
        """See `Filter`; a late group is taken for one of the coming step."""
        at = None if step is None else max(step, self.step)
        evidence = super().observe(rows, solved, trials, at, **more)
        self.learn(rows, solved, trials)
        return evidence

    def learn(self, rows: Tensor, solved: Tensor, trials: Tensor) -> None:
        """What all prompts together learn from the groups, after each prompt has learned from its own."""

    def _log_evidence(self, law: BetaRates, solved: Tensor, trials: Tensor) -> Tensor:
        """[V], the log-probability of the groups' counts under their laws; 0 where there were no rollouts."""
        right, all_of_them = solved.double(), trials.double()
        wrong = all_of_them - right
        ways = (all_of_them + 1).lgamma() - (right + 1).lgamma() - (wrong + 1).lgamma()
        return (ways + law.sequence(right, wrong).clamp_min(1e-300).log()).to(self.dtype)


def no_values(name: str, values: Any) -> None:
    """
    Raises:
        ValueError: there are values of a fit: nothing here is fitted.
    """
    if values:
        raise ValueError(f"values: expected none, as {name} learns online, got {', '.join(map(repr, values))}")


def group_size(value: int) -> int:
    """The group size that a selector's beliefs speak of."""
    return checks.count("trials", value, 1)
