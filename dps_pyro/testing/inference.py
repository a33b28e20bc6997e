"""Checks of what follows from the laws: draws, densities, gradients, the filter and the fit, each computed twice."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor
from torch.distributions import biject_to

from dps_pyro.dynamics.laws import unchecked
from dps_pyro.dynamics.progress import Progress
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.fitting import fit
from dps_pyro.inference.methods import SVI
from dps_pyro.testing.case import BROADCAST, MISSING, Case, DynamicsError, differ
from dps_pyro.testing.sites import own_rows
from dps_pyro.tracking.tracker import Tracker, is_fitted

__all__ = [
    "check_enumeration",
    "check_filter",
    "check_fit",
    "check_gradients",
    "check_influence",
    "check_mini_batches",
    "check_schedule",
]

MOST_PATHS = 20_000
"""The largest number of paths that brute force adds up, K ** (T + 1)."""
SAMPLES = "Something in the model does not broadcast. " + BROADCAST


def observed(case: Case, values: dict[str, Tensor]) -> RolloutHistory:
    """Draw a log from the model at these values. Real-valued sums outside 0..trials are moved to its ends."""
    try:
        drawn = poutine.condition(case.model.model, data=values)(case.history())
    except Exception as error:
        mend = "It must hold at every point of the prior's support: a fit passes through many of them"
        raise case.error("model", "outcomes to be drawn", f"{type(error).__name__}: {error}", mend) from error
    return case.history(torch.minimum(drawn.clamp_min(0), case.steps.trials).double())


def check_schedule(case: Case) -> None:
    """Check that outcomes can be drawn for a schedule, one by one and in parallel: in 0..trials, and 0 if missing."""
    trials = case.steps.trials
    for parallel in (False, True):
        try:
            drawn = Predictive(case.model.model, num_samples=7, parallel=parallel)(case.history())["outcomes"]
        except Exception as error:
            mend = SAMPLES if parallel else "Its emission has no sample(), or not one for a batch of [..., N, K]"
            what = f"outcomes from Predictive(parallel={parallel})"
            raise case.error("model", what, f"{type(error).__name__}: {error}", mend) from error
        if drawn.shape != (7, *trials.shape) or not bool(drawn.isfinite().all()):
            came = f"{list(drawn.shape)}, {int(drawn.isnan().sum())} of them NaN"
            raise case.error("model", f"finite outcomes of shape {[7, *trials.shape]}", came, SAMPLES)
        if bool((drawn[:, trials == 0] != 0).any()):
            raise case.error("model", "outcomes of 0 where nothing is rolled out", "others", MISSING)
        law = case.call("emission", case.parameters(case.values()), case.step(0))
        counts = (drawn >= 0) & (drawn <= trials) & (drawn == drawn.round())
        if law.support.is_discrete and not bool(counts.all()):
            came = f"{float(drawn[~counts][0]):g} of {int(trials.expand_as(drawn)[~counts][0])}"
            raise case.error("emission", "draws within 0..trials", came, "Draw what its log_prob says")


def check_gradients(case: Case) -> None:
    """Check that the log density has a finite gradient in every unconstrained site, also at steps without rollouts."""
    for _ in range(5):
        points: dict[str, tuple[Any, Tensor]] = {}

        def place(site: Any, points: dict[str, tuple[Any, Tensor]] = points) -> Tensor:
            transform = biject_to(site["fn"].support)
            shape = transform.inverse_shape(site["fn"].shape())
            points[site["name"]] = transform, 4 * torch.rand(shape) - 2
            value: Tensor = transform(points[site["name"]][1])
            return value

        history = observed(case, case.values(place))
        names = _without_gradient(case, points, history)
        if names is None:
            continue
        full = RolloutHistory.from_dense(torch.zeros(case.trials.shape), max(case.sizes))
        full.features = case.history().features
        missing = _without_gradient(case, points, full) is None
        mend = (
            f"It is finite where every prompt is rolled out at every step. {MISSING}; "
            "`torch.where` does not keep NaN out of gradients"
            if missing
            else "Look for the log or square root of 0, a division by 0, 0 times infinity; `torch.where` does not keep "
            "NaN out of gradients: make its input safe instead, as in `.clamp_min(1e-6).log()`"
        )
        raise case.error("model", f"a finite log density and gradient in {names}", "NaN or infinity", mend)


def check_influence(case: Case) -> None:
    """Check that the likelihood has a gradient in each site with which it changes: none was lost by `.detach()`,
    `.item()` or NumPy."""
    drawn, others = case.draw(), case.values()
    values = {name: site["value"].detach() for name, site in drawn.sites.items()}
    history = observed(case, values)

    def likelihood(at: dict[str, Tensor]) -> Tensor:
        trace = poutine.trace(poutine.condition(case.model.model, data=at)).get_trace(history)
        site: Any = trace.nodes["outcomes"]
        return torch.as_tensor(site["fn"].log_prob(site["value"]).sum())

    for name, value in values.items():
        free = value.clone().requires_grad_()
        found = likelihood({**values, name: free})
        gradient = torch.autograd.grad(found, free, allow_unused=True)[0] if found.requires_grad else None
        moved = likelihood({**values, name: others[name]})
        lost = gradient is None or not bool(gradient.any())
        if lost and differ(moved.detach(), found.detach()):
            mend = "Compute with torch alone from the site to the law, without `.detach()`, `.item()` or NumPy"
            raise case.error("model", f"a gradient of the likelihood in {name!r}", "none, though it changes it", mend)


def _without_gradient(case: Case, points: dict[str, tuple[Any, Tensor]], history: RolloutHistory) -> str | None:
    """Name the sites in which the log density has no finite gradient."""
    free = {name: point.clone().requires_grad_() for name, (_, point) in points.items()}
    data = {name: transform(free[name]) for name, (transform, _) in points.items()}
    trace = poutine.trace(poutine.condition(case.model.model, data=data)).get_trace(history)
    log_density = torch.as_tensor(trace.log_prob_sum())
    if not free or not bool(log_density.isfinite()):
        return None if bool(log_density.isfinite()) else ", ".join(map(repr, free))
    gradients: Any = torch.autograd.grad(log_density, list(free.values()), allow_unused=True)
    found = [name for name, one in zip(free, gradients, strict=True) if one is not None and not one.isfinite().all()]
    return ", ".join(map(repr, found)) or None


def check_mini_batches(case: Case) -> None:
    """Check that the log density of a mini-batch, as Pyro scales it up, is unbiased over all mini-batches."""
    drawn = case.draw()
    values = {name: site["value"] for name, site in drawn.sites.items()}
    history = observed(case, values)

    def log_density(rows: Tensor | None) -> float:
        size = None if rows is None else len(rows)
        at = dict(values)
        if rows is not None:
            at = {name: own_rows(site, values[name], rows) for name, site in drawn.sites.items()}
            at["prompts"] = rows
        trace = poutine.trace(poutine.condition(case.model.model, data=at)).get_trace(history, size)
        return float(trace.log_prob_sum())

    batches = [torch.tensor(pair) for pair in itertools.combinations(range(case.num_prompts), 2)]
    mend = "Sample what each prompt has inside `with prompts as rows:`, and index columns of all prompts with rows"
    try:
        full, mean = log_density(None), float(np.mean([log_density(rows) for rows in batches]))
    except Exception as error:
        came = f"{type(error).__name__}: {error}"
        raise case.error("prior", "to run on a mini-batch of 2 prompts", came, mend) from error
    if differ(torch.tensor(mean), torch.tensor(full)):
        raise case.error("prior", f"mini-batches whose log density is {full:g} on average", f"{mean:g}", mend)


def check_filter(case: Case) -> None:
    """Check that likelihood and tracker equal, step by step, the sum over all paths of states."""
    values = case.values()
    history = observed(case, values)
    solved = history.dense().solved
    assert solved is not None
    length = case.num_steps
    while length > 1 and case.num_states ** (length + 1) > MOST_PATHS:
        length -= 1
    steps = case.steps.at(slice(length))
    law = Progress(case.model, case.parameters(values), steps)
    evidence, beliefs = _brute_force(case, values, solved[:, :length])
    if differ(law.log_evidence(solved[:, :length]), evidence) or differ(
        law.log_prob(solved[:, :length]), evidence.sum(0)
    ):
        raise _disagree(case, "the likelihood of the sum over all paths")
    for dtype in (torch.float32, torch.float64) if is_fitted(case.model) else ():
        tracker = Tracker(case.model, case.num_prompts, values=values, dtype=dtype)
        tracker.history.features = case.history().features
        for t in range(length):
            if tracker.belief.dtype != dtype or differ(tracker.belief, beliefs[t], dtype):
                raise _disagree(case, f"the tracker's beliefs in {dtype} before step {t}")
            step = case.step(t)
            everyone = torch.arange(case.num_prompts)
            terms = tracker.observe(everyone, solved[:, t], step.trials, trained=step.trained, **case.told(t))
            if differ(terms, evidence[t], dtype):
                raise _disagree(case, f"the tracker's log evidence in {dtype} at step {t}")
        if differ(tracker.belief, beliefs[length], dtype):
            raise _disagree(case, f"the tracker's beliefs in {dtype} after step {length - 1}")


def _disagree(case: Case, what: str) -> DynamicsError:
    mend = "The laws of one prompt at one step are not those of many prompts and steps at once. " + BROADCAST
    return case.error("model", f"{what} to equal brute force", "something else", mend)


def _brute_force(case: Case, values: dict[str, Tensor], solved: Tensor) -> tuple[Tensor, Tensor]:
    """Compute log p(y_t | y_<t), [T, N], and p(z_t | y_<t), [T + 1, N, K], for each prompt by adding up all paths."""
    num_prompts, T = solved.shape
    K = case.num_states
    evidence, beliefs = (
        torch.zeros(*shape, dtype=torch.float64) for shape in ((T, num_prompts), (T + 1, num_prompts, K))
    )
    for i in range(num_prompts):
        row = torch.tensor([i])
        theta = case.parameters(values, row)
        weight = case.call("initial", theta).probs.expand(1, K)[0].double().numpy()  # of each path, [K, ..., K]
        before = 1.0
        for t in range(T):
            beliefs[t, i] = torch.tensor(weight.reshape(-1, K).sum(0) / weight.sum())
            step = case.step(t, row)
            if bool(step.trials > 0):
                law = unchecked(case.call("emission", theta, step))
                weight = weight * law.log_prob(solved[row, t].unsqueeze(-1)).expand(1, K)[0].double().exp().numpy()
            evidence[t, i] = float(np.log(weight.sum() / before))
            before = weight.sum()
            move = case.call("transition", theta, step).probs.expand(1, K, K)[0].double().numpy()
            weight = weight[..., None] * move
        beliefs[T, i] = torch.tensor(weight.reshape(-1, K).sum(0) / weight.sum())
    return evidence, beliefs


def check_enumeration(case: Case) -> None:
    """Check that the model with its states summed out equals the model with its states enumerated by Pyro."""
    values = case.values()
    history = observed(case, values)
    losses = []
    for elbo, method in ((Trace_ELBO, case.model.model), (TraceEnum_ELBO, case.model.enumerated_model)):
        at: Any = poutine.block(poutine.condition(method, data=values), hide=list(values))
        made: Any = elbo(max_plate_nesting=1)
        losses.append(made.loss(at, _no_guide, history))
    if differ(torch.tensor(losses[0]), torch.tensor(losses[1])):
        came = f"{-losses[0]:g} and {-losses[1]:g}"
        raise case.error("model", "the log-likelihood of Pyro's enumeration", came, SAMPLES)


def _no_guide(*_: Any) -> None: ...


def check_fit(case: Case) -> None:
    """Check that a few SVI steps run, on all prompts and on mini-batches, and the filter at what they found."""
    history = observed(case, case.values())
    for batch_size in (None, 2):
        try:
            method = SVI(steps=5, draws=3, batch_size=batch_size, learning_rate=0.01)
            posterior = fit(case.model, history, method, progress=False)
        except Exception as error:
            mend = "See where the first SVI step breaks: `dps_pyro.fit(model, history, SVI(steps=1))`"
            what = f"SVI to run with batch_size={batch_size}"
            raise case.error("model", what, f"{type(error).__name__}: {error}", mend) from error
        point = posterior.point
        if not all(bool(value.isfinite().all()) for value in (*point.values(), posterior.losses)):
            mend = "A prior that is nearly flat, or a law that is nearly impossible, makes the first steps overflow"
            raise case.error("model", "a fit of finite numbers", "NaN or infinity", mend)
        case.laws(case.parameters(point), case.step(0))
