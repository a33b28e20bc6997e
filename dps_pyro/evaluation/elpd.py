"""How well a fitted model predicts: expected log predictive densities, whose unit is the prompt.

There are three scores for three questions. All are in nats, and higher is better:

    loo          how well are a prompt's outcomes predicted by what was learned from the others?  PSIS-LOO (Vehtari,
                 Gelman and Gabry 2017, arXiv 1507.04544), from one fit
    held_out     the same, of prompts that a fit never saw; no approximation, but a second fit
    prequential  how well is each group predicted by what was seen of its prompt before, at the fitted parameters?  The
                 sum of log p(y_t | y_<t): what the online filter would have scored. The parameters have seen the log;
                 models that are not fitted have not

A site that each prompt has of its own is integrated over its prior given the other sites, and not taken from the fit:
without a prompt, nothing is learned about its own parameters. Prompts that were never rolled out do not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.draws import traces_at
from dps_pyro.dynamics.sites import own_sites
from dps_pyro.history.layouts import layout
from dps_pyro.history.log import RolloutHistory, observed
from dps_pyro.inference.pareto import good_k, k_hat, psis
from dps_pyro.inference.posterior import Posterior
from dps_pyro.support import checks
from dps_pyro.tracking.predictor import Predictor
from dps_pyro.tracking.tracker import track

__all__ = [
    "Difference",
    "Elpd",
    "Prequential",
    "difference",
    "held_out",
    "log_likelihood",
    "loo",
    "prequential",
]

COPIES = 32
"""Points in prompts' own parameters that a likelihood is averaged over."""


class Elpd(NamedTuple):
    """An expected log predictive density, prompt by prompt."""

    terms: Tensor  # float64 [V], log p(y_i | the other prompts)
    rows: Tensor  # long [V], the prompts, ascending: those with rollouts
    pareto_k: Tensor | None = None  # float64 [V]: how far leaving the prompt out moves the posterior; None: no PSIS
    good_k: float = math.inf  # where a Pareto k becomes bad
    corrected: bool = False  # whether draws of a guide were weighted to be the posterior's

    @property
    def total(self) -> float:
        """The sum of the terms."""
        return float(self.terms.sum())

    @property
    def standard_error(self) -> float:
        """Standard error of `total`, treating the prompts as a sample from a population. NaN if there is only one."""
        return _error(self.terms)

    @property
    def bad(self) -> Tensor:
        """Long, the prompts with an unreliable term: leaving them out moves the posterior too far."""
        return self.rows[:0] if self.pareto_k is None else self.rows[~(self.pareto_k <= self.good_k)]


class Prequential(NamedTuple):
    """The one-step predictive score of a whole log."""

    elpd: Elpd  # a prompt's sum of log p(y_t | y_<t)
    by_step: Tensor  # float64 [T], the sum over the prompts of each step
    groups: Tensor  # long [T], how many groups each step has

    @property
    def per_group(self) -> float:
        """The mean log p(y_t | y_<t) of a group."""
        return float(self.by_step.sum() / self.groups.sum())


class Difference(NamedTuple):
    """The difference of two expected log predictive densities, paired by prompt."""

    total: float
    standard_error: float


def loo(
    dynamics: Dynamics[Any], history: RolloutHistory, posterior: Posterior, *, copies: int = COPIES, seed: int = 0
) -> Elpd:
    """PSIS-LOO over prompts: `sum_i log p(y_i | y_-i)`.

    Args:
        dynamics: the model.
        history: the log that it was fitted to.
        posterior: the fit.
        copies: the number of points for the parameters of each prompt's own, if there are any.
        seed: the random seed of these points.

    Draws of an SVI guide are weighted towards the posterior (Magnusson et al. 2019, arXiv 1902.06504) if their own
    Pareto k-hat is good. Otherwise the score is that of the guide itself. `corrected` says which.
    """
    terms = log_likelihood(dynamics, history, posterior.draws, copies=copies, seed=seed)
    rows = _visited(history)
    ratios, corrected = -terms[:, rows], False
    k = k_hat(posterior)
    if posterior.about.get("resampled"):
        corrected = True  # the draws were kept by weight
    elif k is not None and k <= good_k(len(terms)) and posterior.log_weights is not None:
        ratios, corrected = ratios + posterior.log_weights.double().unsqueeze(-1), True
    efficiency = posterior.about.get("effective_draws") or len(terms)
    weights, pareto = psis(ratios, min(float(efficiency) / len(terms), 1.0))
    return Elpd((weights + terms[:, rows]).logsumexp(0), rows, pareto, good_k(len(terms)), corrected)


def held_out(
    dynamics: Dynamics[Any], history: RolloutHistory, posterior: Posterior, *, copies: int = COPIES, seed: int = 0
) -> Elpd:
    """`sum_i log p(y_i | training log)` over the prompts of a log that the fit did not see, exact up to the Monte Carlo
    average over the posterior's draws (and over points in prompts' own parameters, where they have some).

    Args:
        dynamics: the model.
        history: what was held out, over the same prompts as the training log (`history.where`).
        posterior: the fit to the rest.
        copies: the number of points for the parameters of each prompt's own, if there are any.
        seed: the random seed of these points.
    """
    terms = log_likelihood(dynamics, history, posterior.draws, copies=copies, seed=seed)
    rows = _visited(history)
    return Elpd(terms[:, rows].logsumexp(0) - math.log(len(terms)), rows)


def prequential(
    dynamics: Dynamics[Any] | Predictor, history: RolloutHistory, values: Mapping[str, Tensor] | None = None
) -> Prequential:
    """The score of the online filter on a log: the sum of `log p(y_t | y_<t)`.

    Args:
        dynamics: a model, or a baseline that brings a filter of its own.
        history: the log, with outcomes.
        values: site name -> value, such as `posterior.population().point`. Leave out the sites that each prompt has of
            its own, because their fitted values have seen what is to be predicted. None for a baseline.

    Groups of one prompt at one step count as one.
    """
    observed(history)
    groups = layout(history)
    tracker = track(dynamics, history.num_prompts, values=values, dtype=torch.float64)
    tracker.history.features = history.features
    terms = torch.zeros(history.num_prompts, dtype=torch.float64)
    by_step = torch.zeros(history.num_steps, dtype=torch.float64)
    counts = torch.zeros(history.num_steps, dtype=torch.long)
    order = groups.step.argsort(stable=True)
    for step, now in enumerate(order.split(torch.bincount(groups.step, minlength=history.num_steps).tolist())):
        now, known = now[groups.trials[now] > 0], history.recorded(step)
        if not len(now) and not known:
            continue  # the filter lets steps of which nothing is known pass by itself
        rows = groups.prompt[now]
        evidence = tracker.observe(
            rows,
            groups.solved[now],
            groups.trials[now],
            step=step,
            trained=groups.trained[now],
            progress=known.pop("progress", None),
            columns=known,
        ).double()
        terms[rows] += evidence
        by_step[step], counts[step] = evidence.sum(), len(now)
    rows = _visited(history)
    return Prequential(Elpd(terms[rows], rows), by_step, counts)


def difference(one: Elpd, other: Elpd) -> Difference:
    """`one - other` with the standard error of the paired differences. It is much smaller than the errors of the two
    scores suggest, because prompts that are hard to predict are hard for all models.

    Raises:
        ValueError: the two scores are not of the same prompts.
    """
    if not torch.equal(one.rows, other.rows):
        raise ValueError(f"other: expected scores of the same {len(one.rows)} prompts, got others")
    off = one.terms - other.terms
    return Difference(float(off.sum()), _error(off))


def log_likelihood(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    draws: Mapping[str, Tensor],
    *,
    copies: int = COPIES,
    seed: int = 0,
) -> Tensor:
    """Float64 [S, N], `log p(y_i | theta_s)` of every prompt at every draw.

    Args:
        dynamics: the model.
        history: the log, with outcomes.
        draws: site -> [S, ...], of a fit to the same prompts. For sites that each prompt has of its own, only the
            names matter.
        copies: points in prompts' own parameters, drawn from their prior given the others, over which p is averaged;
            0 takes each prompt's own draws from `draws`. Sites whose law has an inverse distribution function (a
            Normal) are evened out by a Sobol sequence: for one such number, a few dozen points are enough.
        seed: the random seed of these points.

    Raises:
        ValueError: there are no draws of a site, or the log has no outcomes.
    """
    observed(history)
    own = own_sites(dynamics, history.num_prompts)
    missing = [name for name, is_own in own.items() if name not in draws and not (is_own and copies)]
    if missing:
        raise ValueError(f"draws: expected those of {', '.join(own)}, got none of {', '.join(missing)}")
    averaged = copies if any(own.values()) else 0
    given = {name: draws[name] for name, is_own in own.items() if not (is_own and averaged)}
    checks.count("seed", seed, 0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if not averaged:
            return torch.cat([_terms(trace) for trace in traces_at(dynamics, history, given)])
        rows = []
        for values in _each_draw(given):
            torch.manual_seed(seed)  # the same copies for every draw: their noise cancels
            rows.append(_averaged(dynamics, history, values, averaged))
        return torch.stack(rows)


def _averaged(dynamics: Dynamics[Any], history: RolloutHistory, values: Mapping[str, Tensor], copies: int) -> Tensor:
    """Float64 [N], the mean of the model's own likelihood over `copies` draws of the sites not given."""
    wide = {name: value.expand(copies, 1, *value.shape) for name, value in values.items()}
    with _Even(copies), pyro.plate("copies", copies, dim=-2):
        trace = poutine.trace(poutine.condition(dynamics.model, data=wide)).get_trace(history)
    return _terms(trace).logsumexp(0) - math.log(copies)


def _terms(trace: Any) -> Tensor:
    """Float64 [..., N], what each prompt's outcomes add to the log density of a trace."""
    site = trace.nodes["outcomes"]
    terms: Tensor = site["fn"].log_prob(site["value"]).double()
    return terms


class _Even(Messenger):
    """Prompts' own numbers at the points of a scrambled Sobol sequence, the same for all prompts, where their law can
    say where those are. The outcomes are observed, and the other sites given."""

    def __init__(self, copies: int) -> None:
        super().__init__()
        self.copies = copies

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["value"] is not None or site_is_subsample(msg):
            return
        law, event = msg["fn"], msg["fn"].event_shape.numel()
        inner = law.base_dist if isinstance(law, torch.distributions.Independent) else law
        seed = int(torch.randint(2**31, ()))  # of the global generator, which was seeded: another for each site
        even = torch.quasirandom.SobolEngine(event, scramble=True, seed=seed).draw(self.copies)
        share = even.to(torch.get_default_dtype()).clamp(1e-6, 1 - 1e-6).reshape(self.copies, 1, *law.event_shape)
        try:
            value = inner.icdf(share.expand(law.shape()))
        except NotImplementedError:
            return
        msg["value"], msg["done"] = value, True


def _each_draw(draws: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for at in range(len(next(iter(draws.values())))):
        yield {name: value[at] for name, value in draws.items()}


def _visited(history: RolloutHistory) -> Tensor:
    groups = layout(history)
    rows: Tensor = groups.prompt[groups.trials > 0].unique()
    return rows


def _error(terms: Tensor) -> float:
    return float((len(terms) * terms.var()).sqrt()) if len(terms) > 1 else math.nan
