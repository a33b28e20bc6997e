"""The pictures of the docs, from the result files; `benchmarks.docs.evidence` draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["demo", "planning", "replay", "selectors"]

SHOWN = {
    "PaperDPS": "#D55E00",
    "BetaBernoulli, decay 0.8": "#999999",
    "RewardEMA": "#E69F00",
    "SolvingProgress": "#56B4E9",
    "LogitWalk": "#CC79A7",
    "Siblings, features": "#000000",
    "Covariate, fitted": "#009E73",
    "Hierarchical, groups, fitted": "#0072B2",
}
"""What the picture shows, and in which colour."""


def replay(result: dict[str, Any], path: Path) -> None:
    """The log score over the steps, nine of them averaged, and the reliability diagram of all held-out logs."""
    figure = _figure((9.0, 3.8))
    left, right = figure.subplots(1, 2)
    right.plot([0, 1], [0, 1], color="#cccccc", linewidth=1)
    for row, hue in SHOWN.items():
        curve = result["curves"]["uniform"][row]
        score, width = np.array(curve["log_score"]), 9
        weights = np.convolve(np.ones_like(score), np.ones(width), "same")
        left.plot(np.convolve(score, np.ones(width), "same") / weights, color=hue, linewidth=1.5, label=row)
        bins = curve["calibration"]
        right.plot(bins["predicted"], bins["happened"], color=hue, linewidth=1.5, marker="o", markersize=3)
    left.set_title("log score of the predicted chance, all prompts", fontsize=10, loc="left")
    left.set_xlabel("training steps")
    right.set_title("calibration", fontsize=10, loc="left")
    right.set_xlabel("predicted chance of a useful group")
    right.set_ylabel("share that was useful")
    left.legend(frameon=False, fontsize=7)
    _save(figure, path)


def selectors(result: dict[str, Any], path: Path) -> None:
    """Accuracy against training steps, mean over seeds with one standard error; dynamic sampling dashed."""
    figure = _figure((7.5, 4.2))
    axes = figure.add_subplot()
    hues = [
        "#000000",
        "#D55E00",
        "#56B4E9",
        "#0072B2",
        "#009E73",
        "#999999",
        "#E69F00",
        "#CC79A7",
        "#8C564B",
        "#444444",
    ]
    budget = np.mean(result["arms"]["uniform"]["rollouts_by_step"])
    for (name, arm), hue in zip(result["arms"].items(), hues, strict=False):
        accuracy = np.array(arm["accuracy"])
        times = np.mean(arm["rollouts_by_step"]) / budget
        label = name if times < 1.01 else f"{name}: {times:.1f} times the rollouts"
        style = "-" if times < 1.01 else "--"
        _band(axes, arm["steps"], accuracy, hue, label=label, linestyle=style)
    axes.set_xlabel("training steps")
    axes.set_ylabel("held-out accuracy")
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    _save(figure, path)


PLANNED = {
    "dynamic sampling": "#000000",
    "Siblings, groups of 1": "#0072B2",
    "Siblings, soft": "#56B4E9",
    "SPO": "#E69F00",
    "MoPPS": "#009E73",
    "SolvingProgress, soft": "#CC79A7",
    "PaperDPS, top": "#D55E00",
    "uniform": "#999999",
}
"""Which arms the picture of the planning testbed shows, and in which colour."""


def planning(result: dict[str, Any], path: Path) -> None:
    """Accuracy against rollouts, on a logarithmic axis: the mean over seeds, with one standard error."""
    from matplotlib.ticker import PercentFormatter

    figure = _figure((7.5, 4.2))
    axes = figure.add_subplot()
    (curves,) = result["curves"].values()
    for arm, hue in PLANNED.items():
        runs = list(curves[arm].values())
        rollouts = np.mean([run["rollouts"] for run in runs], 0)[1:] / 1000
        accuracy = np.array([run["accuracy"] for run in runs])[:, 1:]
        _band(axes, rollouts, accuracy, hue, label=arm, marker="o", markersize=2.5)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.set_xlabel("training rollouts, thousands")
    axes.set_ylabel("held-out accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    _save(figure, path)


def demo(result: dict[str, Any], path: Path) -> None:
    """The picture of one demo: accuracy on the left and useful groups on the right."""
    from matplotlib.ticker import PercentFormatter

    figure = _figure((9.0, 3.2))
    left, right = figure.subplots(1, 2)
    for arm, colour, label in (("predicted", "#0072B2", "predicted prompts"), ("uniform", "#D55E00", "uniform")):
        curves = result[arm]
        rollouts = np.array(curves["held_out_rollouts"]) / 1000
        left.errorbar(
            rollouts, curves["accuracy"], curves["stderr"], color=colour, marker="o", markersize=3, label=label
        )
        useful, width = np.array(curves["useful"]), 9
        weights = np.convolve(np.ones_like(useful), np.ones(width), "same")
        steps = np.array(curves["rollouts"]) / 1000
        right.scatter(steps, useful, color=colour, s=5, alpha=0.3, linewidths=0)
        right.plot(steps, np.convolve(useful, np.ones(width), "same") / weights, color=colour, label=label)
    left.set_title("held-out accuracy", fontsize=10, loc="left")
    right.set_title("share of groups with a learning signal", fontsize=10, loc="left")
    right.set_ylim(0, 1)
    for axes in (left, right):
        axes.set_xlabel("training rollouts, thousands")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, path)


def _figure(size: tuple[float, float]) -> Any:
    """An empty figure of so many inches, which needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _band(axes: Any, x: Any, values: Any, hue: str, **line: Any) -> None:
    """The mean of `values` [seeds, points] over the seeds as a line, and one standard error around it."""
    mean, error = values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5
    axes.plot(x, mean, color=hue, linewidth=1.6, **line)
    axes.fill_between(x, mean - error, mean + error, color=hue, alpha=0.1, linewidth=0)


def _save(figure: Any, path: Path) -> None:
    """Write a figure, its panels without frames and with faint lines to read values by."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
