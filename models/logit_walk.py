r"""A random walk on a grid of success logits: difficulty as a ladder instead of three classes.

A prompt's state is the logit of its success rate, on an even grid from `-limit` to `limit`. Where prompts start is a
population: a Beta distribution of success rates, seen on the grid. At each step a prompt's logit goes up a rung, stays,
or goes down a rung, with chances that all prompts share; up and down may differ (drift: the policy gets better).

    shape        ~ Gamma(2, 2 / mean)  (two of them)       the population is Beta(shape_1, shape_2)
    moves        ~ Dirichlet(moves)                        down, stay, up; kept within the grid at its ends
    z_1          ~ Categorical(w),  w_k ∝ rate_k^shape_1 (1 - rate_k)^shape_2
    z_t+1 | z_t  ~ z_t + {-1, 0, +1}
    y_t | z_t    ~ Binomial(n_t, rate[z_t]),  rate = sigmoid(grid)

(The weights are the Beta density times the logit's Jacobian, so that an even grid of logits is right.) The rates are
fixed and increasing: no fit can permute the states. Exact on its grid, like every model here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from dps_pyro.dynamics import Dynamics, Step

__all__ = ["LogitWalk"]


class Parameters(NamedTuple):
    """The model's parameters, shared by all prompts; [...] are sample dimensions."""

    shape: Tensor  # [..., 2], of the population's Beta distribution
    moves: Tensor  # [..., 3], the chances of a rung down, none, a rung up


class LogitWalk(Dynamics[Parameters]):
    """Success logits that walk.

    Args:
        rungs: K, the size of the grid, at least 3.
        limit: the largest logit, positive; 6 is a success rate of 0.9975, and -6 one of 0.0025.
        population: [2], prior means of the Beta distribution's shapes. The default is U-shaped: most prompts are
            hopeless or easy, and somewhat more are hopeless.
        moves: [3], Dirichlet concentrations of down, stay and up. The default expects a rung in about ten steps.
    """

    def __init__(
        self,
        rungs: int = 25,
        limit: float = 6.0,
        population: Sequence[float] = (0.1, 0.3),
        moves: Sequence[float] = (3.0, 53.0, 4.0),
    ) -> None:
        if rungs < 3 or not limit > 0:
            raise ValueError(f"expected at least 3 rungs and a positive limit, got {rungs} and {limit}")
        self.grid = torch.linspace(-limit, limit, rungs)
        self.population = _positive("population", population, 2)
        self.move_concentration = _positive("moves", moves, 3)
        self._neighbours = _shift(rungs, -1), _shift(rungs, 1)
        self.states = tuple(f"{rate:.2g}" for rate in self.grid.sigmoid().tolist())

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "shape" [2] and "moves" [3]."""
        shape = pyro.sample("shape", dist.Gamma(torch.tensor(2.0), 2.0 / self.population).to_event(1))
        return Parameters(shape, pyro.sample("moves", dist.Dirichlet(self.move_concentration)))

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [...]: the population on the grid."""
        up, down = theta.shape[..., :1], theta.shape[..., 1:]
        rate = torch.nn.functional.logsigmoid
        return dist.Categorical(logits=up * rate(self.grid) + down * rate(-self.grid))

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., K]: a rung down, none, or a rung up; what would leave the grid stays."""
        down, stay, up = theta.moves[..., None, None].unbind(-3)
        below, above = self._neighbours
        return dist.Categorical(down * below + stay * torch.eye(len(self.grid)) + up * above)

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the rung), batch [..., N, K]."""
        return dist.Binomial(step.trials.unsqueeze(-1), logits=self.grid)


def _shift(rungs: int, by: int) -> Tensor:
    """[K, K], the matrix of a sure move by one rung; the end rung has nowhere to go and stays."""
    now = torch.arange(rungs)
    return torch.nn.functional.one_hot((now + by).clamp(0, rungs - 1), rungs).to(torch.get_default_dtype())


def _positive(name: str, value: Sequence[float], length: int) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if tensor.shape != (length,) or not bool((tensor > 0).all()):
        raise ValueError(f"{name}: expected {length} positive numbers, got {value}")
    return tensor
