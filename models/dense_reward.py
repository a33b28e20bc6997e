r"""Rewards that are numbers in [0, 1] (process rewards, partial credit), and what a useful group of them is.

The log's `solved` is the sum of a group's rewards and `trials` its size. In state k the rewards of a group are
independent draws of one law, with a mean m_k that rises from state to state:

    gaps        ~ Dirichlet(mean_gaps)                 m = cumsum(gaps)[:K], so 0 < m_1 < ... < m_K < 1
    initial     ~ Dirichlet(initial)                   over K states
    matrix_i    ~ Dirichlet(transition_i)              a row for each state now
    z_1         ~ Categorical(initial)
    z_t+1 | z_t ~ Categorical(matrix[z_t])

family="gaussian": rewards Normal(m_k, s_k), so that the sum of n is exactly

    y_t | z_t   ~ Normal(n m_k, sqrt(n) s_k),          s_k^2 = sd_k^2 + resolution^2,  sd_k ~ Gamma(2, 2 / spread)

family="beta": rewards Beta with mean m_k and variance m_k (1 - m_k) d_k, a share d_k in (0, 1) of the largest that the
mean allows. The mean of n of them has no simple law; it is taken as the Beta of the same mean and variance (moment
matching: exact for n = 1, an approximation for more):

    y_t / n | z_t ~ Beta(m_k c, (1 - m_k) c),          c = n / d_k - 1,  d_k ~ Beta of mean 4 spread^2

with group means taken no nearer to 0 and 1 than `resolution`, since at its ends a Beta's density is zero or infinite.
The Gaussian knows nothing of the bounds 0 and 1, and draws of it may lie outside them. Both see a group's sum only, not
how its rewards differ. The means are ordered by construction: no fit can permute the states.

A group teaches where its rewards differ. `informative` is the chance that the largest and the smallest of n rewards are
more than `tolerance` apart, with F and f a reward's distribution and density in the state:

    P(range > tolerance) = 1 - n ∫ f(x) [F(x + tolerance) - F(x)]^(n - 1) dx
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.ladders import concentrations
from dps_pyro.dynamics.progress import Size
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks

__all__ = ["DenseReward"]


class Parameters(NamedTuple):
    """The model's parameters, shared by all prompts; [...] are sample dimensions."""

    initial: Tensor  # [..., K], p(z_1)
    matrix: Tensor  # [..., K, K], p(next | now)
    means: Tensor  # [..., K], increasing, in (0, 1), of one reward
    spread: Tensor  # [..., K], of one reward: "gaussian" its standard deviation s, "beta" its share d of the variance


class DenseReward(Dynamics[Parameters]):
    """K ordered states of real-valued rewards.

    Args:
        family: of a reward's law in a state, "gaussian" or "beta".
        tolerance: by how much the largest and the smallest reward of a useful group differ at least, from `resolution`
            to below 1.
        states: K, at least 2.
        spread: the prior's mean of a reward's standard deviation within a state, in (0, 0.5); "beta": where the mean
            reward is one half.
        resolution: how finely rewards are recorded, in (0, 0.1). No state is taken to be sharper than this, so that a
            log of equal rewards has a likelihood.
        mean_gaps: [K + 1], Dirichlet concentrations of the gaps 0 → m_1 → ... → m_K → 1; if left out, the means are
            expected evenly from 0.1 to 0.9.
        initial: [K], Dirichlet concentrations of the initial distribution. The default is ones.
        transition: [K, K], Dirichlet concentrations of the transition matrix's rows. If left out, a state is expected
            to last about a hundred steps, and then to move to a neighbour eight times as often as two states away.
    """

    def __init__(
        self,
        family: Literal["gaussian", "beta"] = "gaussian",
        tolerance: float = 0.1,
        states: int = 3,
        *,
        spread: float = 0.2,
        resolution: float = 0.01,
        mean_gaps: Sequence[float] | Tensor | None = None,
        initial: Sequence[float] | Tensor | None = None,
        transition: Sequence[Sequence[float]] | Tensor | None = None,
    ) -> None:
        if family not in ("gaussian", "beta"):
            raise ValueError(f"family: expected 'gaussian' or 'beta', got {family!r}")
        self.family = family
        count = checks.count("states", states, 2)
        self.spread = _below("spread", spread, 0.5)
        self.resolution = _below("resolution", resolution, 0.1)
        self.tolerance = _below("tolerance", tolerance, 1.0)
        if self.tolerance < self.resolution:
            raise ValueError(f"tolerance: expected at least the resolution, {resolution}, got {tolerance}")
        inner = [8 / (count - 1)] * (count - 1)
        self.mean_gaps = concentrations("mean_gaps", [1, *inner, 1] if mean_gaps is None else mean_gaps, (count + 1,))
        self.initial_concentration = concentrations("initial", [1] * count if initial is None else initial, (count,))
        moves = _sticky(count) if transition is None else transition
        self.transition_concentration = concentrations("transition", moves, (count, count))
        if count != len(self.states):
            self.states = tuple(f"level {level} of {count}" for level in range(1, count + 1))

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [K + 1], "initial" [K], "transition" [K, K], and "sd" [K] or, of the Beta, "share" [K]."""
        gaps = pyro.sample("gaps", dist.Dirichlet(self.mean_gaps))
        initial = pyro.sample("initial", dist.Dirichlet(self.initial_concentration))
        matrix = pyro.sample("transition", dist.Dirichlet(self.transition_concentration).to_event(1))
        means = gaps.cumsum(-1)[..., :-1]
        ones = torch.ones(len(self.states))
        if self.family == "gaussian":
            own = pyro.sample("sd", dist.Gamma(2 * ones, 2 / self.spread).to_event(1))
            return Parameters(initial, matrix, means, (own.square() + self.resolution**2).sqrt())
        largest = 4 * self.spread**2  # the share of the variance m (1 - m) at m = 1/2
        share = pyro.sample("share", dist.Beta(2 * ones, 2 * (1 - largest) / largest).to_event(1))
        least = 4 * self.resolution**2
        # A mean of 0 or 1, and a share of 1, are limits that rounding may reach and a Beta does not have.
        return Parameters(initial, matrix, means.clamp(1e-5, 1 - 1e-5), least + (1 - 2 * least) * share)

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [...]: one for all prompts."""
        return dist.Categorical(theta.initial)

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., K]: the same for all prompts at every step."""
        return dist.Categorical(theta.matrix)

    def emission(self, theta: Parameters, step: Step) -> TorchDistribution:
        """The law of a group's sum of rewards, batch [..., N, K]."""
        size = step.trials.unsqueeze(-1).clamp_min(1)  # a missing group needs some law, and is not asked for it
        if self.family == "gaussian":
            return dist.Normal(size * theta.means, size.sqrt() * theta.spread)
        return _SumOfBetas(size, theta.means, theta.spread, self.resolution)

    def reward(self, theta: Parameters, step: Step) -> TorchDistribution:
        """The law of one reward, batch [..., K]: the same for all prompts at every step."""
        if self.family == "gaussian":
            return dist.Normal(theta.means, theta.spread)
        precision = 1 / theta.spread - 1
        return dist.Beta(theta.means * precision, (1 - theta.means) * precision)

    def informative(self, theta: Parameters, step: Step) -> Tensor:
        """[..., N or 1, K], the chance in each state that the rewards of a group of `step.trials` rollouts differ by
        more than the tolerance, by a fixed quadrature in double precision (error below 0.001)."""
        means, spread = theta.means.double(), theta.spread.double()
        size = step.trials.unsqueeze(-1).double()
        if self.family == "gaussian":
            within = _range_of_normals(self.tolerance / spread, size)
        else:
            precision = 1 / spread - 1
            within = self._ranges.within(means * precision, (1 - means) * precision, size)
        return torch.where(size > 1, 1 - within, 0.0).clamp(0, 1).to(theta.means.dtype)

    @cached_property
    def _ranges(self) -> _RangeOfBetas:
        return _RangeOfBetas(self.tolerance)


class _SumOfBetas(TorchDistribution):
    """The sum of n Beta rewards, its n-th part a Beta of the same mean and variance; batch [..., N, K]."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.nonnegative
    has_rsample = False

    def __init__(self, size: Tensor, means: Tensor, share: Tensor, edge: float) -> None:
        precision = size / share - 1
        self._size, self._means, self._share, self._edge = size.to(means.dtype), means, share, edge
        self._law = dist.Beta(means * precision, (1 - means) * precision)
        super().__init__(self._law.batch_shape, validate_args=False)

    def expand(self, batch_shape: Size, _instance: _SumOfBetas | None = None) -> _SumOfBetas:
        new: _SumOfBetas = self._get_checked_instance(_SumOfBetas, _instance)  # type: ignore[no-untyped-call]
        new.__dict__.update(self.__dict__)
        new._law = self._law.expand(batch_shape)
        super(_SumOfBetas, new).__init__(torch.Size(batch_shape), validate_args=False)
        return new

    @property
    def mean(self) -> Tensor:
        return (self._size * self._means).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        return (self._size * self._means * (1 - self._means) * self._share).expand(self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of sums in 0..n. A sum with a mean nearer to an end than the edge is taken to be at the
        edge."""
        inside = (value / self._size).clamp(self._edge, 1 - self._edge)
        density: Tensor = self._law.log_prob(inside) - self._size.log()
        return density

    def sample(self, sample_shape: Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        drawn: Tensor = self._size * self._law.sample(sample_shape)
        return drawn


def _range_of_normals(tolerance: Tensor, size: Tensor) -> Tensor:
    """P(range of n standard normals <= tolerance), by the trapezoidal rule: the integrand is smooth and dies off, so
    that the rule is as good as exact."""
    x = torch.linspace(-9, 9, 361, dtype=torch.float64)
    tolerance, size = tolerance.unsqueeze(-1), size.unsqueeze(-1)
    between = torch.special.ndtr(x + tolerance) - torch.special.ndtr(x)
    density = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
    integrand = size * density * between ** (size - 1).clamp_min(0)
    within: Tensor = integrand.sum(-1) * (x[1] - x[0])
    return within


class _RangeOfBetas:
    """P(range of n Betas <= tolerance). The unit interval is cut into cells of which a whole number make up the
    tolerance; F at the cells' ends comes from adding up their masses.

    In a cell F(x + tolerance) hardly changes; with A its mean there, the cell's part of n ∫ (A - F)^(n - 1) dF is
    (A - F(left))^n - (A - F(right))^n: no density is asked for, which at an end of a Beta may be infinite.
    """

    def __init__(self, tolerance: float, cells: int = 1000) -> None:
        self._apart = max(20, round(tolerance * cells))
        width = tolerance / self._apart
        number = math.ceil(1 / width - 1e-9)
        nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(4))
        left = width * torch.arange(number, dtype=torch.float64)
        right = (left + width).clamp_max(1.0)
        x = left[:, None] + (right - left)[:, None] * (1 + nodes) / 2
        self._log_x, self._log_rest = x.log(), (-x).log1p()
        self._log_weight = ((right - left)[:, None] * weights / 2).log()
        self._ends = width, float(right[-1] - left[-1])

    def within(self, a: Tensor, b: Tensor, size: Tensor) -> Tensor:
        """[..., N, K] for shapes a, b [..., K] and group sizes [..., N, 1]."""
        a, b, size = a.unsqueeze(-1), b.unsqueeze(-1), size.unsqueeze(-1)
        density = (a - 1).unsqueeze(-1) * self._log_x + (b - 1).unsqueeze(-1) * self._log_rest
        mass = torch.logsumexp(density + self._log_weight, -1)
        first, last = _mass_at_zero(a, b, self._ends[0]), _mass_at_zero(b, a, self._ends[1])
        mass = torch.softmax(torch.cat([first, mass[..., 1:-1], last], -1), -1)
        below = torch.nn.functional.pad(mass.cumsum(-1), (1, 0)).clamp_max(1.0)  # F at the cells' ends
        # F a tolerance further on, which past the end is 1
        ahead = torch.nn.functional.pad(below[..., self._apart :], (0, self._apart), value=1.0)
        level = (ahead[..., 1:] + ahead[..., :-1]) / 2
        left, right = below[..., :-1], below[..., 1:]
        part: Tensor = (level - left).clamp_min(0) ** size - (level - right).clamp_min(0) ** size
        return part.sum(-1)


def _mass_at_zero(a: Tensor, b: Tensor, width: float) -> Tensor:
    """log ∫_0^width x^(a-1) (1 - x)^(b-1) dx, where the second factor hardly changes: at the mean of the first."""
    return a * math.log(width) - a.log() + (b - 1) * torch.log1p(-width * a / (a + 1))


def _sticky(count: int) -> list[list[float]]:
    """Concentrations that add up to 100 per row: 99 for staying, and the rest shared by the inverse cube of
    distance."""
    rows = []
    for now in range(count):
        away = [abs(then - now) ** -3.0 if then != now else 0.0 for then in range(count)]
        rows.append([99.0 if then == now else weight / sum(away) for then, weight in enumerate(away)])
    return rows


def _below(name: str, value: float, most: float) -> float:
    if not checks.positive(name, value) < most:
        raise ValueError(f"{name}: expected a number in (0, {most:g}), got {value}")
    return float(value)
