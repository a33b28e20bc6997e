r"""The reference model: three states, Binomial groups, one population.

A prompt is unsolved, partially solved or solved. Each state has a success rate, and a group of n rollouts shows
Binomial(n, rate) successes, so that 0 of 16 says more than 0 of 2. The state moves by one transition matrix, learned
with the rates and the initial distribution from all prompts together:

    gaps       ~ Dirichlet(rate_gaps)                  rates = cumsum(gaps)[:3], so 0 < rate_1 < rate_2 < rate_3 < 1
    initial    ~ Dirichlet(initial)                    over three states
    matrix_i   ~ Dirichlet(transition_i)               a row for each state now
    z_1        ~ Categorical(initial)
    y_t | z_t  ~ Binomial(n_t, rates[z_t])
    z_t+1 | z_t ~ Categorical(matrix[z_t])

The rates are ordered by construction: no fit can permute the states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.ladders import concentrations
from dps_pyro.dynamics.step import Step

__all__ = ["SolvingProgress"]


class Parameters(NamedTuple):
    """The model's parameters, shared by all prompts."""

    initial: Tensor  # [..., 3], p(z_1)
    matrix: Tensor  # [..., 3, 3], p(next | now)
    rates: Tensor  # [..., 3], increasing, the chance that one rollout solves the prompt


class SolvingProgress(Dynamics[Parameters]):
    """Three ordered states with Binomial emissions.

    Args:
        rate_gaps: [4], Dirichlet concentrations of the gaps 0 → rate_1 → rate_2 → rate_3 → 1. The default puts the
            rates near 0.02, 0.5 and 0.98.
        initial: [3], Dirichlet concentrations of the initial distribution.
        transition: [3, 3], Dirichlet concentrations of the transition matrix's rows. The default expects a state to
            last about a hundred steps, and to move to a neighbour: a prompt's progress is slow beside a step.
    """

    def __init__(
        self,
        rate_gaps: Sequence[float] | Tensor = (1.0, 24.0, 24.0, 1.0),
        initial: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
        transition: Sequence[Sequence[float]] | Tensor = ((99.0, 0.9, 0.1), (0.5, 99.0, 0.5), (0.1, 0.9, 99.0)),
    ) -> None:
        self.rate_gaps = concentrations("rate_gaps", rate_gaps, (4,))
        self.initial_concentration = concentrations("initial", initial, (3,))
        self.transition_concentration = concentrations("transition", transition, (3, 3))

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [4], "initial" [3] and "transition" [3, 3]."""
        gaps = pyro.sample("gaps", dist.Dirichlet(self.rate_gaps))
        initial = pyro.sample("initial", dist.Dirichlet(self.initial_concentration))
        matrix = pyro.sample("transition", dist.Dirichlet(self.transition_concentration).to_event(1))
        # In float32 the sum can round to just above 1.
        return Parameters(initial, matrix, rates=gaps.cumsum(-1)[..., :-1].clamp(max=1.0))

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [...]: one for all prompts."""
        return dist.Categorical(theta.initial)

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., 3]: the same for all prompts at every step."""
        return dist.Categorical(theta.matrix)

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the state), batch [..., N, 3]."""
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates)
