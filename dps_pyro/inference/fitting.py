"""Learn a model's parameters from logged rollouts: a prior for the next run's online filter."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pyro
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.sites import own_sites
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.posterior import Posterior
from dps_pyro.inference.svi import Guide, Plan, search, usual_guide
from dps_pyro.support import checks

__all__ = ["Guide", "Posterior", "fit"]

MANY = 4096
"""More prompts than this are fitted in mini-batches, unless told otherwise, ..."""
BATCH = 2048
"""... of this many."""


def fit(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    method: Literal["svi", "nuts"] = "svi",
    *,
    guide: Guide | None = None,
    steps: int | None = None,
    learning_rate: float = 0.05,
    batch_size: int | None = None,
    restarts: int = 1,
    start: Posterior | None = None,
    seconds: float | None = None,
    draws: int = 200,
    chains: int = 1,
    tolerance: float = 1e-4,
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """Fit a dynamics model to logged rollouts.

    Args:
        dynamics: the model.
        history: the log; at least one group, with outcomes.
        method: "svi" maximises the ELBO of a guide (fast); "nuts" samples the exact posterior (small histories).
        guide: SVI's approximation of the posterior, in unconstrained space: "normal", independent normals; "low_rank",
            a normal with correlations, not for mini-batches where prompts have sites of their own; "delta", a point,
            the most probable one (MAP); or a function that makes a Pyro guide of `dynamics.model`, called like it. Left
            out: "low_rank" of up to 256 parameters that all prompts share, and "normal" of more, or where prompts have
            sites of their own.
        steps: SVI steps at most, 2000 if left out; or NUTS's warm-up steps, exactly, 200 if left out.
        learning_rate: Adam's, for "svi", positive; it falls tenfold on the way, and at once when the loss is flat.
        batch_size: prompts in an SVI mini-batch, within 1..N. Left out: all of up to 4,096 prompts, and 2,048 of more.
        restarts: SVI runs to begin with, at least 1: the first from the prior's mean, others from draws of the prior.
            Each takes 15 % of the steps (of many restarts less: half of the steps in all), and the one with the lowest
            loss then goes on.
        start: an earlier posterior: SVI starts at its point, as wide as its draws. Its sites of another shape (prompts'
            own, of other prompts) are left where they would have started, and a function's guide where it starts.
        seconds: SVI stops after that time, if it has not before.
        draws: posterior draws to keep, at least 1; in each chain.
        chains: NUTS chains, one after the other; from 2 on R-hat compares them.
        tolerance: SVI stops early when the mean loss of the last hundred steps is within this fraction, and the
            standard error of the difference, of that of the hundred before (with mini-batches in whole epochs, four at
            least), and is so again at the lowest learning rate.
        seed: of the whole fit, which it decides but for `seconds`. The global RNGs, Pyro's parameter store and torch's
            number of threads (one, meanwhile) are left as they were.
        progress: show a progress bar.

    Raises:
        ValueError: the history has no groups or no outcomes, or an argument is of another kind or out of range.
        FloatingPointError: the loss became NaN or infinite; the message says at which step.
    """
    checks.instance("dynamics", dynamics, Dynamics)
    if len(checks.instance("history", history, RolloutHistory)) == 0:
        raise ValueError("history: expected at least one group of rollouts, got none")
    if not history.observed:
        raise ValueError("history: expected outcomes to learn from, got a schedule, whose outcomes are unknown")
    if method not in ("svi", "nuts"):
        raise ValueError(f"method: expected 'svi' or 'nuts', got {method!r}")
    if guide is None:
        guide = usual_guide(dynamics, history.num_prompts)
    elif guide not in ("normal", "low_rank", "delta") and not callable(guide):
        raise ValueError(f"guide: expected 'normal', 'low_rank', 'delta' or a function of a model, got {guide!r}")
    steps = checks.count("steps", {"svi": 2000, "nuts": 200}[method] if steps is None else steps, 1)
    draws, chains = checks.count("draws", draws, 1), checks.count("chains", chains, 1)
    restarts = checks.count("restarts", restarts, 1)
    learning_rate = checks.positive("learning_rate", learning_rate)
    tolerance = checks.positive("tolerance", tolerance, or_zero=True)
    seconds = None if seconds is None else checks.positive("seconds", seconds)
    if start is not None:
        checks.instance("start", start, Posterior)
    seed = checks.count("seed", seed, 0)
    per_prompt = [name for name, own in own_sites(dynamics, history.num_prompts).items() if own]
    batch_size = _batch_size(batch_size, history.num_prompts, guide, per_prompt)
    begun = time.perf_counter()
    about: dict[str, Any] = {
        "model": type(dynamics).__name__,
        "method": method,
        "prompts": history.num_prompts,
        "groups": len(history),
        "per_prompt": per_prompt,
        "columns": dynamics.carried(),
    }
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope(), _one_thread():
        torch.manual_seed(seed)
        if method == "svi":
            plan = Plan(guide, steps, learning_rate, batch_size, draws, tolerance, restarts, start, seconds)
            weigh = not per_prompt and batch_size == history.num_prompts
            samples, log_weights, losses, stopped, scores = search(dynamics, history, plan, weigh, progress)
            converged = stopped == "flat"
            about |= {"guide": guide if isinstance(guide, str) else getattr(guide, "__name__", type(guide).__name__)}
            about |= {"steps": len(losses), "batch_size": batch_size, "stopped": stopped}
            about |= {"restart_losses": scores} if restarts > 1 else {}
        else:
            samples, found = _nuts(dynamics, history, steps, draws, chains, progress)
            losses, log_weights = torch.zeros(0), None
            converged = found["divergences"] == 0 and found["r_hat"] is not None and found["r_hat"] < 1.05
            about |= {"steps": steps, **found}
    kept = len(next(iter(samples.values()))) if samples else draws
    about |= {"draws": kept, "seed": seed, "seconds": round(time.perf_counter() - begun, 2)}
    point = {name: value.mean(0) for name, value in samples.items()}
    return Posterior(samples, point, losses, converged, about, log_weights)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The work is many small tensors, whose threads would wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _batch_size(asked: int | None, num_prompts: int, guide: Guide, per_prompt: list[str]) -> int:
    whole = guide == "low_rank" and bool(per_prompt)
    if asked is None:
        return num_prompts if num_prompts <= MANY or whole else BATCH
    size = checks.count("batch_size", asked, 1, num_prompts)
    if whole and size < num_prompts:
        own = ", ".join(map(repr, per_prompt))
        raise ValueError(
            f"guide: expected 'normal' or 'delta' with mini-batches of a model whose prompts have sites of their own "
            f"({own}), got 'low_rank', which ties all prompts together: leave out batch_size, or take another guide"
        )
    return size


def _nuts(
    dynamics: Dynamics[Any], history: RolloutHistory, steps: int, draws: int, chains: int, progress: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The draws, chain after chain, and what tells whether to trust them."""
    runs, divergences = [], 0
    for _ in range(chains):
        kernel = NUTS(dynamics.model, jit_compile=False)
        chain: Any = MCMC(kernel, num_samples=draws, warmup_steps=steps, disable_progbar=not progress)
        chain.run(history)
        runs.append(dict(chain.get_samples()))
        divergences += len(chain._diagnostics[0]["divergences"])
    by_chain = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}  # [chains, draws, ...]
    found: dict[str, Any] = {"chains": chains, "divergences": divergences, "r_hat": None, "effective_draws": None}
    if draws >= 4:
        found["r_hat"] = round(max(float(split_gelman_rubin(value).max()) for value in by_chain.values()), 4)
        found["effective_draws"] = max(
            0, round(min(float(effective_sample_size(value).min()) for value in by_chain.values()))
        )
    return {name: value.flatten(0, 1) for name, value in by_chain.items()}, found
