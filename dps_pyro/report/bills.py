"""The report's section on cost: what each run spent in all, and until it was as accurate as the least accurate run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from dps_pyro.report.cost import Spent, spent_by, trained_completions
from dps_pyro.report.run import Run, number

__all__ = ["CostRow", "cost_rows"]


class CostRow(NamedTuple):
    """One run's spending."""

    name: str
    whole: Spent
    reached: Spent | None  # until the accuracy that all runs reach in the end; None if it was never seen


def cost_rows(arms: Sequence[tuple[str, Run]]) -> tuple[list[CostRow], float]:
    """Return what the runs spent, and the accuracy at which they are compared: the lowest of their final accuracies, or
    NaN for a single run. Runs without steps, evaluations or lengths are left out."""
    known = [(name, run) for name, run in arms if run.evals and run.train and _complete(run)]
    ends = [number(run.evals[-1].get("accuracy")) for _, run in known]
    target = min(ends) if len(known) > 1 and all(map(math.isfinite, ends)) else math.nan
    rows = []
    for name, run in known:
        learned = {} if run.history is None else trained_completions(run.folder)
        whole = spent_by(run.train, run.evals, learned)
        if whole is not None:
            reached = None if math.isnan(target) else spent_by(run.train, run.evals, learned, target)
            rows.append(CostRow(name, whole, reached))
    return rows, target


def _complete(run: Run) -> bool:
    steps = (number(record.get(name)) for record in run.train for name in ("rollouts", "length", "step"))
    scores = (number(record.get(name)) for record in run.evals for name in ("accuracy", "step"))
    return all(map(math.isfinite, (*steps, *scores)))
