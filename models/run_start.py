r"""A run effect on the start: how able a policy is when its run begins belongs to the run.

What earlier runs taught about moves and success rates holds for the next run. The start of its prompts does not,
because the base rate differs between problem mixes and between policies. One number of the run tilts the population's
start:

    gaps       ~ Dirichlet(rate_gaps)                  rates = cumsum(gaps)[:3], so 0 < rate_1 < rate_2 < rate_3 < 1
    initial    ~ Dirichlet(initial)                    over three states, of an average run
    run        ~ Normal(0, spread)                     this run's own
    matrix_i   ~ Dirichlet(transition_i)               a row for each state now
    z_1 = k    ∝ initial_k exp(run x_k),               x = (-1, 0, 1)
    y_t | z_t  ~ Binomial(n_t, rates[z_t])
    z_t+1 | z_t ~ Categorical(matrix[z_t])

A posterior hands all sites but "run" on to the next run (`run_sites`). There it is 0 until a refit has learned it, as
in `PromptSampler(RunStart(), n, posterior=earlier, refit_every=10)`. The rates are ordered by construction: no fit can
permute the states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.ladders import concentrations
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks

__all__ = ["RunStart"]


class Parameters(NamedTuple):
    """The model's parameters, shared by all prompts; [...] are sample dimensions."""

    initial: Tensor  # [..., 3], p(z_1) in this run
    matrix: Tensor  # [..., 3, 3], p(next | now)
    rates: Tensor  # [..., 3], increasing, the chance that one rollout solves the prompt


class RunStart(Dynamics[Parameters]):
    """Three ordered states, whose start is tilted by an effect of the run.

    Args:
        rate_gaps: [4], Dirichlet concentrations of the gaps 0 → rate_1 → rate_2 → rate_3 → 1.
        initial: [3], Dirichlet concentrations of the initial distribution of an average run.
        transition: [3, 3], Dirichlet concentrations of the transition matrix's rows. The default expects a state to
            last about a hundred steps, and to move to a neighbour.
        spread: the standard deviation of the run effect, positive: at 1, a typical run has e times the odds of starting
            solved over starting partially solved that an average one has, or a fraction 1/e of them.
    """

    run_sites = ("run",)

    def __init__(
        self,
        rate_gaps: Sequence[float] | Tensor = (1.0, 24.0, 24.0, 1.0),
        initial: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
        transition: Sequence[Sequence[float]] | Tensor = ((99.0, 0.9, 0.1), (0.5, 99.0, 0.5), (0.1, 0.9, 99.0)),
        *,
        spread: float = 1.0,
    ) -> None:
        self.rate_gaps = concentrations("rate_gaps", rate_gaps, (4,))
        self.initial_concentration = concentrations("initial", initial, (3,))
        self.transition_concentration = concentrations("transition", transition, (3, 3))
        self.spread = checks.positive("spread", spread)

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [4], "initial" [3], "transition" [3, 3] and "run" [1]."""
        gaps = pyro.sample("gaps", dist.Dirichlet(self.rate_gaps))
        initial = pyro.sample("initial", dist.Dirichlet(self.initial_concentration))
        matrix = pyro.sample("transition", dist.Dirichlet(self.transition_concentration).to_event(1))
        run = pyro.sample("run", dist.Normal(torch.zeros(1), self.spread).to_event(1))
        start = initial * (run * torch.tensor([-1.0, 0.0, 1.0])).softmax(-1)
        # In float32 the sum can round to just above 1.
        return Parameters(start / start.sum(-1, keepdim=True), matrix, gaps.cumsum(-1)[..., :-1].clamp(max=1.0))

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [...]: one for all prompts of the run."""
        return dist.Categorical(theta.initial)

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., 3]: the same for all prompts at every step."""
        return dist.Categorical(theta.matrix)

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the state), batch [..., N, 3]."""
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates)
