"""Which model predicts a log best: fits side by side, ranked by expected log predictive density."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.evaluation.elpd import Difference, Elpd, difference, held_out, loo, prequential
from dps_pyro.history.layouts import layout
from dps_pyro.history.log import RolloutHistory, observed
from dps_pyro.inference.fitting import fit
from dps_pyro.inference.methods import Method
from dps_pyro.support import checks
from dps_pyro.tracking.predictor import Predictor
from dps_pyro.tracking.tracker import fitted_part, is_fitted

__all__ = ["Compared", "Score", "compare", "halves"]

Score = Literal["loo", "prequential", "held-out"]


class Compared(NamedTuple):
    """One model of a comparison."""

    name: str
    elpd: Elpd
    behind: Difference  # how far behind the best, at most 0, paired by prompt; 0 for the best
    per_group: float  # the elpd over the number of groups scored
    seconds: float  # of the fit; 0 for a baseline, which is not fitted
    converged: bool


def compare(
    models: Mapping[str, Dynamics[Any] | Predictor],
    history: RolloutHistory,
    *,
    score: Score = "loo",
    method: Method | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[Compared]:
    """Fit models to a log and rank them, the best first.

    Args:
        models: name -> model, or a baseline that brings its own filter (prequential only).
        history: the log, with outcomes.
        score: "loo": fitted to the whole log, PSIS-LOO over prompts. "held-out": fitted to a random half of the
            prompts, the other half's exact log predictive density. "prequential": fitted as for "held-out", and the
            other half filtered online at the point estimate, as a training run would: `sum log p(y_t | y_<t)`;
            baselines learn nothing from the first half, and filter the same prompts.
        method: how to fit, as for `fit`.
        seed: the random seed of the fits, the halves and the averages.
        progress: show a progress bar for each fit.

    Raises:
        ValueError: there are no models; a baseline is asked for another score; or there are too few prompts to halve.
    """
    observed(history)
    if not models:
        raise ValueError("models: expected at least one, got none")
    baselines = [name for name, model in models.items() if not is_fitted(model)]
    if score not in ("loo", "prequential", "held-out"):
        raise ValueError(f"score: expected 'loo', 'prequential' or 'held-out', got {score!r}")
    if baselines and score != "prequential":
        raise ValueError(
            f"score: expected 'prequential', the only one that baselines have, with {', '.join(baselines)} among the "
            f"models, got {score!r}"
        )
    train, test = (history, history) if score == "loo" else halves(history, seed)
    found = []
    for name, model in models.items():
        start, converged, point = time.perf_counter(), True, None
        if (learned := fitted_part(model)) is not None:
            posterior = fit(learned, train, method, seed=seed, progress=progress)
            converged, point = posterior.converged, posterior.population().point
        seconds = time.perf_counter() - start if learned is not None else 0.0
        if score == "prequential" or not is_fitted(model):
            elpd = prequential(model, test, point).elpd
        else:
            elpd = (loo if score == "loo" else held_out)(model, test, posterior, seed=seed)
        found.append(Compared(name, elpd, Difference(0.0, 0.0), elpd.total / _groups(test), seconds, converged))
    found.sort(key=lambda one: -one.elpd.total)
    best = found[0]
    return [best, *(one._replace(behind=difference(one.elpd, best.elpd)) for one in found[1:])]


def halves(history: RolloutHistory, seed: int = 0) -> tuple[RolloutHistory, RolloutHistory]:
    """The log of a random half of the prompts that have rollouts, and that of the others; both over all prompts.

    Raises:
        ValueError: there are fewer than two prompts with rollouts.
    """
    groups = layout(history)
    visited = groups.prompt[groups.trials > 0].unique()
    if len(visited) < 2:
        raise ValueError(f"history: expected at least two prompts with rollouts to halve, got {len(visited)}")
    generator = torch.Generator().manual_seed(checks.count("seed", seed, 0))
    chosen: Tensor = visited[torch.randperm(len(visited), generator=generator)[: len(visited) // 2]]
    ours = torch.isin(history.events.prompt, chosen)
    return history.where(ours), history.where(~ours)


def _groups(history: RolloutHistory) -> int:
    return int((layout(history).trials > 0).sum())
