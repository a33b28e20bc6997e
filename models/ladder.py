r"""A ladder of K levels: moves to a neighbour only, each level with chances of its own.

Three states say of a prompt that it is partially solved, not whether one rollout in eight solves it or six. Here a
prompt stands on one of K levels of success, and in a step goes up a level, stays, or goes down a level (a birth-death
chain). All prompts share the chances, and each level has its own: some are passed quickly, others are lasting.

    gaps        ~ Dirichlet(rate_gaps)                 rates = cumsum(gaps)[:K], so 0 < rate_1 < ... < rate_K < 1
    initial     ~ Dirichlet(initial)                   over K levels
    leave_k     ~ Beta(leave)                          the chance of another level after a step
    upward_k    ~ Beta(upward),  k = 2..K-1            that it then went up; upward_1 = 1 and upward_K = 0
    z_1         ~ Categorical(initial)
    y_t | z_t   ~ Binomial(n_t, rates[z_t])
    z_t+1 | z_t ~ z_t + 1 with chance leave upward,  z_t - 1 with leave (1 - upward),  z_t with 1 - leave

The rates are ordered by construction: no fit can permute the levels. With three levels this is `SolvingProgress`
without its rare jumps between unsolved and solved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.ladders import concentrations, even_gaps, even_start, level_names
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks

__all__ = ["Ladder", "even_gaps", "even_start", "level_names"]


class Parameters(NamedTuple):
    """The model's parameters, shared by all prompts; [...] are sample dimensions."""

    initial: Tensor  # [..., K], p(z_1)
    up: Tensor  # [..., K], the chance of a level up in a step; 0 at the top
    down: Tensor  # [..., K], the chance of a level down; 0 at the bottom
    rates: Tensor  # [..., K], increasing, the chance that one rollout solves the prompt


class Ladder(Dynamics[Parameters]):
    """K ordered levels of success, and steps between neighbours.

    Args:
        levels: K, at least 3. More tell rates apart more finely; a group of 8 rollouts cannot use many more than 9.
        rate_gaps: [K + 1], Dirichlet concentrations of the gaps 0 → rate_1 → ... → rate_K → 1. The default puts the
            rates between 0.02 and 0.98, where a group's number of solved rollouts tells any two neighbours apart
            equally well (even steps in arcsin √rate).
        initial: [K], Dirichlet concentrations of the initial distribution. The default expects a third of the prompts
            at the bottom, a third at the top, and a third in between.
        leave: [2], Beta concentrations of leaving a level in a step, yes and no. The default expects the way from the
            bottom to the top to take as long as in `SolvingProgress`, whatever K: a chance of 0.01 for three levels,
            0.04 for five.
        upward: [2], Beta concentrations of going up rather than down.
    """

    def __init__(
        self,
        levels: int = 5,
        rate_gaps: Sequence[float] | Tensor | None = None,
        initial: Sequence[float] | Tensor | None = None,
        leave: Sequence[float] | Tensor | None = None,
        upward: Sequence[float] | Tensor = (2.0, 2.0),
    ) -> None:
        levels = checks.count("levels", levels, 3)
        # A walk's spread grows with the square of its strides: levels half as far apart are left four times as often.
        often = min(0.01 * ((levels - 1) / 2) ** 2, 0.3)
        self.rate_gaps = concentrations(
            "rate_gaps", even_gaps(levels) if rate_gaps is None else rate_gaps, (levels + 1,)
        )
        self.initial_concentration = concentrations(
            "initial", even_start(levels) if initial is None else initial, (levels,)
        )
        self.leave = concentrations("leave", (100 * often, 100 * (1 - often)) if leave is None else leave, (2,))
        self.upward = concentrations("upward", upward, (2,))
        self.states = level_names(levels)

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [K + 1], "initial" [K], "leave" [K] and "upward" [K - 2]."""
        levels = len(self.states)
        gaps = pyro.sample("gaps", dist.Dirichlet(self.rate_gaps))
        initial = pyro.sample("initial", dist.Dirichlet(self.initial_concentration))
        leave = pyro.sample("leave", dist.Beta(*self.leave).expand([levels]).to_event(1))
        between = pyro.sample("upward", dist.Beta(*self.upward).expand([levels - 2]).to_event(1))
        end = torch.ones_like(between[..., :1])
        upward = torch.cat([end, between, 0 * end], -1)
        # In float32 the sum can round to just above 1.
        rates = gaps.cumsum(-1)[..., :-1].clamp(max=1.0)
        return Parameters(initial, leave * upward, leave * (1 - upward), rates)

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [...]: one for all prompts."""
        return dist.Categorical(theta.initial)

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., K]: a level up, none, or a level down, the same for all prompts."""
        stay = torch.diag_embed(1 - theta.up - theta.down)
        up = torch.diag_embed(theta.up[..., :-1], offset=1)
        down = torch.diag_embed(theta.down[..., 1:], offset=-1)
        return dist.Categorical(down + stay + up)

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the level), batch [..., N, K]."""
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates)
