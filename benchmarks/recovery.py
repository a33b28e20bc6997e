"""Whether a fit finds the parameters that made the history, and how well it knows what it does not know.

    python -m benchmarks.recovery --out benchmarks/results/recovery.json

For each model that is fitted: parameters are drawn from its prior, a history from the model, and the model is fitted to
it. A 90 % interval of the exact posterior would hold the truth in 90 % of such simulations, for every parameter: what
is missing is what the guide leaves out. An independent normal for each parameter is too narrow where parameters are
correlated; a normal of low rank is less so. Errors are absolute, beside those of the prior's own mean. Long: a model
that the result file has already is left as it is.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from benchmarks.gallery import FITTED, arguments, make
from dps_pyro import Posterior, fit
from dps_pyro.simulate import simulate

GUIDES = ("normal", "low_rank")
WITHIN = (0.05, 0.95)
"""The quantiles between which the truth ought to be, in nine simulations of ten."""


class Recovered(NamedTuple):
    """One site of one fit, a number for each scalar of the site."""

    inside: Tensor  # bool, whether the interval holds the truth
    error: Tensor  # |point - truth|
    prior_error: Tensor  # |prior's mean - truth|


def main() -> None:
    """Simulate, fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=FITTED, default=FITTED)
    parser.add_argument("--guides", nargs="+", choices=GUIDES, default=list(GUIDES))
    parser.add_argument("--histories", type=int, default=50)
    parser.add_argument("--prompts", type=int, default=80)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--observed", type=float, default=0.5, help="the share of groups that are rolled out")
    parser.add_argument("--svi-steps", type=int, default=500)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args()

    torch.set_num_threads(1)
    told = ("out", "models", "guides", "seed")
    configuration = {name: value for name, value in vars(options).items() if name not in told}
    rows: list[dict[str, Any]] = []
    if options.out is not None and options.out.exists():
        before = json.loads(options.out.read_text(encoding="utf-8"))
        if (before["configuration"], before["seed"]) != (configuration, options.seed):
            raise SystemExit(f"{options.out}: expected results of {configuration}, got others; remove it first")
        rows = before["rows"]
    known = {(row["model"], row["guide"]) for row in rows}
    print(f"{'model':<16} {'guide':<9} {'coverage':>8} {'per prompt':>10} {'error':>7} {'of prior':>8} {'s a fit':>8}")
    for guide in options.guides:
        for name in options.models:
            if (name, guide) in known:
                continue
            rows.append(_measure(name, guide, options))
            _show(rows[-1])
            if options.out is not None:
                _write(options, configuration, rows)


def _show(row: dict[str, Any]) -> None:
    whole, own = row["global"], row["per_prompt"]
    shares = f"{whole['coverage']:>8.3f} {own['coverage'] if own else float('nan'):>10.3f}"
    errors = f"{whole['error']:>7.4f} {whole['error'] / whole['prior_error']:>8.2f}"
    print(f"{row['model']:<16} {row['guide']:<9} {shares} {errors} {row['seconds']:>8.1f}", flush=True)


def _write(options: argparse.Namespace, configuration: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    result = {
        "what": "share of the parameters of simulated histories within the fit's 90 % intervals, and mean absolute "
        "errors of its point and of the prior's mean",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
        "configuration": configuration,
        "seed": options.seed,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _measure(name: str, guide: Any, options: argparse.Namespace) -> dict[str, Any]:
    model = make(name, arguments(name, options.prompts))
    found: dict[str, list[Recovered]] = {}
    per_prompt: set[str] = set()
    centre = centres(model, options.prompts)
    start, flat = time.perf_counter(), 0
    for simulation in range(options.histories):
        log, truth, _ = simulate(
            model,
            options.prompts,
            options.steps,
            options.trials,
            observed=options.observed,
            seed=simulation + 1000 * options.seed,
        )
        per_prompt = set(truth.about["per_prompt"])
        posterior = fit(
            model, log, guide=guide, steps=options.svi_steps, draws=options.draws, seed=simulation, progress=False
        )
        flat += posterior.converged
        for site, value in truth.point.items():
            found.setdefault(site, []).append(recovered(posterior, site, value, centre[site]))
    seconds = (time.perf_counter() - start) / options.histories
    sites = {site: _summary(one) for site, one in found.items()}
    return {
        "model": name,
        "guide": guide,
        "seconds": round(seconds, 2),
        "flat": flat,
        "global": _summary([one for site in found if site not in per_prompt for one in found[site]]),
        "per_prompt": _summary([one for site in per_prompt for one in found[site]]) if per_prompt else None,
        "sites": sites,
    }


def centres(model: Any, num_prompts: int) -> dict[str, Tensor]:
    """The sites' means over many draws of the prior."""
    draws: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(200):
            trace = poutine.trace(model.prior).get_trace(pyro.plate("prompts", num_prompts, dim=-1))
            for site in trace.stochastic_nodes:
                draws.setdefault(site, []).append(trace.nodes[site]["value"])
    return {site: torch.stack(values).mean(0) for site, values in draws.items()}


def recovered(posterior: Posterior, site: str, truth: Tensor, centre: Tensor) -> Recovered:
    """How one site of one fit compares with the truth."""
    low, high = torch.quantile(posterior.draws[site], torch.tensor(WITHIN), dim=0)
    inside = (low <= truth) & (truth <= high)
    return Recovered(inside, (posterior.point[site] - truth).abs(), (centre - truth).abs())


def _summary(found: list[Recovered]) -> dict[str, float]:
    """Means over all scalars of all simulations."""
    inside, error, prior = (
        torch.cat([part.flatten().double() for part in parts]) for parts in zip(*found, strict=True)
    )
    means = {"coverage": inside.mean(), "error": error.mean(), "prior_error": prior.mean()}
    return {"scalars": len(inside), **{name: round(float(value), 4) for name, value in means.items()}}


if __name__ == "__main__":
    main()
