"""Hamiltonian Monte Carlo of many small posteriors at once, as simulation-based calibration needs it.

NUTS spends its time in Python: a leapfrog step of a small history takes milliseconds whatever its size. Here hundreds
of histories of one model are sampled side by side, each by a chain of its own with its own step size and mass matrix,
and a leapfrog step of all of them costs little more than that of one. The number of leapfrog steps is drawn anew for
each iteration and shared (jittered HMC, Neal 2011, arXiv 1206.1901, section 4.2), so that no chain is caught in a
period. If a posterior has several modes, tempered copies of each chain swap places with it (replica exchange, Geyer
1991): flatter copies cross between modes, and pass on what they find.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from dps_pyro.dynamics.sites import is_drawn
from dps_pyro.support import checks
from dps_pyro.support.console import progress_bar

__all__ = ["Chains", "Posteriors", "hmc"]

DIVERGENT = 1000.0
"""An error of the energy above which a trajectory counts as divergent, as in Stan."""


class Chains(NamedTuple):
    """What came of S chains."""

    draws: dict[str, Tensor]  # site name -> [L, S, 1 or N, ...]
    log_likelihood: Tensor  # [L, S], log p(y | theta) of the draws
    accepted: Tensor  # [S], the mean chance of acceptance after the warm-up
    divergences: Tensor  # long [S], after the warm-up
    exchanged: Tensor  # [R - 1, S], how often neighbours of R tempered copies changed places, of the times they tried


class Posteriors:
    """The log densities of S posteriors of one model in unconstrained space, [S, D].

    Args:
        model: runs under a plate of size S at dim -2, so that a site is [S, 1 or N, ...]; no arguments.
        data: observed site -> value [S, ...].
        start: site -> value [S, 1 or N, ...], any from the prior: for the shapes.
    """

    def __init__(self, model: Callable[[], Any], data: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> None:
        self.model, self.data = model, dict(data)
        trace = poutine.trace(poutine.condition(model, data={**data, **start})).get_trace()
        sites: dict[str, Any] = {
            name: site for name, site in trace.nodes.items() if name not in data and is_drawn(site)
        }
        self.transforms: dict[str, Any] = {name: biject_to(site["fn"].support) for name, site in sites.items()}
        self.start = self.unconstrained({name: site["value"] for name, site in sites.items()})

    def unconstrained(self, values: Mapping[str, Tensor]) -> Tensor:
        """[S, D]. Values at the very edge of a support stand just inside it."""
        parts = [self.transforms[name].inv(values[name]) for name in self.transforms]
        self._shapes = [part.shape for part in parts]
        most = 0.9 * math.log(torch.finfo(parts[0].dtype).max) / 2
        return torch.cat([part.flatten(1) for part in parts], -1).nan_to_num(nan=0.0).clamp(-most, most)

    def values(self, position: Tensor) -> dict[str, Tensor]:
        """Site -> value at [S, D]."""
        return {name: transform(part) for (name, transform), part in self._parts(position)}

    def log_density(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """[S] and [S]: `log p(theta, y)` with the Jacobian, and `log p(y | theta)`, at [S, D]."""
        values, jacobian = {}, torch.zeros(len(position), dtype=position.dtype)
        for (name, transform), part in self._parts(position):
            values[name] = transform(part)
            jacobian = jacobian + transform.log_abs_det_jacobian(part, values[name]).flatten(1).sum(-1)
        trace = poutine.trace(poutine.condition(self.model, data={**values, **self.data})).get_trace()
        trace.compute_log_prob()
        terms = {name: trace.nodes[name]["log_prob"].flatten(1).sum(-1) for name in [*values, *self.data]}
        seen = torch.stack([terms[name] for name in self.data]).sum(0)
        return torch.stack([*terms.values(), jacobian]).sum(0), seen

    def _parts(self, position: Tensor) -> Any:
        parts = position.split([shape[1:].numel() for shape in self._shapes], -1)
        shaped = [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return zip(self.transforms.items(), shaped, strict=True)


def hmc(
    posteriors: Posteriors,
    *,
    warmup: int = 300,
    draws: int = 99,
    thin: int = 3,
    leapfrogs: int = 12,
    target: float = 0.8,
    powers: Sequence[float] = (1.0,),
    seed: int = 0,
    progress: bool = True,
) -> Chains:
    """Sample S posteriors, a chain each.

    Args:
        posteriors: what to sample, and where to start.
        warmup: iterations that adapt step sizes (dual averaging) and diagonal mass matrices, and are not kept; at
            least 20.
        draws: L, kept of each chain.
        thin: iterations a draw.
        leapfrogs: an iteration takes 1 to this many leapfrog steps, uniformly.
        target: the chance of acceptance to adapt to, in (0, 1).
        powers: the powers of the likelihood, falling from 1. If there are R of them, `posteriors` are R copies of S,
            one after the other, the r-th tempered by the r-th power. Only those of power 1 are kept.
        seed: the random seed of the momenta and acceptances. The global random generator does not change.
        progress: show a progress bar.
    """
    warmup, draws = checks.count("warmup", warmup, 20), checks.count("draws", draws, 1)
    thin, leapfrogs = checks.count("thin", thin, 1), checks.count("leapfrogs", leapfrogs, 1)
    generator = torch.Generator().manual_seed(checks.count("seed", seed, 0))
    falling = all(more > less > 0 for more, less in pairwise(powers))
    if not powers or powers[0] != 1 or not falling:
        raise ValueError(f"powers: expected positive numbers falling from 1, got {list(powers)}")
    if len(posteriors.start) % len(powers):
        raise ValueError(f"posteriors: expected {len(powers)} copies of each, got {len(posteriors.start)} in all")
    size = len(posteriors.start) // len(powers)
    kept: list[dict[str, Tensor]] = []
    seen: list[Tensor] = []
    with pyro.validation_enabled(False), progress_bar(warmup + draws * thin, "sampling", progress) as advance:
        chains = _Sampler(posteriors, leapfrogs, target, powers, generator)
        # The mass is learned in two windows, the second twice the first and with what the first had learned.
        first, second, last = (int(warmup * share) for share in (0.15, 0.4, 0.9))
        for iteration in range(warmup):
            chains.step(adapt=True)
            if iteration >= first:
                chains.spread.add(chains.position)
            if iteration + 1 in (second, last):
                chains.learn_mass()
            advance("warming up")
        chains.settle()
        for iteration in range(draws * thin):
            chains.step(adapt=False)
            if (iteration + 1) % thin == 0:
                kept.append({name: value[:size] for name, value in posteriors.values(chains.position).items()})
                seen.append(chains.seen[:size])
            advance("")
    stacked = {name: torch.stack([one[name] for one in kept]) for name in kept[0]}
    accepted = chains.accepted[:size] / (draws * thin)
    return Chains(
        stacked, torch.stack(seen), accepted, chains.divergences[:size], chains.exchanged / chains.tried.clamp_min(1)
    )


class _Spread:
    """Running variances [S, D] (Welford)."""

    def __init__(self, like: Tensor) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros_like(like), torch.zeros_like(like)

    def add(self, value: Tensor) -> None:
        self.count += 1
        off = value - self.mean
        self.mean = self.mean + off / self.count
        self.squares = self.squares + off * (value - self.mean)

    def variance(self) -> Tensor:
        """Shrunk towards a small number, as Stan does."""
        n = self.count
        return (n / (n + 5)) * self.squares / max(n - 1, 1) + 1e-3 * (5 / (n + 5))


class _Sampler:
    def __init__(
        self,
        posteriors: Posteriors,
        leapfrogs: int,
        target: float,
        powers: Sequence[float],
        generator: torch.Generator,
    ) -> None:
        self.posteriors, self.leapfrogs, self.target, self.generator = posteriors, leapfrogs, target, generator
        self.position = posteriors.start.clone()
        each = len(self.position) // len(powers)
        self.power = torch.tensor(powers, dtype=self.position.dtype).repeat_interleave(each)
        self._copies, self._parity = len(powers), 0
        self.exchanged, self.tried = self.position.new_zeros(len(powers) - 1, each), torch.zeros(len(powers) - 1, 1)
        self.energy, self.slope, self.seen = self._potential(self.position)
        self.scale = torch.ones_like(self.position)  # standard deviations: the inverse mass is their square
        self.accepted = torch.zeros(len(self.position), dtype=self.position.dtype)
        self.divergences = torch.zeros(len(self.position), dtype=torch.long)
        self.log_size = self.log_average = torch.full_like(self.accepted, math.log(0.1))
        self._restart(self.log_size)

    def step(self, adapt: bool) -> None:
        momentum = torch.randn(self.position.shape, generator=self.generator, dtype=self.position.dtype)
        count = int(torch.randint(1, self.leapfrogs + 1, (), generator=self.generator))
        size = self.log_size.exp().unsqueeze(-1)
        before = self.energy + 0.5 * momentum.square().sum(-1)
        position, slope = self.position, self.slope
        for _ in range(count):
            momentum = momentum - 0.5 * size * self.scale * slope
            position = position + size * self.scale * momentum
            energy, slope, seen = self._potential(position)
            momentum = momentum - 0.5 * size * self.scale * slope
        error = (before - energy - 0.5 * momentum.square().sum(-1)).nan_to_num(nan=-math.inf)
        chance = error.clamp(max=0.0).exp()
        accept = torch.rand(len(chance), generator=self.generator, dtype=chance.dtype) < chance
        self.position = torch.where(accept.unsqueeze(-1), position, self.position)
        self.slope = torch.where(accept.unsqueeze(-1), slope, self.slope)
        self.energy, self.seen = torch.where(accept, energy, self.energy), torch.where(accept, seen, self.seen)
        if self._copies > 1:
            self._swap(adapt)
        if adapt:
            self._adapt(chance)
        else:
            self.accepted += chance
            self.divergences += error < -DIVERGENT

    def _swap(self, adapt: bool) -> None:
        """Exchange the places of neighbouring copies, every other pair of them in turn."""
        place = torch.arange(len(self.position)).view(self._copies, -1)
        self._parity = 1 - self._parity
        for pair in range(self._parity, self._copies - 1, 2):
            one, other = place[pair], place[pair + 1]
            gain = (self.power[one] - self.power[other]) * (self.seen[other] - self.seen[one])
            accept = torch.rand(len(one), generator=self.generator, dtype=gain.dtype) < gain.clamp(max=0.0).exp()
            moved = torch.cat([one[accept], other[accept]])
            self.position[moved] = self.position[torch.cat([other[accept], one[accept]])]
            if not adapt:
                self.exchanged[pair] += accept
                self.tried[pair] += 1
        self.energy, self.slope, self.seen = self._potential(self.position)

    def learn_mass(self) -> None:
        """The mass of what was seen since the last time; the step size begins anew."""
        self.scale = self.spread.variance().sqrt()
        self._restart(torch.full_like(self.accepted, math.log(0.3)))

    def settle(self) -> None:
        """The step sizes of the rest: the averages of the adaptation."""
        self.log_size = self.log_average

    def _restart(self, log_size: Tensor) -> None:
        self.spread = _Spread(self.position)
        self.log_size, self.log_average = log_size, log_size.clone()
        self._anchor, self._gap, self._count = log_size + math.log(10), torch.zeros_like(log_size), 0

    def _adapt(self, chance: Tensor) -> None:
        """Dual averaging (Hoffman and Gelman 2014, arXiv 1111.4246, section 3.2.1)."""
        self._count += 1
        rate = 1 / (self._count + 10)
        self._gap = (1 - rate) * self._gap + rate * (self.target - chance)
        self.log_size = self._anchor - self._gap * math.sqrt(self._count) / 0.05
        weight = self._count**-0.75
        self.log_average = weight * self.log_size + (1 - weight) * self.log_average

    def _potential(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            position = position.detach().requires_grad_()
            density, seen = self.posteriors.log_density(position)
            density = density - (1 - self.power) * seen
            (slope,) = torch.autograd.grad(-density.sum(), position)
        return -density.detach(), slope, seen.detach()
