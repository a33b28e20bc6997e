"""The most probable point, the curvature there, and draws of the posterior from a Student-t distribution around it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor
from torch.distributions import biject_to

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.draws import MOST_AT_ONCE, densities_of_sites
from dps_pyro.dynamics.sites import beginning, sites_of
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.pareto import psis

__all__ = ["Approximation", "approximate"]

FREEDOM = 7.0
"""Degrees of freedom, for tails that are no shorter than the posterior's."""
PROPOSALS = 4
"""Points that are weighed for each draw that is kept."""
ROUNDS = 5
"""How often the distribution that points are drawn from is adapted, at most."""
GOOD = 0.7
"""The largest Pareto k with which weights are used."""
PLACES = (1.0, 2.0, 3.0, 5.0, 8.0)
"""The distances along each axis, in scales, at which the density is compared with a Student-t distribution's."""
WIDEST = 6.0
"""The largest factor by which one side is made wider for that."""
REACH = 0.02
"""How far to either side gradients are compared, in unconstrained space."""
FLATTEST = 0.1
"""The least curvature that is believed in any direction: where there is less, the log density is flat, or a saddle."""


class Approximation(NamedTuple):
    """What was found."""

    draws: dict[str, Tensor]
    """Site -> [S, ...]."""
    losses: Tensor
    """[steps], the negative log density at each step of the search."""
    k_hat: float | None
    """The Pareto k of the weights by which points were kept. Draws were only kept by weight where it is good."""
    resampled: bool
    """Whether points were kept by weight, so that the draws are the posterior's own; otherwise they are the Student-t
    distribution's."""
    log_weights: Tensor | None
    """[S], of draws that were not kept by weight: log p less log q."""
    stopped: Literal["flat", "steps", "time"]
    """Why the search ended: the log density rises no more, or steps or time were used up."""


def approximate(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    *,
    steps: int,
    draws: int,
    start: dict[str, Tensor] | None = None,
    seconds: float | None = None,
    advance: Callable[[str], None] = lambda _: None,
) -> Approximation:
    """Find the most probable point in unconstrained space by L-BFGS, and draw from around it.

    Points are drawn from a multivariate split Student-t distribution: the curvature's inverse is its scale, and each
    side of each axis is as wide as the log density asks for (Geweke 1989, Econometrica 57). They are weighed by
    Pareto smoothed importance sampling (Vehtari et al. 2024, arXiv 1507.02646), and kept by weight, without repeats.

    Args:
        dynamics: the model; its sites are shared by all prompts.
        history: the log, with outcomes.
        steps: evaluations of the gradient at most.
        draws: S.
        start: site -> value to start at. A site that is left out starts at the prior's mean.
        seconds: the search ends after that time, if it has not before.
        advance: told after every step.

    Raises:
        FloatingPointError: the log density is not finite where the search starts or ends.
    """
    space = _Space(dynamics, history, start or {})
    point, losses, stopped = _summit(space, steps, seconds, advance)
    centre, scale = point.double(), _scale(space, point)
    stretch = _stretch(space, point, scale)
    count = max(draws * PROPOSALS, 20 * space.size)
    best: _Round | None = None
    for _ in range(ROUNDS):
        now = _propose(space, centre, scale, count, point.dtype, stretch)
        best = now if best is None or now.k_hat < best.k_hat else best
        if best.k_hat <= GOOD:
            break
        centre, scale = _adapted(best, centre, scale)
        stretch = torch.ones_like(stretch)  # the points' own covariance has it
    assert best is not None
    if best.k_hat <= GOOD:
        kept, log_weights = torch.multinomial(best.smoothed.exp(), draws), None
    else:
        kept = best.weights.isfinite().nonzero().squeeze(-1)[:draws]
        log_weights = best.weights[kept]
    k, proposed = best.k_hat, best.points
    drawn = space.values(proposed[kept].to(point.dtype))
    return Approximation(drawn, torch.tensor(losses), k, log_weights is None, log_weights, stopped)


class _Round(NamedTuple):
    """Points from a Student-t distribution, weighed."""

    points: Tensor  # [M, D]
    weights: Tensor  # [M], log p less log q; -inf if there is no density
    smoothed: Tensor  # [M], the same, smoothed and normalised
    k_hat: float


def _stretch(space: _Space, centre: Tensor, scale: Tensor) -> Tensor:
    """[2, D], how much wider than the curvature says the density is along each column of `scale`, ahead and behind: a
    posterior of small chances has a long tail to one side. The factor of a side is the least with which a Student-t
    density, equal at the top, is nowhere below the posterior at a few places there (Geweke 1989, Econometrica 57)."""
    far = torch.tensor(PLACES, dtype=torch.float64).view(-1, 1, 1)
    places = torch.cat([far * scale.mT, -far * scale.mT], 1)  # [places, 2 D, D]
    with torch.no_grad(), pyro.validation_enabled(False):  # far out, a scale may underflow to 0
        points = (centre.double() + places).flatten(0, 1).to(centre.dtype)
        top = space.densities(centre.unsqueeze(0)).double()
        fall = (top - space.densities(points).double()).view(len(PLACES), -1)
    fall = torch.where(fall.isfinite(), fall, math.inf).clamp_min(1e-3)
    needed = far.squeeze(-1) / (FREEDOM * torch.expm1(2 * fall / (FREEDOM + space.size))).sqrt()
    return needed.amax(0).clamp(1.0, WIDEST).view(2, -1)


def _propose(space: _Space, centre: Tensor, scale: Tensor, count: int, dtype: torch.dtype, stretch: Tensor) -> _Round:
    normal = torch.randn(count, space.size, dtype=torch.float64)
    radius = torch.distributions.Chi2(torch.tensor(FREEDOM, dtype=torch.float64)).sample(torch.Size([count, 1]))
    standard = normal / (radius / FREEDOM).sqrt()
    wide = torch.where(standard > 0, stretch[0], stretch[1])
    points = centre + (standard * wide) @ scale.mT
    with torch.no_grad(), pyro.validation_enabled(False):  # far out, a scale may underflow to 0
        density = space.densities(points.to(dtype)).double()
    own = -(FREEDOM + space.size) / 2 * torch.log1p(standard.square().sum(-1) / FREEDOM) - scale.diagonal().log().sum()
    weights = torch.where(density.isfinite(), density - own + wide.log().sum(-1), -math.inf)
    smoothed, k_hat = psis(weights.unsqueeze(-1))
    return _Round(points, weights, smoothed.squeeze(-1), float(k_hat))


def _adapted(found: _Round, centre: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """A centre and a scale from weighed points. The weights are flattened until as many points count as a covariance
    needs, and the scale before has a share in the new one."""
    size, power = len(centre), 1.0
    while power > 0.05:
        weight = torch.softmax(power * found.weights, 0)
        if float(1 / weight.square().sum()) >= 4 * size:
            break
        power *= 0.8
    mean = (weight.unsqueeze(-1) * found.points).sum(0)
    off = found.points - mean
    # A Student-t distribution is wider than its scale says.
    share = 0.8 * (FREEDOM - 2) / FREEDOM
    return mean, _triangle(torch.cat([(share * weight).sqrt().unsqueeze(-1) * off, math.sqrt(0.2) * scale.mT]))


class _Space:
    """The log density as a function of one vector of unconstrained numbers."""

    def __init__(self, dynamics: Dynamics[Any], history: RolloutHistory, start: dict[str, Tensor]) -> None:
        def place(site: Any) -> Tensor:
            value = start.get(site["name"])
            if value is not None and value.shape == site["fn"].shape():
                return value
            return beginning(site)

        self._model, self._prior, self._history = dynamics.model, dynamics.prior, history
        sites = sites_of(dynamics, history.num_prompts)
        self._apart = _scaled_by_others(dynamics, history.num_prompts)
        self._transforms = {name: biject_to(site["fn"].support).inv for name, site in sites.items()}
        free = {name: self._transforms[name](place(site)) for name, site in sites.items()}
        if self._apart:
            free |= self._standardised(free)
        self._plates = {name: len(site["fn"].batch_shape) for name, site in sites.items()}
        self.start = torch.cat([value.detach().flatten() for value in free.values()])
        self._shapes = {name: value.shape for name, value in free.items()}
        self.size = len(self.start)
        with torch.no_grad():
            nodes: Any = poutine.trace(self._model).get_trace(history).nodes
        # At one point the law keeps so many beliefs; other sites are small beside them.
        self._weight = nodes["outcomes"]["fn"].cells * len(dynamics.states)

    def _standardised(self, free: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values of the sites in `_apart` less their location and by their scale, given all sites' own values."""
        values = {name: self._transforms[name].inv(value) for name, value in free.items()}
        with torch.no_grad(), poutine.trace() as trace, poutine.condition(data=values):
            self._prior(pyro.plate("prompts", self._history.num_prompts, dim=-1))
        laws = {name: _normal(trace.trace.nodes[name]["fn"]) for name in self._apart}
        return {name: (values[name] - law.loc) / law.scale for name, law in laws.items() if law is not None}

    def values(self, points: Tensor) -> dict[str, Tensor]:
        """Points [M, D] as values of the sites [M, ...]."""
        parts = points.split([shape.numel() for shape in self._shapes.values()], -1)
        found = {
            name: self._transforms[name].inv(part.reshape(len(points), *self._shapes[name])).detach()
            for name, part in zip(self._shapes, parts, strict=True)
        }
        if self._apart:
            given = {name: value if self._plates[name] else value.unsqueeze(1) for name, value in found.items()}
            with torch.no_grad(), poutine.trace() as trace, pyro.plate("points", len(points), dim=-2):
                self._given(self._prior, given)(pyro.plate("prompts", self._history.num_prompts, dim=-1))
            for name in self._apart:
                value: Any = trace.trace.nodes[name]["value"]
                found[name] = value if self._plates[name] else value.squeeze(1)
        return found

    def _given(self, model: Callable[..., Any], values: dict[str, Tensor]) -> Callable[..., Any]:
        """The model at the values, those of the sites in `_apart` standardised."""
        apart: dict[str, Any] = {name: LocScaleReparam(0.0) for name in self._apart}
        named = {f"{name}_decentered" if name in apart else name: value for name, value in values.items()}
        given: Callable[..., Any] = poutine.condition(poutine.reparam(model, apart), data=named)
        return given

    def densities(self, points: Tensor) -> Tensor:
        """[M], the log densities of many points [M, D]."""
        each = max(1, MOST_AT_ONCE // max(1, self._weight))
        return torch.cat([self._densities(part) for part in points.split(each)])

    def _densities(self, points: Tensor) -> Tensor:
        values, volume = {}, torch.zeros(len(points), dtype=points.dtype)
        for name, part in zip(
            self._shapes, points.split([shape.numel() for shape in self._shapes.values()], -1), strict=True
        ):
            free, transform = part.reshape(len(points), *self._shapes[name]), self._transforms[name]
            value = transform.inv(free)
            volume = volume - transform.log_abs_det_jacobian(value, free).reshape(len(points), -1).sum(-1)
            # The prompts are the dimension right of the points: a site of no plate has one entry there.
            values[name] = value if self._plates[name] else value.unsqueeze(1)
        with pyro.plate("points", len(points), dim=-2):
            trace = poutine.trace(self._given(self._model, values)).get_trace(self._history)
        for density in densities_of_sites(trace):
            volume = volume + density
        return volume


def _normal(law: Any) -> dist.Normal | None:
    """The normal law of a site's single numbers; None if they have another."""
    while isinstance(law, torch.distributions.Independent):
        law = law.base_dist
    return law if isinstance(law, dist.Normal) else None


def _scaled_by_others(dynamics: Dynamics[Any], num_prompts: int) -> list[str]:
    """The normal sites whose location or scale other sites decide. The density has no highest point where such a scale
    goes to 0, so that these sites are standardised (Papaspiliopoulos et al. 2007, Statistical Science 22)."""
    laws: list[dict[str, dist.Normal | None]] = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            laws.append({name: _normal(site["fn"]) for name, site in sites_of(dynamics, num_prompts).items()})
    return [
        name
        for name, one in laws[0].items()
        if one is not None
        and (other := laws[1][name]) is not None
        and not (torch.equal(one.loc, other.loc) and torch.equal(one.scale, other.scale))
    ]


def _summit(
    space: _Space, steps: int, seconds: float | None, advance: Callable[[str], None]
) -> tuple[Tensor, list[float], Literal["flat", "steps", "time"]]:
    """The most probable point, the losses on the way to it, and why it ended."""
    point = space.start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point], max_iter=10, history_size=20, tolerance_grad=1e-3, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -space.densities(point.unsqueeze(0)).sum()
        loss.backward()
        losses.append(float(loss.detach()))
        advance(f"loss {losses[-1]:.1f}")
        return loss

    begun = time.perf_counter()
    while len(losses) < steps:
        if seconds is not None and time.perf_counter() - begun > seconds:
            return point.detach(), losses, "time"
        before = point.detach().clone()
        least = min(losses, default=math.inf)
        optimizer.step(closure)
        if not bool(point.isfinite().all()) or not math.isfinite(losses[0]):
            raise FloatingPointError(f"the loss is {losses[-1]} at step {len(losses) - 1}; expected a finite number")
        still = bool((point.detach() - before).abs().max() < 1e-3)
        if still or least - min(losses) < 1e-6 * abs(least):
            return point.detach(), losses, "flat"
    return point.detach(), losses, "steps"


def _scale(space: _Space, point: Tensor) -> Tensor:
    """[D, D], the triangular square root of the inverse curvature, in double precision. The curvature is that of
    differences of gradients."""
    apart = REACH * torch.eye(space.size, dtype=point.dtype)
    around = torch.cat([point + apart, point - apart]).requires_grad_()
    (gradients,) = torch.autograd.grad(-space.densities(around).sum(), around)
    ahead, behind = gradients.double().chunk(2)
    hessian = (ahead - behind) / (2 * REACH)
    if not bool(hessian.isfinite().all()):
        raise FloatingPointError("the curvature at the most probable point is not finite")
    values, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
    return _triangle((vectors / values.clamp_min(FLATTEST).sqrt()).mT)


def _triangle(rows: Tensor) -> Tensor:
    """The lower triangular L [D, D], with a positive diagonal, for which `L L' = rows' rows`. The product itself is not
    formed, which rounding could make indefinite where scales differ by many orders of magnitude."""
    upper: Tensor = torch.linalg.qr(rows, mode="r").R
    return (upper * torch.where(upper.diagonal() < 0, -1.0, 1.0).unsqueeze(-1)).mT
