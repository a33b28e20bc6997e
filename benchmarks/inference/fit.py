"""What fitting costs: a hierarchical model of ten thousand prompts, an SVI step beside Pyro's unrolled enumeration, and
the pooled model beside dynamax's EM.

    python -m benchmarks.inference.fit --peers-python peers/bin/python --out benchmarks/results/fit.json

1. `fit(Hierarchical(), ...)`, seven levels and a prompt's ease summed out on three nodes, with fit's defaults, on
   simulated prompts x steps of which a tenth is observed: seconds, whether the ELBO went flat, and how far the
   estimates are from what made the data. Target: under a minute. The same with three levels and a site of each
   prompt's own, `Hierarchical(levels=3, nodes=None)`.
2. One step of SVI (a mean-field normal guide, all prompts) on the same model and history, with the states summed out in
   closed form (`Dynamics.model`) and enumerated step by step by Pyro (`Dynamics.enumerated_model`, `TraceEnum_ELBO`):
   the medians' ratio, after both gave the same loss at the same parameters. Target: at least 3.
3. The pooled model, every group observed: the log-likelihood at the same parameters by `Progress` and by dynamax's
   `MultinomialHMM` (to 1e-3, in float64); then the most probable parameters by `SVI(guide="delta")`, and the most
   likely ones by dynamax's EM from the same start: seconds, and the log-likelihood reached.

On one thread, unless told otherwise, one part after the other. Without --peers-python the third part has our side only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import infer
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_mean
from torch import Tensor

from benchmarks.inference.filter import ask, write
from dps_pyro import SVI, Dynamics, RolloutHistory, Step, fit
from dps_pyro.dynamics.progress import Progress
from dps_pyro.models import Hierarchical, SolvingProgress

TRUTH = {
    "gaps": torch.tensor([0.05, 0.40, 0.48, 0.07]),
    "initial": torch.tensor([0.5, 0.35, 0.15]),
    "transition": torch.tensor([[0.96, 0.035, 0.005], [0.015, 0.95, 0.035], [0.002, 0.018, 0.98]]),
}
"""Of the pooled model, and of three levels."""
SCALES = {"prompt_scale": torch.tensor([1.0, 0.5])}
SHAPES: dict[str, dict[str, Any]] = {"default": {}, "own": {"levels": 3, "nodes": None}}
SECONDS, RATIO, APART = 60.0, 3.0, 1e-3


def main() -> None:
    """Measure, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--observed", type=float, default=0.1, help="the share of prompts x steps with a group")
    parser.add_argument("--unrolled-prompts", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--pooled-prompts", type=int, default=1_000)
    parser.add_argument("--iterations", type=int, default=100, help="of EM")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers-python", type=Path, help="a Python that has dynamax; without: ours alone")
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    found: dict[str, Any] = {
        "load": round(os.getloadavg()[0], 1),  # of other processes, before it began
        "fit": {name: _hierarchical(options, shape) for name, shape in SHAPES.items()},
        "step": {name: _steps(options, shape) for name, shape in SHAPES.items()},
        "pooled": _pooled(options),
    }
    if options.out is not None:
        write(options.out, "fitting: seconds, and ratios of seconds in one run", options, found)
    missed = [
        *([] if all(row["seconds"] < SECONDS for row in found["fit"].values()) else [f"a fit under {SECONDS:.0f} s"]),
        *(
            []
            if all(row["ratio"] >= RATIO for rows in found["step"].values() for row in rows)
            else [f"a step {RATIO:.0f} times faster"]
        ),
    ]
    if missed:
        raise SystemExit(f"expected {' and '.join(missed)}")


def simulated(
    model: Dynamics[Any], num_prompts: int, num_steps: int, observed: float, values: dict[str, Tensor]
) -> RolloutHistory:
    """Groups of eight rollouts at random places."""
    trials = torch.where(torch.rand(num_prompts, num_steps) < observed, 8, 0)
    law = Progress(model, model.parameters(num_prompts, values), Step(trials))
    return RolloutHistory.from_dense(law.sample().double(), trials)


def truth(shape: dict[str, Any], num_prompts: int) -> dict[str, Tensor]:
    """What the data of a `Hierarchical` are made with; of more than three levels the prior's means."""
    if not shape:
        return dict(SCALES)
    return {**TRUTH, **SCALES, "z_prompt": torch.randn(num_prompts)}


def _hierarchical(options: argparse.Namespace, shape: dict[str, Any]) -> dict[str, Any]:
    values = truth(shape, options.prompts)
    history = simulated(Hierarchical(**shape), options.prompts, options.steps, options.observed, values)
    start, busy = time.perf_counter(), time.process_time()
    posterior = fit(Hierarchical(**shape), history, SVI(), seed=options.seed, progress=False)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    point, model = posterior.point, Hierarchical(**shape)
    ease = values.pop("z_prompt", None)
    means = {
        "gaps": model.rate_gaps,
        "initial": model.initial_concentration,
        "transition": model.transition_concentration,
    }
    values = {name: mean / mean.sum(-1, keepdim=True) for name, mean in means.items()} | values
    row = {
        "prompts": options.prompts,
        "groups": len(history),
        "states": len(model.states),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(busy, 1),  # the same, on a machine that does nothing else
        **{name: posterior.about[name] for name in ("steps", "stopped", "batch_size")},
        "error": {name: round(float((point[name] - value).abs().max()), 4) for name, value in values.items()},
    }
    if ease is not None:
        row["ease_correlation"] = round(float(torch.corrcoef(torch.stack([point["z_prompt"], ease]))[0, 1]), 3)
    print(f"Hierarchical({shape or ''}), {options.prompts:,} prompts: {row}", flush=True)
    return row


def _steps(options: argparse.Namespace, shape: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for size in options.unrolled_prompts if shape else options.unrolled_prompts[:1]:  # 21 states are 441 moves a prompt
        model = Hierarchical(**shape)
        history = simulated(model, size, options.steps, options.observed, truth(shape, size))
        seconds, losses = {}, {}
        for name, method, elbo, repetitions in (
            ("closed form", model.model, Trace_ELBO(), 20),
            ("unrolled", model.enumerated_model, TraceEnum_ELBO(max_plate_nesting=1), 3),
        ):
            losses[name], seconds[name] = _svi(model, method, elbo, history, repetitions)
        if abs(losses["closed form"] / losses["unrolled"] - 1) > 1e-4:
            raise SystemExit(f"expected one loss from both, got {losses}")
        ratio = seconds["unrolled"] / seconds["closed form"]
        milliseconds = {name: round(1e3 * value, 1) for name, value in seconds.items()}
        rows.append({"prompts": size, "milliseconds": milliseconds, "ratio": round(ratio, 1)})
        print(f"An SVI step of {size:,} prompts: {milliseconds} ms, {ratio:.1f} times faster", flush=True)
    return rows


def _svi(
    model: Dynamics[Any], method: Callable[..., Any], elbo: Any, history: RolloutHistory, repetitions: int
) -> tuple[float, float]:
    """The loss of the first step, and the median seconds of later ones."""

    def prior(history: RolloutHistory) -> None:
        model.prior(pyro.plate("prompts", history.num_prompts, dim=-1))

    pyro.clear_param_store()
    guide = AutoNormal(prior, init_loc_fn=init_to_mean, init_scale=0.05)
    svi = infer.SVI(method, guide, pyro.optim.ClippedAdam({"lr": 0.01}), elbo)
    guide(history)
    torch.manual_seed(0)
    loss = float(svi.step(history))
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        svi.step(history)
        times.append(time.perf_counter() - start)
    return loss, statistics.median(times)


def _pooled(options: argparse.Namespace) -> dict[str, Any]:
    model = SolvingProgress()
    history = simulated(model, options.pooled_prompts, options.steps, 1.0, TRUTH)
    solved, trials, *_ = history.dense()
    if solved is None:
        raise AssertionError("a simulated history has outcomes")
    torch.set_default_dtype(torch.float64)
    law = SolvingProgress()

    def likelihood(values: dict[str, Tensor]) -> float:
        values = {name: value.double() / value.double().sum(-1, keepdim=True) for name, value in values.items()}
        return float(Progress(law, law.parameters(len(solved), values), Step(trials)).log_prob(solved.double()).sum())

    centre = law.parameters(len(solved))
    begin = {
        "gaps": torch.diff(centre.rates, prepend=torch.zeros(1), append=torch.ones(1)),
        "initial": centre.initial,
        "transition": centre.matrix,
    }
    at_start = likelihood(begin)
    torch.set_default_dtype(torch.float32)
    start = time.perf_counter()
    posterior = fit(model, history, SVI(guide="delta"), seed=options.seed, progress=False)
    seconds = time.perf_counter() - start
    torch.set_default_dtype(torch.float64)
    row: dict[str, Any] = {
        "prompts": options.pooled_prompts,
        "groups": len(history),
        "fit": {
            "seconds": round(seconds, 1),
            "steps": posterior.about["steps"],
            "stopped": posterior.about["stopped"],
            "log_likelihood": round(likelihood(dict(posterior.point)), 3),
        },
    }
    print(f"Pooled, {len(history):,} groups: {row['fit']}")
    if options.peers_python is not None:
        job = {"rates": centre.rates, "initial": begin["initial"], "transition": begin["transition"], "solved": solved}
        arrays = {name: value.double().numpy() for name, value in job.items()}
        sizes = {"trials": np.array(8), "iterations": np.array(options.iterations)}
        em = ask(options.peers_python, "fit", "dynamax", {**arrays, **sizes}, options.threads)
        rates = torch.tensor(em["rates"])
        there = {"initial": torch.tensor(em["initial"]), "transition": torch.tensor(em["transition"])}
        there["gaps"] = torch.diff(rates, prepend=torch.zeros(1), append=torch.ones(1))
        apart = {"start": at_start - float(em["at_start"]), "end": likelihood(there) - float(em["at_end"])}
        if max(map(abs, apart.values())) > APART:
            raise SystemExit(f"expected log-likelihoods within {APART} of dynamax's, got {apart} apart")
        row["em"] = {
            "seconds": round(float(em["seconds"]), 1),
            "iterations": options.iterations,
            "log_likelihood": round(float(em["at_end"]), 3),
            "log_likelihoods_apart": {name: float(f"{value:.2e}") for name, value in apart.items()},
            "version": str(em["version"]),
        }
        print(f"dynamax's EM: {row['em']}")
    else:
        print("dynamax was left out: give --peers-python, a Python that has it.")
    torch.set_default_dtype(torch.float32)
    return row


if __name__ == "__main__":
    main()
