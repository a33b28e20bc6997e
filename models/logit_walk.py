r"""A random walk on a grid of success logits: difficulty as a ladder instead of three classes.

A prompt's state is the logit of its success rate, on an even grid from `-limit` to `limit`. Prompts start from a
population on the grid, of any shape, with room for hopeless and for easy prompts in the end rungs; a group of prompts
(a subject, a level of difficulty) tilts the population its own way. At each step a prompt's logit goes up a rung,
stays, or goes down a rung. How often depends on the rung, as the policy gradient of a prompt does: a group of rollouts
that is all wrong or all right teaches nothing, so that logits move most where successes and failures are even. Up and
down may differ (drift: the policy gets better). The end rungs are left more rarely still.

    start      ~ Normal(log base, spread)                 K logits; the population
    tilt_scale ~ HalfNormal(tilt_scale)                   3 of them
    z_tilt     ~ Normal(0, 1)                             3 for each group g
    resting    ~ Dirichlet(resting)                       down, stay, up where nothing is learned, s = 0
    learning   ~ Dirichlet(learning)                      down, stay, up where most is, s = 1
    leave      ~ Beta(leave)                              2 of them, of the lowest and the highest rung

    z_1 = k      ∝ exp(start_k + tilt_g,1 x_k + tilt_g,2 x_k^2 + tilt_g,3 [k = 1]),   x = grid / limit, tilt = scale z
    z_t+1 | z_t  = z_t + {-1, 0, +1} with chances (1 - s) resting + s learning,   s = 4 rate (1 - rate) at z_t;
                   of the end rungs those of leaving are multiplied by leave, and there is no further to go
    y_t | z_t    ~ Binomial(n_t, rate[z_t]),   rate = sigmoid(grid)

The rates are fixed and increasing: no fit can permute the states. Exact on its grid, like every model here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.nn.functional import one_hot

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.features import Groups
from dps_pyro.dynamics.ladders import concentrations
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks

__all__ = ["LogitWalk"]


class Parameters(NamedTuple):
    """The model's parameters; [...] are sample dimensions."""

    start: Tensor  # [..., K] the population's logits, or with groups [..., N, K] those of each prompt's group
    resting: Tensor  # [..., 3], the chances of a rung down, none, a rung up where nothing is learned
    learning: Tensor  # [..., 3], the same where successes and failures are even
    leave: Tensor  # [..., 2], by what those of leaving the lowest and the highest rung are multiplied


class LogitWalk(Dynamics[Parameters]):
    """Success logits that walk.

    Args:
        groups: a label for each prompt, strings or numbers, for at least all prompts that will be tracked. None treats
            all prompts as one population.
        labels: the groups that there are, in the order of the site "z_tilt". The default is those among `groups`,
            sorted. A posterior has them in `about["columns"]`, for a model of other prompts. Prompts with
            other labels are at the population's centre.
        rungs: K, the size of the grid, at least 3.
        limit: the largest logit, positive; 6 is a success rate of 0.9975, and -6 one of 0.0025.
        ends: the shares of the prompts that are expected to start in the lowest and in the highest rung, beyond the
            even share of every rung.
        spread: standard deviation of the population's logits around that.
        resting: [3], Dirichlet concentrations of down, stay and up on rungs on which nothing is learned.
        learning: [3], the same on rungs on which most is learned. The default expects a move by one rung in about five
            steps.
        leave: [2, 2], Beta concentrations, of the lowest and of the highest rung.
        tilt_scale: [3], scales of the half-normal priors of how much groups differ: in difficulty, in how far apart
            their prompts are, and in their share of hopeless prompts.
    """

    def __init__(
        self,
        groups: Sequence[str] | Sequence[int] | None = None,
        labels: Sequence[str] | Sequence[int] | None = None,
        *,
        rungs: int = 25,
        limit: float = 6.0,
        ends: Sequence[float] = (0.1, 0.04),
        spread: float = 1.0,
        resting: Sequence[float] = (1.0, 48.0, 1.0),
        learning: Sequence[float] = (4.0, 40.0, 6.0),
        leave: Sequence[Sequence[float]] = ((1.0, 12.0), (2.0, 8.0)),
        tilt_scale: Sequence[float] = (4.0, 2.0, 1.0),
    ) -> None:
        if rungs < 3 or not limit > 0:
            raise ValueError(f"expected at least 3 rungs and a positive limit, got {rungs} and {limit}")
        share = concentrations("ends", ends, (2,))
        if not float(share.sum()) < 1:
            raise ValueError(f"ends: expected shares that add up to less than 1, got {ends}")
        self.spread = checks.positive("spread", spread)
        self.resting = concentrations("resting", resting, (3,))
        self.learning = concentrations("learning", learning, (3,))
        self.leave = concentrations("leave", leave, (2, 2))
        self.tilt_scale = concentrations("tilt_scale", tilt_scale, (3,))
        self.groups = None if groups is None else Groups(groups, labels)
        self.grid = torch.linspace(-limit, limit, rungs)
        rates = self.grid.sigmoid()
        names = [f"{rate:.3g}" for rate in rates.tolist()]
        logits = [f"logit {logit:.6g}" for logit in self.grid.tolist()]
        self.states = tuple(names if len(set(names)) == rungs else logits)
        base = (1 - share.sum()).expand(rungs) / rungs
        edges = one_hot(torch.tensor([0, rungs - 1]), rungs).to(base)
        self.base = (base + share @ edges).log()
        self.signal = 4 * rates * (1 - rates)
        x = self.grid / limit
        self._tilts = torch.stack([x, x.square(), edges[0]])  # [3, K]
        self._ends = edges  # [2, K]
        self._moves = torch.stack([_shift(rungs, by) for by in (-1, 0, 1)])  # [3, K, K]

    def carried(self) -> dict[str, Any]:
        """The groups' labels, if there are groups."""
        return {} if self.groups is None else {"labels": list(self.groups.labels)}

    def kinds(self, num_prompts: int) -> Tensor | None:
        """Long [N], each prompt's group; None if there are no groups.

        Raises:
            ValueError: there are more prompts than labels in `groups`.
        """
        return None if self.groups is None else self.groups.of(torch.arange(num_prompts), num_prompts)

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "start" [K], "resting" [3], "learning" [3] and "leave" [2]; with groups "tilt_scale" [3] and "z_tilt"
        [G, 3].

        Raises:
            ValueError: there are more prompts than labels in `groups`.
        """
        start = pyro.sample("start", dist.Normal(self.base, self.spread).to_event(1))
        resting = pyro.sample("resting", dist.Dirichlet(self.resting))
        learning = pyro.sample("learning", dist.Dirichlet(self.learning))
        leave = pyro.sample("leave", dist.Beta(self.leave[:, 0], self.leave[:, 1]).to_event(1))
        if self.groups is not None:
            scale = pyro.sample("tilt_scale", dist.HalfNormal(self.tilt_scale).to_event(1))
            normal = dist.Normal(torch.zeros(len(self.groups.labels), 3), 1.0)
            tilt = scale.unsqueeze(-2) * pyro.sample("z_tilt", normal.to_event(2))
            with prompts as rows:
                group = self.groups.of(torch.as_tensor(rows), prompts.size)
            # One more, level, for prompts of none of the groups.
            start = start + Vindex(torch.nn.functional.pad(tilt @ self._tilts, (0, 0, 0, 1)))[..., group, :]
        return Parameters(start, resting, learning, leave)

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [...] or with groups [..., N]: the population on the grid."""
        return dist.Categorical(logits=theta.start)

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., K], the same for all prompts at every step."""
        signal = self.signal.unsqueeze(-1)
        moves = (1 - signal) * theta.resting.unsqueeze(-2) + signal * theta.learning.unsqueeze(-2)  # [..., K, 3]
        leaving = theta.leave @ self._ends + (1 - self._ends.sum(0))  # [..., K], 1 within
        down, up = (moves[..., way] * leaving for way in (0, 2))
        chances = torch.stack([down, 1 - down - up, up], -1)
        return dist.Categorical(torch.einsum("...kd,dkj->...kj", chances, self._moves))

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the rung), batch [..., N, K]."""
        return dist.Binomial(step.trials.unsqueeze(-1), logits=self.grid)


def _shift(rungs: int, by: int) -> Tensor:
    """[K, K], the matrix of a sure move by one rung; the end rung has nowhere to go and stays."""
    now = torch.arange(rungs)
    return one_hot((now + by).clamp(0, rungs - 1), rungs).to(torch.get_default_dtype())
