"""Stochastic variational inference: guides, a race between restarts, and when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import pyro
import torch
from pyro import infer, poutine
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuide,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoNormal,
    init_to_sample,
)
from pyro.infer.autoguide.utils import deep_setattr
from pyro.optim.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.draws import densities_of_sites, traces_at
from dps_pyro.dynamics.sites import beginning, is_own, sites_of
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.methods import SVI, Guide
from dps_pyro.inference.posterior import Posterior
from dps_pyro.support.console import progress_bar

__all__ = ["Found", "few_and_shared", "search", "usual_guide"]

WINDOW = 100
"""Steps, at least, between one judgement of the ELBO and the next."""
FEW = 256
"""Parameters at most for correlations, unless they are asked for."""
INIT_SCALE = 0.05
"""A guide's standard deviation at the start, in unconstrained space. Narrow, for the prompts' own sites too: their
noise would else teach the model that prompts do not differ."""


class Found(NamedTuple):
    """What a search found; see `Posterior`."""

    draws: dict[str, Tensor]
    log_weights: Tensor | None
    losses: Tensor
    stopped: Literal["flat", "steps", "time"]
    restart_losses: list[float | None]


def search(dynamics: Dynamics[Any], history: RolloutHistory, plan: SVI, weigh: bool, progress: bool) -> Found:
    """Run the restarts' race and the winner's course, and draw from its guide.

    Args:
        dynamics: the model.
        history: the log.
        plan: how; its guide and its size of mini-batches are filled in.
        weigh: compute the draws' log weights, too.
        progress: show a progress bar.

    Raises:
        FloatingPointError: the loss became NaN or infinite, in every restart.
    """
    clock = _Clock(plan.steps, plan.seconds)
    share = min(0.15, 0.5 / plan.restarts)  # of the steps and seconds, for each to show what it can
    leg = max(1, round(share * plan.steps)) if plan.restarts > 1 else 0
    with progress_bar(plan.steps + (plan.restarts - 1) * leg, "fitting", progress) as advance:
        runs, scores = [_Run(dynamics, history, plan, again=k > 0) for k in range(plan.restarts)], []
        for k, run in enumerate(runs if plan.restarts > 1 else []):
            scores.append(run.race(leg, clock, share * (k + 1), advance))
        best = runs[min(range(len(scores)), key=scores.__getitem__)] if scores else runs[0]
        if scores and not math.isfinite(min(scores)):
            raise FloatingPointError(f"the loss is {best.losses[-1]} in every one of {plan.restarts} restarts")
        stopped = best.go_on(clock, advance)
    draws, log_weights = best.draw(weigh)
    judged = [score if math.isfinite(score) else None for score in scores]
    return Found(draws, log_weights, torch.tensor(best.losses), stopped, judged)


def _checked(*, first: bool) -> Any:
    """A block in which Pyro checks what a model's laws are given only if it is the first of its kind: to check takes a
    third of the time, and in later ones a number that is none tells."""
    return pyro.validation_enabled(pyro.distributions.is_validation_enabled() and first)


class _Clock:
    """How much of the steps, or of the seconds, is used up."""

    def __init__(self, steps: int, seconds: float | None) -> None:
        self.steps, self.seconds, self._start = steps, seconds, time.perf_counter()

    def spent(self) -> float:
        """The share of the seconds, 0 where they are not counted."""
        return 0.0 if self.seconds is None else (time.perf_counter() - self._start) / self.seconds

    def used(self, step: int) -> float:
        """The larger of both shares, within 0..1."""
        return min(1.0, max(step / self.steps, self.spent()))


class _Run:
    """One guide on its way: parameters, optimizer and losses of its own."""

    def __init__(self, dynamics: Dynamics[Any], history: RolloutHistory, plan: SVI, again: bool) -> None:
        self.dynamics, self.history, self.plan = dynamics, history, plan
        self.batch_size = plan.batch_size if (plan.batch_size or 0) < history.num_prompts else None
        init = init_to_sample if again else beginning
        start = None if again else plan.start
        assert plan.guide is not None
        self.guide = _guide(dynamics, plan.guide, init if start is None else _placed(start, init))
        self.losses: list[float] = []
        self._settling = False
        self._store: Any = None
        self._batches = _batches(history.num_prompts, self.batch_size)
        # Without a limit to the gradients: those of mini-batches have long tails, whose middle is not their mean. With
        # a shorter memory of their size than Adam's own, as the first ones are the largest by far.
        self._optimizer = PyroOptim(torch.optim.Adam, {"lr": plan.learning_rate, "betas": (0.9, 0.99)})
        self._svi = infer.SVI(dynamics.model, self.guide, self._optimizer, infer.Trace_ELBO())
        if isinstance(self.guide, AutoGuide):
            with self._own_store(), torch.no_grad():
                self.guide(history)  # makes its parameters, for all prompts
                # Where a site is real-valued, a parameter that starts at the prior's mean *is* the tensor that the
                # model gave to the prior, or that an earlier posterior has: each step would move that, too.
                for parameter in self.guide.parameters():
                    parameter.data = parameter.data.clone()
                if start is not None:
                    _spread(self.guide, start)

    def race(self, steps: int, clock: _Clock, until: float, advance: Callable[[str], None]) -> float:
        """The mean loss of the last third of some steps, or of as many as there is time for; infinite where it broke
        down."""
        try:
            for _ in range(steps):
                self._step(clock, advance)
                if clock.spent() >= until:
                    break
        except FloatingPointError:
            return math.inf
        last = self.losses[-math.ceil(len(self.losses) / 3) :]
        return sum(last) / len(last)

    def go_on(self, clock: _Clock, advance: Callable[[str], None]) -> Literal["flat", "steps", "time"]:
        """Step until the loss is flat, or the steps or the time are used up; which of them it was. When it is flat for
        the first time the learning rate falls to its least, and what the noise of larger steps hid may still come."""
        epoch = 1 if self.batch_size is None else self.history.num_prompts // self.batch_size
        begun = _window(epoch) * epoch  # the first window is not judged
        while len(self.losses) < clock.steps:
            if clock.spent() >= 1:
                return "time"
            self._step(clock, advance)
            if flat(self.losses[begun:], epoch, self.plan.tolerance):
                if self._settling:
                    return "flat"
                self._settling, begun = True, len(self.losses)
        return "steps"

    def _step(self, clock: _Clock, advance: Callable[[str], None]) -> None:
        with self._own_store(), _Rows(next(self._batches)), _checked(first=not self.losses):
            loss = float(self._svi.step(self.history, self.batch_size))
        self.losses.append(loss)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {len(self.losses) - 1}; expected a finite number")
        # The learning rate falls tenfold on the way, so that the last estimates are not the noise's.
        rate = self.plan.learning_rate * 0.1 ** (1.0 if self._settling else clock.used(len(self.losses)))
        for optimizer in self._optimizer.optim_objs.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        advance(f"loss {loss / len(self.history):.4f} a group")

    def draw(self, weigh: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """Draws from the guide, [S, ...] a site, and their log weights, [S]. A guide whose draws are all the same is a
        point, of which one is kept."""
        if isinstance(self.guide, AutoLaplaceApproximation):  # until now only a point: its spread is the curvature's
            with self._own_store():
                self.guide = self.guide.laplace_approximation(self.history)
        count = 1 if isinstance(self.guide, AutoDelta) else self.plan.draws
        drawn: dict[str, list[Tensor]] = {}
        own = []
        with torch.no_grad(), self._own_store():
            for number in range(count):
                with _checked(first=number == 0):
                    trace = poutine.trace(self.guide).get_trace(self.history)
                    if weigh:
                        own.append(trace.log_prob_sum())
                for name, site in trace.iter_stochastic_nodes():
                    if not site_is_subsample(site) and not site["infer"].get("is_auxiliary"):
                        drawn.setdefault(name, []).append(site["value"])
        draws = {name: torch.stack(values) for name, values in drawn.items()}
        if all(bool((value == value[:1]).all()) for value in draws.values()):
            return {name: value[:1] for name, value in draws.items()}, None
        return draws, self._densities(draws) - torch.stack(own) if weigh else None

    def _densities(self, draws: dict[str, Tensor]) -> Tensor:
        """[S], the joint log densities of draws and outcomes."""
        with torch.no_grad(), self._own_store():
            traces = traces_at(self.dynamics, self.history, draws)
            return torch.cat([torch.stack(list(densities_of_sites(trace))).sum(0) for trace in traces])

    def _own_store(self) -> Any:
        """Pyro's parameter store with this run's parameters alone: other runs' have the same names."""
        if self._store is None:
            self._store = {"params": {}, "constraints": {}}
        return pyro.get_param_store().scope(self._store)


def flat(losses: list[float], epoch: int, tolerance: float) -> bool:
    """Whether the losses have stopped falling: the mean of a window's is within the fraction `tolerance`, and the
    standard error of the difference, of that of the window before. Asked at the end of a window, from the second on.

    A window is a hundred steps or more and at least four epochs of `epoch` mini-batches, each of which sees every
    prompt once: what is compared are epochs' means, which the choice of prompts in each batch does not blur.
    """
    window = _window(epoch)
    if len(losses) < 2 * window * epoch or len(losses) % (window * epoch):
        return False
    before, after = torch.tensor(losses[-2 * window * epoch :], dtype=torch.float64).view(2, window, epoch).mean(-1)
    noise = (before.var() / window + after.var() / window).sqrt()
    return bool((before.mean() - after.mean()).abs() <= tolerance * before.mean().abs() + noise)


def _window(epoch: int) -> int:
    """In epochs."""
    return max(WINDOW // epoch, 4)


def few_and_shared(dynamics: Dynamics[Any], num_prompts: int) -> bool:
    """Whether a model's parameters are few enough for their correlations, and shared by all prompts."""
    sites = sites_of(dynamics, num_prompts).values()
    few = 1 < sum(site["value"].numel() for site in sites) <= FEW
    return few and not any(map(is_own, sites))


def usual_guide(dynamics: Dynamics[Any], num_prompts: int) -> Literal["normal", "low_rank"]:
    """The guide that SVI fits unless told otherwise: one with correlations where parameters are few and shared by all
    prompts, and independent normals elsewhere."""
    return "low_rank" if few_and_shared(dynamics, num_prompts) else "normal"


def _guide(dynamics: Dynamics[Any], kind: Guide, init: Callable[[Any], Tensor]) -> Any:
    def plate(history: RolloutHistory, batch_size: int | None = None) -> pyro.plate:
        return pyro.plate("prompts", history.num_prompts, subsample_size=batch_size, dim=-1)

    def prior(history: RolloutHistory, batch_size: int | None = None) -> None:
        """All that a guide has to know of the model."""
        dynamics.prior(plate(history, batch_size))

    if kind == "normal":
        return AutoNormal(prior, init_loc_fn=init, init_scale=INIT_SCALE, create_plates=plate)
    if kind == "low_rank":
        return AutoLowRankMultivariateNormal(prior, init_loc_fn=init, init_scale=INIT_SCALE)
    if kind == "delta":
        return AutoDelta(prior, init_loc_fn=init, create_plates=plate)
    assert callable(kind)
    return kind(dynamics.model)


def _batches(num_prompts: int, batch_size: int | None) -> Iterator[Tensor | None]:
    """Mini-batches' prompts, long [B]: all of them, but for a remainder, once in a random order, then again."""
    while True:
        if batch_size is None:
            yield None
        else:
            yield from torch.randperm(num_prompts)[: num_prompts // batch_size * batch_size].view(-1, batch_size)


class _Rows(Messenger):
    """Have the plate of prompts take the given mini-batch."""

    def __init__(self, rows: Tensor | None) -> None:
        super().__init__()
        self.rows = rows

    def _pyro_sample(self, msg: Any) -> None:
        if self.rows is not None and msg["name"] == "prompts" and site_is_subsample(msg):
            msg["value"] = self.rows


def _placed(start: Posterior, otherwise: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """Start from an earlier posterior, at the sites that it has in the same shape."""

    def init(site: Any) -> Tensor:
        value = start.point.get(site["name"])
        return value if value is not None and value.shape == site["fn"].shape() else otherwise(site)

    return init


def _spread(guide: Any, start: Posterior) -> None:
    """Make a guide as wide as an earlier posterior's draws, at the same sites; elsewhere as wide as guides start."""
    widths = {}
    for name, site in guide.prototype_trace.iter_stochastic_nodes():
        width = torch.full_like(biject_to(site["fn"].support).inv(site["value"]), INIT_SCALE)
        draws = start.draws.get(name)
        if draws is not None and len(draws) > 1 and draws.shape[1:] == site["fn"].shape():
            found = biject_to(site["fn"].support).inv(draws).std(0)
            width = torch.where(found.isfinite(), found, width).clamp(0.1 * INIT_SCALE, 2.0)
        widths[name] = width
    if isinstance(guide, AutoNormal):
        for name, width in widths.items():
            deep_setattr(guide.scales, name, width)
    elif isinstance(guide, AutoLowRankMultivariateNormal):
        flat = torch.cat([width.flatten() for width in widths.values()])
        placed: Any = flat / (guide.cov_factor.square().sum(-1) + 1).sqrt()
        guide.scale = placed
