"""Learn a model's parameters from logged rollouts: a prior for the next run's online filter."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.sites import own_sites
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.chains import run_chains
from dps_pyro.inference.laplace import approximate
from dps_pyro.inference.methods import NUTS, SVI, Guide, Laplace, Method, new_form
from dps_pyro.inference.nuts import agreement
from dps_pyro.inference.posterior import Posterior
from dps_pyro.inference.svi import few_and_shared, search, usual_guide
from dps_pyro.support import checks
from dps_pyro.support.console import progress_bar
from dps_pyro.support.devices import device_of, moved, on_device, seeded

__all__ = ["fit", "suits_laplace"]

MANY = 4096
"""More prompts than this are fitted in mini-batches by default, ..."""
BATCH = 2048
"""... of this many."""


def fit(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    method: Method | None = None,
    *,
    prior: Posterior | None = None,
    widen: float = 1.5,
    seed: int = 0,
    progress: bool = True,
    device: str | torch.device | None = None,
    **old: Any,
) -> Posterior:
    """Fit a dynamics model to logged rollouts.

    Args:
        dynamics: the model.
        history: the log, with outcomes and at least one group.
        method: the method with its own settings: `Laplace(...)`, `SVI(...)` or `NUTS(...)`. The default is `Laplace()`
            for up to 256 parameters that all prompts share and up to 4,096 prompts, because its intervals contain the
            truth most often (docs/evidence/calibration.md). Otherwise it is `SVI()`.
        prior: a posterior of the same model from earlier runs, which replaces the model's own prior
            (`dynamics.primed(prior, widen)`). The default is the model's own prior.
        widen: the factor by which that posterior's standard deviations are multiplied.
        seed: the random seed of the whole fit. The same seed gives the same fit, unless `seconds` cut it short. The fit
            runs on one thread. It does not change the global random generators, Pyro's parameter store or torch's
            number of threads.
        progress: show a progress bar.
        device: where the fit computes, such as "cuda". It works on a copy of the model there. The history may lie on
            the CPU, and the posterior does. The default is the CPU.
        **old: settings of a method, in the form of earlier versions.

    Raises:
        TypeError: settings were given beside the method, or the method is a string. The message shows the new form.
        ValueError: the history has no groups or no outcomes, an argument is of another kind or out of range, or this
            machine does not have the device.
        FloatingPointError: the loss became NaN or infinite; the message says at which step.
    """
    checks.instance("dynamics", dynamics, Dynamics)
    if old or isinstance(method, str):
        raise new_form(method, old)
    if not (method is None or isinstance(method, Laplace | SVI | NUTS)):
        raise TypeError(f"method: expected Laplace(...), SVI(...) or NUTS(...), got {method!r}")
    if len(checks.instance("history", history, RolloutHistory)) == 0:
        raise ValueError("history: expected at least one group of rollouts, got none")
    if not history.observed:
        raise ValueError("history: expected outcomes to learn from, got a schedule, whose outcomes are unknown")
    seed, place = checks.count("seed", seed, 0), device_of(device)
    model = dynamics if prior is None else dynamics.primed(checks.instance("prior", prior, Posterior), widen)
    own = [name for name, is_own in own_sites(model, history.num_prompts).items() if is_own]
    if method is None:
        method = Laplace() if suits_laplace(model, history) else SVI()
    if isinstance(method, Laplace) and own:
        raise ValueError(
            f"method: expected SVI(...) or NUTS(...) for a model whose prompts have sites of their own "
            f"({', '.join(map(repr, own))}), got {method}, which is for parameters that all prompts share"
        )
    if isinstance(method, SVI):
        guide = usual_guide(model, history.num_prompts) if method.guide is None else method.guide
        method = replace(method, guide=guide, batch_size=_batch_size(method.batch_size, history, guide, own))
    begun = time.perf_counter()
    about: dict[str, Any] = {
        "model": type(dynamics).__name__,
        "method": type(method).__name__.lower(),
        "prompts": history.num_prompts,
        "groups": len(history),
        "per_prompt": own,
        "columns": dynamics.carried(),
    }
    model, method = moved(model, place), _started_on(method, place)
    with seeded(seed, place), on_device(place), pyro.get_param_store().scope(), _one_thread():
        if isinstance(method, NUTS):
            found = _nuts(model, history, method, seed, progress, place)
        elif isinstance(method, Laplace):
            found = _laplace(model, history, method, progress)
        else:
            found = _svi(model, history, method, own, progress)
    found = moved(found, None if place is None else torch.device("cpu"))
    kept = len(next(iter(found.draws.values()))) if found.draws else method.draws
    about |= {**found.about, "draws": kept, "seed": seed, "seconds": round(time.perf_counter() - begun, 2)}
    return replace(found, about=about)


def suits_laplace(dynamics: Dynamics[Any], history: RolloutHistory) -> bool:
    """Whether `fit` uses `Laplace()` by default for a model and a log."""
    return history.num_prompts <= MANY and few_and_shared(dynamics, history.num_prompts)


def _svi(model: Dynamics[Any], history: RolloutHistory, method: SVI, own: list[str], progress: bool) -> Posterior:
    weigh = not own and method.batch_size == history.num_prompts
    samples, log_weights, losses, stopped, scores = search(model, history, method, weigh, progress)
    about: dict[str, Any] = {"guide": _name(method.guide), "steps": len(losses), "batch_size": method.batch_size}
    about |= {"stopped": stopped, **({"restart_losses": scores} if method.restarts > 1 else {})}
    return Posterior(samples, _means(samples), losses, stopped == "flat", about, log_weights)


def _laplace(model: Dynamics[Any], history: RolloutHistory, method: Laplace, progress: bool) -> Posterior:
    start = None if method.start is None else dict(method.start.point)
    with progress_bar(method.steps, "fitting", progress) as advance:
        found = approximate(
            model, history, steps=method.steps, draws=method.draws, start=start, seconds=method.seconds, advance=advance
        )
    about: dict[str, Any] = {"steps": len(found.losses), "stopped": found.stopped}
    about |= {"k_hat": found.k_hat, "resampled": found.resampled}
    return Posterior(found.draws, _means(found.draws), found.losses, found.stopped == "flat", about, found.log_weights)


def _nuts(
    model: Dynamics[Any],
    history: RolloutHistory,
    method: NUTS,
    seed: int,
    progress: bool,
    device: torch.device | None,
) -> Posterior:
    chains = run_chains(model, history, method, seed, progress, device)
    by_chain = {name: torch.stack([chain.draws[name] for chain in chains]) for name in chains[0].draws}
    stats = {name: torch.cat([chain.stats[name] for chain in chains]) for name in chains[0].stats}
    divergences, told = int(stats["diverging"].sum()), agreement(by_chain)
    about = {"steps": method.warmup, "chains": method.chains, "divergences": divergences, **told}
    about |= {"target_accept": method.target_accept, "dense_mass": method.dense_mass}
    converged = divergences == 0 and told["r_hat"] is not None and told["r_hat"] < 1.05
    samples = {name: value.flatten(0, 1) for name, value in by_chain.items()}
    return Posterior(samples, _means(samples), torch.zeros(0), converged, about, sample_stats=stats)


def _started_on(method: Method, device: torch.device | None) -> Method:
    """The method with the posterior that it starts from, if there is one, on the device."""
    return replace(method, start=moved(method.start, device)) if isinstance(method.start, Posterior) else method


def _means(samples: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.mean(0) for name, value in samples.items()}


def _name(guide: Guide | None) -> str:
    return guide if isinstance(guide, str) else str(getattr(guide, "__name__", type(guide).__name__))


@contextmanager
def _one_thread() -> Iterator[None]:
    """The work is many small tensors, whose threads would wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _batch_size(asked: int | None, history: RolloutHistory, guide: Guide, own: list[str]) -> int:
    num_prompts, whole = history.num_prompts, guide == "low_rank" and bool(own)
    if asked is None:
        return num_prompts if num_prompts <= MANY or whole else BATCH
    size = checks.count("batch_size", asked, 1, num_prompts)
    if whole and size < num_prompts:
        raise ValueError(
            f"guide: expected 'normal' or 'delta' with mini-batches of a model whose prompts have sites of their own "
            f"({', '.join(map(repr, own))}), got 'low_rank', which ties all prompts together: leave out batch_size, or "
            "take another guide"
        )
    return size
