"""The rollouts that a run saved compared with another, drawn between their curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dps_pyro.report import measures
from dps_pyro.report.canvas import AMBER
from dps_pyro.report.run import Run, column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_saving"]


def draw_saving(axes: Axes, run: Run, name: str, other: Run) -> str:
    """Draw the rollouts that both runs took to the other run's final accuracy between their curves. Return a sentence
    that says it, or an empty string if that accuracy was not reached."""
    curves = [(column(arm.evals, "rollouts"), column(arm.evals, "accuracy")) for arm in (run, other)]
    curves = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in curves]
    if any(len(y) < 2 for _, y in curves):
        return ""
    target, own, theirs = measures.saving(*curves)
    if not (math.isfinite(own) and math.isfinite(theirs) and theirs > 0):
        return ""
    axes.annotate("", (own, target), (theirs, target), arrowprops={"arrowstyle": "<->", "color": AMBER})
    axes.annotate(
        f"{own / theirs:.0%} of the rollouts", ((own + theirs) / 2, target), (0, -4), textcoords="offset points",
        ha="center", va="top", fontsize=8,
    )  # fmt: skip
    return (
        f" The arrow is at {target:.1%}, the final accuracy of {name} (the mean of its last {measures.LAST} "
        f"evaluations): it took {theirs:,.0f} rollouts there, and this run {own:,.0f}."
    )
