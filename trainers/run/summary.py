"""The end of a run: a summary of what it reached, and a fit of what its rollouts say about the prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.step import Step
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.fitting import fit, suits_laplace
from dps_pyro.inference.methods import SVI, Laplace
from dps_pyro.report import write_report
from dps_pyro.storage import parse_json, strict_json
from dps_pyro.tracking.predictor import Predictor
from dps_pyro.tracking.tracker import fitted_part
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.parts import make_model, make_task
from dps_pyro.trainers.run.folder import RunFolder
from dps_pyro.trainers.run.seals import seal_run

__all__ = ["complete", "finish"]


def finish(
    folder: RunFolder,
    config: TrainConfig,
    dynamics: Dynamics[Any] | Predictor,
    history: RolloutHistory,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Fit the model to the run's own history (`posterior/`), write `summary.json`, and draw `report.html`.

    Args:
        folder: the run, all its steps logged.
        config: its configuration; without `report` there is only the summary.
        dynamics: the model of solving progress.
        history: every group of the run.
        say: is told what is under way when that takes a while.

    Returns:
        The summary. The checksums of the run are written last, so that a run that has them is complete.
    """
    summary = _summarise(folder, config, dynamics, history, say)
    if config.evaluation.report:
        _draw(folder, config, say)
    seal_run(folder.path)
    return summary


def complete(
    folder: RunFolder, config: TrainConfig, summary: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Draw the report of a finished run where it is wanted and missing: the run was killed while it was drawn, or was
    made without. Returns the summary, with what the fit adds where that was missing, too."""
    if not config.evaluation.report or (folder.path / "report.html").exists():
        return summary
    history = RolloutHistory.from_parquet(folder.path / "history.parquet")
    dynamics = make_model(config, make_task(config), history.features)
    if fitted_part(dynamics) is not None and not (folder.path / "posterior").exists():
        return finish(folder, config, dynamics, history, say)
    _draw(folder, config, say)
    seal_run(folder.path)
    return summary


def _draw(folder: RunFolder, config: TrainConfig, say: Callable[[str], None]) -> None:
    say("Drawing the report.")
    write_report(folder.path, config.evaluation.compare)


def _summarise(
    folder: RunFolder,
    config: TrainConfig,
    dynamics: Dynamics[Any] | Predictor,
    history: RolloutHistory,
    say: Callable[[str], None],
) -> dict[str, Any]:
    lines = folder.metrics()
    train = [line for line in lines if line["kind"] == "train"]
    accuracy = [line["accuracy"] for line in lines if line["kind"] == "eval"]
    seconds = {name: sum(line[name] for line in train) for name in train[-1] if name.startswith("seconds/")}
    learned: dict[str, Any] = {"states": list(dynamics.states)}
    # A model without such a part learns all it can in the run itself.
    if config.evaluation.report and (model := fitted_part(dynamics)) is not None:
        say(f"Fitting {type(model).__name__} to the run's {len(history):,} groups of rollouts.")
        # 300 steps of SVI: the fewest after which `fit` can tell that the ELBO is flat.
        method: Laplace | SVI = Laplace() if suits_laplace(model, history) else SVI(steps=300, learning_rate=0.1)
        posterior = fit(model, history, method, seed=config.machine.seed, progress=False)
        posterior.save(folder.path / "posterior")
        learned |= _learned(model, dict(posterior.point), history.num_prompts)
        learned["posterior_converged"] = posterior.converged
    summary = {
        "model": config.selection.dynamics,
        "acquisition": config.selection.acquisition,
        **learned,
        "accuracy_before": accuracy[0],
        "accuracy_after": accuracy[-1],
        "useful_share": sum(line["useful"] for line in train) / len(train),
        "useful_pool": sum(line["useful_pool"] for line in train) / len(train),
        "rollouts": train[-1]["rollouts"],
        "saved": train[-1]["saved"],
        "steps": len(train),
        "seconds": sum(seconds.values()),  # of training: neither evaluations nor checkpoints
        # What the prediction costs: the share of the time that went into selecting and observing.
        "selection_share": (seconds["seconds/select"] + seconds["seconds/observe"]) / max(sum(seconds.values()), 1e-9),
        "uniform": _uniform(config.evaluation.compare),
    }
    folder.write_text("summary.json", strict_json(summary, indent=1) + "\n")
    return summary


def _uniform(runs: Iterable[Path]) -> dict[str, Any] | None:
    """What the first run with uniform selection among the runs compared came to."""
    for run in runs:
        path = run / "summary.json"
        try:
            summary = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if not isinstance(summary, dict) or (
                summary and not {"acquisition", "steps", "useful_share"} <= set(summary)
            ):
                raise ValueError("another file")
        except ValueError as error:
            raise ValueError(
                f"compare: expected the summary of a finished run in {path}, got {error}; "
                f"dps-pyro train --resume --out {run} writes it again"
            ) from error
        if summary.get("acquisition") == "uniform":
            source = f"a run of {summary['steps']} steps with uniform selection, {run}"
            return {"useful_share": summary["useful_share"], "steps": summary["steps"], "source": source}
    return None


def _learned(dynamics: Dynamics[Any], point: dict[str, Tensor], num_prompts: int) -> dict[str, Any]:
    """The fitted chain, averaged over prompts: initial [K], transition [K, K], rates [K] where the model has them."""
    theta = dynamics.parameters(num_prompts, point)
    one = Step(torch.ones(1, dtype=torch.long))
    transition = dynamics.transition(theta, one).probs
    size = transition.shape[-1]
    rates = torch.as_tensor(dynamics.emission(theta, one).mean).reshape(-1, size).mean(0).tolist()
    return {
        "initial": dynamics.initial(theta).probs.reshape(-1, size).mean(0).tolist(),
        "transition": transition.reshape(-1, size, size).mean(0).tolist(),
        "rates": rates if all(map(math.isfinite, rates)) else None,
    }
