"""Is a model that is fitted again in the course of a run better off with a prior that earlier runs taught?

    python -m benchmarks.prediction.refits --out benchmarks/results/refits.json

Each model is replayed on each report log with 32 random prompts per step, and is fitted again every 10 steps to what it
was shown: once from its own prior, and once from the prior that the development logs taught it
(`benchmarks.prediction.replay`, priors "online" and "both"). Both replays are shown the same groups, so that their log
scores are compared prompt by prompt. The predictions of prompts that were never visited are scored before the first
refit, when no model knows anything of the run but its outcomes, and after it.

The last part says what calibration is possible there: logs are simulated from the fitted `LogitWalk` and predicted by
it, so that the model is exactly true; and from parameters drawn from the model's own prior and predicted by the fitted
one, so that the model is true and its parameters are another run's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import results
from benchmarks.prediction.logs import FOLDER
from benchmarks.prediction.replay import BOTH, REPORT, Bench, Cell, Prior
from dps_pyro import PromptSampler
from dps_pyro.evaluation.replays import Replay, replay
from dps_pyro.evaluation.scores import log_score
from dps_pyro.evaluation.simulation import simulate

MODELS = (*BOTH, "Siblings", "Siblings, groups")
WAYS: dict[str, Prior] = {"own": "online", "fitted": "both"}
"""Where the refits start."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay every model on every log in both ways, and write what they scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", nargs="+", default=REPORT)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--refit-every", type=int, default=10)
    parser.add_argument("--fit-steps", type=int, default=1000, help="SVI steps of a prior at most")
    parser.add_argument("--simulations", type=int, default=30, help="simulated logs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the logs are")
    parser.add_argument("--runs", type=Path, default=Path("runs/replay"), help="where the fitted priors are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/refits.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bench = Bench(options)
    rows = []
    for model in options.models:
        for log in options.logs:
            played = {way: bench.play(Cell(log, "uniform", model, prior)) for way, prior in WAYS.items()}
            rows.append({"model": model, "log": log, **compared(played["own"], played["fitted"], options.refit_every)})
            print(f"{model}, {log}: {rows[-1]['ahead']}", flush=True)
    result = {
        "what": "refits in the course of a run, from the model's own prior and from a fitted one",
        "date": results.today(),
        "machine": results.machine(),
        "configuration": {"batch_size": options.batch_size, "refit_every": options.refit_every,
                          "fit_steps": options.fit_steps, "seed": options.seed},
        "rows": rows,
        "simulated": simulated(bench, options.simulations),
    }  # fmt: skip
    results.write(options.out, result)


def compared(own: Replay, fitted: Replay, first: int) -> dict[str, Any]:
    """Two replays of the same groups, side by side.

    Args:
        own, fitted: The replays.
        first: The step of the first refit.

    Returns:
        For each replay its "log_score" over all predictions, and what was predicted of prompts that were never visited:
        log score, ECE, mean chance and useful share over the whole log, before the first refit, and from it on. "ahead"
        is the mean difference of the log scores (fitted less own) and its standard error over prompts.
    """
    late = torch.arange(len(own.useful))[:, None] >= first
    periods = {"all": own.unvisited, "before": own.unvisited & ~late, "after": own.unvisited & late}
    told = {
        way: {
            "log_score": float(log_score(replay.chance, replay.useful).mean()),
            "unvisited": {name: _unvisited(replay, where) for name, where in periods.items()},
        }
        for way, replay in (("own", own), ("fitted", fitted))
    }
    less = (log_score(fitted.chance, fitted.useful) - log_score(own.chance, own.useful)).mean(0)
    return {**told, "ahead": {"mean": float(less.mean()), "error": float(less.std() / len(less) ** 0.5)}}


def simulated(bench: Bench, number: int) -> dict[str, list[float]]:
    """The ECE on never-visited prompts of simulated logs as large as the report logs, by whether the parameters are
    those that the filter has ("same") or are drawn from the model's own prior ("other")."""
    log = bench.log(REPORT[0])
    model = bench.model("LogitWalk", log)
    prior = bench.prior(Cell(REPORT[0], "uniform", "LogitWalk", "fitted"), model)
    found: dict[str, list[float]] = {"same": [], "other": []}
    for seed in range(number):
        for kind, errors in found.items():
            same = kind == "same"
            made = simulate(
                model, log.num_prompts, log.num_steps, values=prior.point if same else None, centre=same,
                progress=log.progress(), seed=seed,
            )  # fmt: skip
            sampler = PromptSampler(model, log.num_prompts, posterior=prior, seed=seed)
            size = bench.options.batch_size
            played = replay(made.log, sampler, selection="uniform", batch_size=size, seed=seed, progress=False)
            errors.append(played.quality(played.unvisited).ece)
    return found


def _unvisited(replay: Replay, where: Tensor) -> dict[str, float]:
    quality = replay.quality(where)
    return {
        "size": quality.size,
        "log_score": quality.log_score,
        "ece": quality.ece,
        "predicted": float(replay.chance[where].mean()),
        "useful": float(replay.useful[where].double().mean()),
    }


if __name__ == "__main__":
    main()
