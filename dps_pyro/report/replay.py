"""The table and the figure that compare replays of several predictors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dps_pyro.evaluation.replays import Replay
from dps_pyro.evaluation.scores import calibration
from dps_pyro.storage import atomic_path
from dps_pyro.support.extras import needed

__all__ = ["COLUMNS", "Column", "Spread", "best", "draw", "spreads"]

HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#444444", "#999999", "#000000")


class Column(NamedTuple):
    """One number of a `Replay.summary`."""

    title: str
    path: tuple[str, ...]  # its place in the summary
    sign: int  # 1: more is better, -1: less is better, 0: neither
    digits: int = 3
    of_selection: bool = False  # the same for all models that are shown the same groups


COLUMNS = (
    Column("log score", ("log_score",), 1),
    Column("Brier", ("brier",), -1),
    Column("ECE", ("ece",), -1),
    Column("early", ("first", "log_score"), 1),
    Column("unvisited", ("unvisited", "log_score"), 1),
    Column("top", ("useful_top",), 1, 2),
    Column("chosen", ("useful_chosen",), 1, 2, of_selection=True),
    Column("rollouts", ("rollouts_to_target",), -1, 0, of_selection=True),
    Column("visited", ("visited",), 0, 2, of_selection=True),
    Column("after shift", ("recovery", "after"), 1),
    Column("back in", ("recovery", "steps"), -1, 0),
)


class Spread(NamedTuple):
    """The mean and the spread of a number over logs; NaN if a log lacks it."""

    mean: float
    deviation: float  # the sample standard deviation; 0 for one log


def spreads(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    """Compute the mean and the spread of each column over logs, by title. Columns that no log has are left out."""
    found: dict[str, Spread] = {}
    for column in COLUMNS:
        values = [_at(summary, column.path) for summary in summaries]
        if all(value is None for value in values):
            continue
        numbers = np.array([math.nan if value is None else float(value) for value in values])
        deviation = float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
        found[column.title] = Spread(float(numbers.mean()), deviation)
    return found


def best(rows: Mapping[str, Mapping[str, Spread]]) -> dict[str, set[str]]:
    """Find the rows with the best mean of each column. Numbers that look equal in the table count as equal."""
    leaders: dict[str, set[str]] = {}
    for column in COLUMNS:
        means = {
            name: round(column.sign * row[column.title].mean, column.digits)
            for name, row in rows.items()
            if column.sign and column.title in row and not math.isnan(row[column.title].mean)
        }
        leaders[column.title] = {name for name, mean in means.items() if mean == max(means.values())}
    return leaders


def draw(replays: Mapping[str, Sequence[Replay]], path: Path, title: str = "") -> Path:
    """Draw a reliability diagram of all logs together and the mean log score over the steps, as PNG.

    Args:
        replays: name -> one replay per log, of the same logs for all names.
        path: the file to write.
        title: the title of the figure.
    """
    needed("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    left.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, zorder=0)
    lowest = []
    for place, (name, made) in enumerate(replays.items()):
        hue, style = HUES[place % len(HUES)], "-" if place < len(HUES) else "--"
        chance, useful = (torch.cat([getattr(one, field).flatten() for one in made]) for field in ("chance", "useful"))
        bins = calibration(chance, useful)
        sizes = 6 + 120 * bins.size / bins.size.sum()
        left.plot(bins.predicted, bins.happened, color=hue, linewidth=1, linestyle=style, alpha=0.8)
        left.scatter(bins.predicted, bins.happened, s=sizes, color=hue, linewidths=0, alpha=0.8, clip_on=False)
        shortest = min(len(one.chance) for one in made)
        score = _smooth(torch.stack([one.log_score[:shortest] for one in made]).mean(0).numpy())
        right.plot(range(shortest), score, color=hue, linestyle=style, linewidth=1.6, label=name)
        lowest.append(float(score.min()))
    left.set_xlabel("predicted chance of a useful group")
    left.set_ylabel("share that was useful")
    left.set_title("calibration, all prompts and steps", fontsize=10, loc="left")
    left.set_xlim(0, 1)
    left.set_ylim(0, 1)
    # Predictors that were certain and wrong score far lower. Scores below -1 are cut off, unless all of them are.
    right.set_ylim(bottom=1.05 * max(min(lowest), min(max(lowest), -1.0)))
    right.set_xlabel("training steps")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_title("log score of all prompts (mean of five steps; 0 is perfect)", fontsize=10, loc="left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    right.legend(frameon=False, fontsize=7, loc="lower right")
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    with atomic_path(path) as aside:
        figure.savefig(aside, dpi=160, format="png")
    return path


def _smooth(values: np.ndarray, width: int = 5) -> np.ndarray:
    """The mean of the last `width` steps, or of as many as there are."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    smoothed: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return smoothed


def _at(summary: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = summary
    for name in path:
        value = None if value is None else value[name]
    return None if isinstance(value, float) and math.isnan(value) else value
