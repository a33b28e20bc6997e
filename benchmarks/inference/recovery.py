"""Whether a fit finds the parameters that made the history, and how well it knows what it does not know.

    python -m benchmarks.inference.recovery --out benchmarks/results/recovery.json

For each model that is fitted: parameters are drawn from its prior, a history from the model, and the model is fitted to
it as `fit` does it: by SVI with either of its guides, and by `Laplace()`, the default. A 90 % interval of the exact
posterior would hold the truth in 90 % of such simulations, for every parameter: what is missing is what the
approximation leaves out. An independent normal for each parameter is too narrow where parameters are correlated; a
normal of low rank is less so; and neither is skewed as the posterior of a small chance is. Errors are absolute, beside
those of the prior's own mean. The SVI fits of all histories run side by side, so that their seconds are not those of a
fit. The rows of `laplace` have a column "cost" instead: processor seconds of its fits over those of `fit` with
`SVI(guide="low_rank")` to the same few histories. A model and way that the result file has already is left as it is,
unless --anew is given. The fits of `Laplace()` are kept one by one, so that a killed benchmark goes on where it was.
They are made anew when the method's source changes.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from benchmarks.inference.gallery import FITTED, SMALL, arguments, make
from benchmarks.inference.rows import Rows
from benchmarks.inference.side_by_side import guides
from dps_pyro import SVI, Laplace, Posterior, RolloutHistory, fit
from dps_pyro.dynamics.sites import own_sites
from dps_pyro.evaluation.parallel_hmc import Posteriors
from dps_pyro.evaluation.sbc_ranks import design, filled, simulated
from dps_pyro.inference import laplace

GUIDES = ("normal", "low_rank")
WAYS = (*GUIDES, "laplace")
TIMED = 3
"""Histories that are also fitted one by one by SVI, for the cost."""
LEFT_OUT = ("out", "models", "ways", "anew", "seed", "runs")
"""Options that are not in the configuration."""
WITHIN = (0.05, 0.95)
"""The quantiles between which the truth ought to be, in nine simulations of ten."""


class Recovered(NamedTuple):
    """One site of all fits, a number for each scalar of the site and each history."""

    inside: Tensor  # bool, whether the interval holds the truth
    error: Tensor  # |point - truth|
    prior_error: Tensor  # |prior's mean - truth|


def main() -> None:
    """Simulate, fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=FITTED)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--anew", action="store_true", help="make the rows of --models again that the file has")
    parser.add_argument("--histories", type=int, default=50)
    parser.add_argument("--prompts", type=int, default=80)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--observed", type=float, default=0.5, help="the share of groups that are rolled out")
    parser.add_argument("--svi-steps", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/recovery"), help="where single fits are kept")
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # small chances round to 0 in float32
    configuration = {name: value for name, value in vars(options).items() if name not in LEFT_OUT}
    what = (
        "share of the parameters of simulated histories within the fit's 90 % intervals, and mean absolute errors of "
        "its point and of the prior's mean"
    )
    settings = {"configuration": configuration, "seed": options.seed}
    rows = Rows(options.out, what, settings, ("guide", WAYS), anew=options.models if options.anew else ())
    print(f"{'model':<16} {'guide':<9} {'coverage':>8} {'per prompt':>10} {'error':>7} {'of prior':>8} {'seconds':>8}")
    for name, guide in rows.missing(options.models or FITTED):
        if guide not in options.ways:
            continue
        row = measure(name, guide, **configuration, seed=options.seed, runs=options.runs)
        _show(row)
        rows.add(row)


def _show(row: dict[str, Any]) -> None:
    whole, own = row["global"], row["per_prompt"]
    shares = f"{whole['coverage']:>8.3f} {own['coverage'] if own else float('nan'):>10.3f}"
    errors = f"{whole['error']:>7.4f} {whole['error'] / whole['prior_error']:>8.2f}"
    print(f"{row['model']:<16} {row['guide']:<9} {shares} {errors} {row['seconds']:>8.1f}", flush=True)


def measure(
    name: str, guide: Any, *, histories: int, prompts: int, steps: int, observed: float, svi_steps: int, draws: int,
    seed: int, runs: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The row of one model and guide. The fits of `laplace` are kept in the folder `runs`, if there is one."""
    start = time.perf_counter()
    model = make(name, {**arguments(name, prompts), **SMALL.get(name, {})})
    schedule = design(prompts, steps, visited=observed, seed=seed)

    def of_all() -> None:
        with pyro.plate("histories", histories, dim=-2):
            model.model(schedule)

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        truth, outcomes = simulated(of_all)
        centre = prior_means(model, prompts)
    more: dict[str, Any] = {}
    if guide == "laplace":
        logs = [filled(schedule, one) for one in outcomes]
        sizes = (name, histories, prompts, steps, observed, draws, seed)
        kept = None if runs is None else runs / "-".join(map(str, [*sizes, _stamp(model)]))
        fits, more = one_by_one(model, logs, svi_steps=svi_steps, draws=draws, seed=seed, kept=kept)
        drawn = {site: torch.stack([fit[site] for fit in fits], 1).reshape(draws, *truth[site].shape) for site in truth}
    else:
        posteriors = Posteriors(of_all, {"outcomes": outcomes}, truth)
        at_centre = {site: centre[site].expand(value.shape) for site, value in truth.items()}
        begin = posteriors.unconstrained(at_centre)[0]
        positions, losses = guides(posteriors, begin, guide, steps=svi_steps, draws=draws, seed=seed)
        values = [posteriors.values(position) for position in positions]
        drawn = {site: torch.stack([one[site] for one in values]) for site in truth}
        last, before = losses[-50:].mean(), losses[-100:-50].mean()
        more = {"falling": round(float((before - last) / before.abs()), 6)}
    found = {site: recovered(drawn[site], value, centre[site]) for site, value in truth.items()}
    own = {name for name, is_own in own_sites(model, prompts).items() if is_own}
    return {
        "model": name,
        "arguments": SMALL.get(name, {}),
        "guide": guide,
        "seconds": round(time.perf_counter() - start, 2),
        **more,
        "global": _summary([one for site, one in found.items() if site not in own]),
        "per_prompt": _summary([found[site] for site in own]) if own else None,
        "sites": {site: _summary([one]) for site, one in found.items()},
    }


def one_by_one(
    model: Any,
    logs: Sequence[RolloutHistory],
    *,
    svi_steps: int,
    draws: int,
    seed: int,
    kept: Path | None = None,
) -> tuple[list[Mapping[str, Tensor]], dict[str, Any]]:
    """Each history's draws by `Laplace()`, site -> [draws, ...]; and what these fits were like: their cost beside that
    of SVI, how many had weights to rely on, and how many had come to rest. Fits that the folder `kept` has are read."""
    fits = list[Posterior]()
    for number, log in enumerate(logs):
        folder = None if kept is None else kept / str(number)
        if folder is not None and folder.exists():
            fits.append(Posterior.load(folder))
            continue
        begun = time.process_time()
        found = fit(model, log, Laplace(draws=draws), seed=seed, progress=False)
        fits.append(replace(found, about={**found.about, "cpu_seconds": time.process_time() - begun}))
        if folder is not None:
            fits[-1].save(folder)
    took = [one.about["cpu_seconds"] for one in fits]
    begun = time.process_time()
    for log in logs[:TIMED]:
        fit(model, log, SVI(guide="low_rank", steps=svi_steps, draws=draws), seed=seed, progress=False)
    svi = time.process_time() - begun
    told = {
        "cost": round(sum(took[:TIMED]) / svi, 3),
        "seconds_a_fit": round(sum(took) / len(took), 2),
        "resampled": sum(one.about["resampled"] for one in fits),
        "converged": sum(one.converged for one in fits),
    }
    return [one.draws for one in fits], told


def _stamp(model: Any) -> str:
    """Of the source of the model and of the method."""
    sources = (inspect.getsource(module) for module in (sys.modules[type(model).__module__], laplace))
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:8]


def prior_means(model: Any, prompts: int) -> dict[str, Tensor]:
    """The sites' means over many draws of the prior, [1 or N, ...]."""

    def many() -> None:
        with pyro.plate("draws", 500, dim=-2):
            model.model(design(prompts, 1))

    return {site: value.mean(0) for site, value in simulated(many)[0].items()}


def recovered(draws: Tensor, truth: Tensor, centre: Tensor) -> Recovered:
    """How one site's draws [L, S, ...] compare with the truth [S, ...]."""
    low, high = torch.quantile(draws, torch.tensor(WITHIN, dtype=draws.dtype), dim=0)
    return Recovered((low <= truth) & (truth <= high), (draws.mean(0) - truth).abs(), (centre - truth).abs())


def _summary(found: list[Recovered]) -> dict[str, float]:
    """Means over all scalars of all histories, and the standard error of the coverage over histories."""
    inside, error, prior = (
        torch.cat([part.flatten(1).double() for part in parts], 1) for parts in zip(*found, strict=True)
    )
    by_history = inside.mean(1)
    means = {
        "coverage": by_history.mean(),
        "coverage_se": by_history.std() / len(by_history) ** 0.5,
        "error": error.mean(),
        "prior_error": prior.mean(),
    }
    return {"scalars": inside.shape[1], **{name: round(float(value), 4) for name, value in means.items()}}


if __name__ == "__main__":
    main()
