"""The seven figures of a report. Each function returns a `Picture`: the drawing, its title, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dps_pyro.report import measures
from dps_pyro.report.canvas import (
    AMBER,
    ARMS,
    BLUE,
    GREEN,
    INK,
    MUTED,
    PAPER,
    PURPLE,
    SKY,
    VERMILION,
    figure,
    label,
    rollouts_axis,
    share_axis,
)
from dps_pyro.report.run import Floats, Run, column, number
from dps_pyro.report.saving import draw_saving

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 400  # the largest number of raw points in a figure, so that the page of a long run stays small
_DASHES: Sequence[str | tuple[int, tuple[float, ...]]] = (
    (0, (5, 1.5)),
    (0, (3, 1.5, 1, 1.5)),
    (0, (1.5, 1.5)),
    (0, (8, 2)),
)


_ANNOTATED = 8  # the largest number of states for which cells have room for numbers, and axes for names


class Picture(NamedTuple):
    """A figure with its title and caption, as plain text. If `figure` is None, the caption says what is missing."""

    slug: str
    title: str
    caption: str
    figure: Figure | None


def draw(run: Run, others: Sequence[tuple[str, Run]]) -> list[Picture]:
    """Draw all figures of `run`, in reading order; `others` are other runs with their names."""
    return [
        accuracy(run, others),
        useful(run, others),
        belief(run),
        dynamics(run),
        calibration(run),
        visits(run),
        seconds(run),
    ]


def accuracy(run: Run, others: Sequence[tuple[str, Run]] = ()) -> Picture:
    """(1) Held-out accuracy against training rollouts."""
    title = "Held-out accuracy"
    if not run.evals:
        return Picture("accuracy", title, "No evaluation has been recorded yet.", None)
    drawn = figure()
    axes = drawn.add_subplot()
    arms = [(run.selector, run, BLUE), *((name, other, ARMS[i % len(ARMS)]) for i, (name, other) in enumerate(others))]
    tops = []
    ends: list[tuple[int, str]] = []
    for i, (name, arm, colour) in enumerate(arms):
        x, y, error = (column(arm.evals, key) for key in ("rollouts", "accuracy", "stderr"))
        error = np.maximum(0.0, np.nan_to_num(error))
        line = "-" if i == 0 else _DASHES[(i - 1) % len(_DASHES)]
        axes.errorbar(
            x,
            y,
            error,
            color=colour,
            linestyle=line,
            marker="o",
            markersize=3.2,
            elinewidth=1.2,
            capsize=0,
            label=label(name),
            zorder=3 if i == 0 else 2,
        )
        tops.append(np.nanmax(np.append(y + error, 0.0)))
        if i == 0:
            known = np.flatnonzero(np.isfinite(y))
            ends = [(int(at), f"{y[at]:.1%}") for at in (known[[0, -1]] if len(known) > 1 else known)]
    rollouts_axis(axes)
    top = float(min(1.0, max(tops) * 1.18)) or 1.0
    share_axis(axes, "accuracy", 0.0, top)
    x, y = column(run.evals, "rollouts"), column(run.evals, "accuracy")
    axes.set_xlim(-0.045 * float(np.nanmax(x, initial=1.0)))
    for i, (at, text) in enumerate(ends):
        # A rising line leaves room under its start and over its end.
        under = i == 0 and len(ends) > 1 and y[at] > 0.14 * top
        place, side = ((2, -9), "left") if under else ((-2, 8), "right") if i else ((0, 8), "center")
        va = "top" if under else "bottom"
        axes.annotate(text, (x[at], y[at]), place, textcoords="offset points", ha=side, va=va, weight="bold")
    told = ""
    if others:
        drawn.legend(loc="outside upper left", ncols=2, handlelength=2.4)
        told = draw_saving(axes, run, *others[0])
    last = run.evals[-1]
    size = f"{last.get('prompts', '?')} test prompts × {last.get('samples', '?')} samples"
    caption = (
        f"Share of answers that are right on {size} never trained on, against the rollouts paid for so far. Higher and "
        f"further left is better; bars are one standard error.{told}"
    )
    return Picture("accuracy", title, caption, drawn)


def useful(run: Run, others: Sequence[tuple[str, Run]] = ()) -> Picture:
    """(2) Realised and predicted share of useful groups against training rollouts."""
    title = "Useful groups"
    if not run.train:
        return Picture("useful", title, "No training step has been recorded yet.", None)
    drawn = figure()
    axes = drawn.add_subplot()
    window = measures.window_for(len(run.train))
    x, realised = run.column("rollouts"), run.column("useful")
    thin = slice(None, None, -(-len(x) // _POINTS))
    axes.plot(x[thin], realised[thin], "o", color=BLUE, alpha=0.3, markersize=2.6, markeredgewidth=0, zorder=1)
    axes.plot(x, measures.smooth(realised, window), color=BLUE, label=label(f"{run.selector}, realised"), zorder=4)
    predictions = (
        ("useful_predicted", "predicted for the selected", SKY, "--"),
        ("useful_pool", "predicted for the pool", MUTED, ":"),
    )
    for key, name, colour, dash in predictions:
        values = run.column(key)
        if np.isfinite(values).any():
            axes.plot(x, measures.smooth(values, window), color=colour, linestyle=dash, label=name, zorder=3)
    measured = measured_uniform(run)
    if np.isfinite(measured):
        axes.axhline(
            measured, color=AMBER, linestyle=(0, (8, 2)), linewidth=1.2, label="uniform, measured mean", zorder=2
        )
    for i, (name, other) in enumerate(others):
        arm = measures.smooth(other.column("useful"), measures.window_for(len(other.train)))
        dash_ = _DASHES[i % len(_DASHES)]
        axes.plot(
            other.column("rollouts"), arm, color=ARMS[i % len(ARMS)], linestyle=dash_, label=label(f"{name}, realised")
        )
    rollouts_axis(axes)
    share_axis(axes, "share of useful groups", 0.0, 1.02)
    drawn.legend(loc="outside upper left", ncols=2, handlelength=2.4)
    caption = (
        "A group of rollouts is useful when it is neither all right nor all wrong; only such groups have a gradient. "
        f"Points are single steps, lines a running mean of {window} step{'s' * (window > 1)}. The dotted line is the "
        "mean predicted chance over all prompts, what uniform selection would be expected to get: the gap above it is "
        "the gain."
    )
    return Picture("useful", title, caption, drawn)


def belief(run: Run) -> Picture:
    """(3) Belief mass by state over time."""
    title = "What the model believes"
    size = len(run.states)
    kept = [
        record
        for record in run.train
        if _is_row(record.get("belief"), size) and np.isfinite(number(record.get("rollouts")))
    ]
    if not size or not kept:
        return Picture("belief", title, "No belief has been recorded yet.", None)
    drawn = figure()
    axes = drawn.add_subplot()
    x = column(kept, "rollouts")
    mass = np.array([record["belief"] for record in kept], dtype=np.float64)
    few = slice(None, None, -(-len(x) // _POINTS))
    named = set(range(size)) if size <= 6 else {0, size // 2, size - 1}
    names = [label(name) if k in named else "_" for k, name in enumerate(run.states)]
    areas = axes.stackplot(x[few], mass[few].T, labels=names, colors=_ladder(size), alpha=0.85, linewidth=0)
    for area in areas:
        area.set_edgecolor(PAPER)
        area.set_linewidth(0.6)
    rollouts_axis(axes)
    axes.set_xlim(*((x[0], x[-1]) if len(x) > 1 else (0, x[0] * 2 or 1)))
    share_axis(axes, "belief mass, all prompts")
    drawn.legend(loc="outside upper left", ncols=3, handlelength=1.1, handleheight=1.1, columnspacing=1.4)
    caption = (
        "How the tracker divides all prompts, visited or not, among the states of solving, before each step's "
        "rollouts. Read a state's share as the height of its band; learning shows as the upper bands growing."
    )
    return Picture("belief", title, caption, drawn)


def dynamics(run: Run) -> Picture:
    """(4) The learned transition matrix, with the initial distribution and the states' solve rates."""
    title = "The learned dynamics"
    size = len(run.states)
    rows = run.value("transition")
    if not size or not isinstance(rows, Sequence) or len(rows) != size or not all(_is_row(row, size) for row in rows):
        missing = "The summary has no transition matrix."
        if not run.finished:
            missing = "The transition matrix is fitted when a run ends, so an unfinished run has none."
        return Picture("dynamics", title, missing, None)
    matrix = np.array(rows, dtype=np.float64)
    sides = [(name, run.value(key)) for name, key in (("start", "initial"), ("solve rate", "rates"))]
    sides = [(name, values) for name, values in sides if _is_row(values, size)]
    drawn = figure()
    widths = [size * 1.0, *[max(1.0, size / 4)] * len(sides)]
    grid = drawn.add_gridspec(1, len(widths), width_ratios=widths, wspace=0.04)
    axes = drawn.add_subplot(grid[0])
    _cells(axes, matrix, BLUE)
    names = [_wrap(name) for name in run.states] if size <= _ANNOTATED else [str(k + 1) for k in range(size)]
    every = slice(None, None, max(1, size // 8))  # names of many states would run into each other
    axes.set_xticks(range(size)[every], names[every])
    axes.set_yticks(range(size)[every], names[every])
    axes.set_ylabel("now")
    axes.set_xlabel("at the next step")
    for i, (name, values) in enumerate(sides, start=1):
        side = drawn.add_subplot(grid[i])
        _cells(side, np.array(values, dtype=np.float64)[:, None], GREEN if name == "start" else VERMILION)
        side.set_xticks([0], [name])
        side.set_yticks([])
    caption = (
        "Each row says where a prompt in that state goes at the next step: rows sum to 1, and the larger the diagonal, "
        "the longer a state lasts. Beside it, where the model has them: where prompts start, and how often a rollout "
        "solves a prompt in each state."
    )
    return Picture("dynamics", title, caption, drawn)


def calibration(run: Run) -> Picture:
    """(5) Predicted chance of a useful group at selection against what happened."""
    title = "Calibration of the predictions"
    scores = measures.calibration(run.history) if run.history else None
    if scores is None or not scores.total:
        return Picture("calibration", title, "The event log has no predictions to score yet.", None)
    from matplotlib.ticker import PercentFormatter

    drawn = figure()
    grid = drawn.add_gridspec(2, 1, height_ratios=[4, 1], hspace=0.04)
    axes = drawn.add_subplot(grid[0])
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=":")
    some = scores.groups > 0
    x, y = scores.predicted[some], scores.useful[some]
    reach = np.maximum(0.0, [y - scores.low[some], scores.high[some] - y])
    axes.errorbar(x, y, reach, fmt="o", color=BLUE, markersize=4.5, elinewidth=1.1, zorder=3)
    axes.annotate("perfect", (0.12, 0.12), (4, -3), textcoords="offset points", color=MUTED, va="top")
    share_axis(axes, "were useful", -0.03, 1.03)
    axes.set_xlim(0, 1)
    axes.tick_params(labelbottom=False)
    below = drawn.add_subplot(grid[1], sharex=axes)
    below.bar(np.arange(10) / 10 + 0.05, scores.groups, width=0.092, color=BLUE, alpha=0.35)
    below.set_ylim(0, scores.groups.max() * 1.45)
    for k, count in enumerate(scores.groups.tolist()):
        if count:
            above = (k / 10 + 0.05, count)
            below.annotate(f"{count:,}", above, (0, 1.5), textcoords="offset points", ha="center", size=7)
    below.set_yticks([])
    below.set_ylabel("groups")
    below.grid(visible=False)
    below.set_xlabel("predicted chance of a useful group, at selection")
    below.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    caption = (
        f"ECE {scores.ece:.3f}, Brier score {scores.brier:.3f} over {scores.total:,} groups, in ten equal bins; bars "
        "are 95% binomial (Wilson) intervals. Points below the dotted line mean that the model promised too much. "
        "These are the selected prompts only: the picture says nothing about prompts that were passed over."
    )
    return Picture("calibration", title, caption, drawn)


def visits(run: Run) -> Picture:
    """(6) How often each prompt was rolled out."""
    title = "Visits per prompt"
    if run.history is None or not len(run.history.prompt):
        return Picture("visits", title, "The event log has no groups yet.", None)
    from matplotlib.ticker import MaxNLocator

    count = measures.visits(run.history)
    top = int(count.max())
    width = max(1, -(-(top + 1) // 40))
    edges = np.arange(0, top + width + 1, width) - 0.5
    height, _ = np.histogram(count, edges)
    drawn = figure()
    axes = drawn.add_subplot()
    bars = axes.bar(edges[:-1] + width / 2, height, width=width * 0.88, color=BLUE, alpha=0.85)
    if width == 1:
        bars[0].set_facecolor(VERMILION)  # the prompts that were never visited
    mean = float(count.mean())
    axes.axvline(mean, color=INK, linestyle=":", linewidth=1.1)
    axes.set_ylim(0, height.max() * 1.12)
    axes.annotate(f"mean {mean:.1f}", (mean, height.max() * 1.1), (4, 0), textcoords="offset points", va="top")
    axes.set_xlabel("visits" if width == 1 else f"visits, in bins of {width}")
    axes.set_ylabel("prompts")
    axes.set_xlim(-0.5 - 0.15 * width, edges[-1] + 0.15 * width)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    never = int((count == 0).sum())
    caption = (
        f"How many groups each of the {len(count):,} prompts was given; {never:,} of them ({never / len(count):.0%}) "
        f"were never visited{' (the first bar)' if width == 1 and never else ''}. A long tail to the right means that "
        "a few prompts take many of the rollouts; uniform selection would crowd around the mean."
    )
    return Picture("visits", title, caption, drawn)


def seconds(run: Run) -> Picture:
    """(7) Where the wall-clock time of the steps went."""
    title = "Where the time goes"
    phases = measures.phase_seconds(run)
    shares = measures.shares(phases)
    if not shares:
        return Picture("seconds", title, "No step times have been recorded yet.", None)
    drawn = figure(11.4, 2.9)
    axes = drawn.add_subplot()
    steps = run.column("step")
    bins = np.array_split(np.arange(len(steps)), min(len(steps), 60))
    x = np.array([steps[at].mean() for at in bins])
    width = np.array([float(len(at)) for at in bins])
    colours = {"select": VERMILION, "rollout": BLUE, "reward": PURPLE, "observe": AMBER, "update": SKY}
    base = np.zeros(len(bins))
    for name, spent in phases.items():
        height = np.array([spent[at].mean() for at in bins])
        text = label(f"{name} {shares[name]:.1%}" if shares[name] >= 0.001 else f"{name} < 0.1%")
        axes.bar(x, height, width * 0.86, base, color=colours.get(name, MUTED), label=text)
        base += height
    axes.set_xlim(x[0] - width[0] / 2, x[-1] + width[-1] / 2)
    axes.set_xlabel("training step")
    axes.set_ylabel("seconds per step")
    axes.grid(visible=False, axis="x")
    drawn.legend(loc="outside upper left", ncols=6, handlelength=1.1, handleheight=1.1, columnspacing=1.6)
    own = sum(shares.get(name, 0.0) for name in measures.SELECTOR_PHASES)
    caption = (
        "Wall-clock seconds a training step, by phase; the legend gives each phase's share of the whole. The "
        f"selector is select and observe together: {own:.2%} of the time."
    )
    return Picture("seconds", title, caption, drawn)


def measured_uniform(run: Run) -> float:
    """The measured useful share of uniform selection, if the summary has it; otherwise NaN."""
    arm = run.summary.get("uniform")
    return float(column([arm], "useful_share")[0]) if isinstance(arm, dict) else float("nan")


def _is_row(values: object, size: int) -> bool:
    """Whether `values` is a list of `size` finite numbers."""
    return (
        isinstance(values, Sequence)
        and len(values) == size
        and all(isinstance(value, int | float) and np.isfinite(value) for value in values)
    )


def _wrap(name: str) -> str:
    return label(name).replace(" ", "\n", 1)


def _ladder(size: int) -> list[str]:
    """`size` colours from unsolved (vermilion) over amber to solved (blue)."""
    if size <= 3:
        return [VERMILION, AMBER, BLUE][:: 2 if size == 2 else 1][:size]
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    blend = LinearSegmentedColormap.from_list("ladder", [VERMILION, AMBER, BLUE])
    return [to_hex(blend(k / (size - 1))) for k in range(size)]


def _cells(axes: Axes, values: Floats, colour: str) -> None:
    """Draw a matrix of shares as cells whose opacity is the share. If there is room, each cell shows its number."""
    from matplotlib.patches import Rectangle

    rows, columns = values.shape
    for i in range(rows):
        for j in range(columns):
            share = float(np.clip(values[i, j], 0.0, 1.0))
            cell = Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, facecolor=colour, alpha=0.06 + 0.94 * share, linewidth=0)
            axes.add_patch(cell)
            if rows <= _ANNOTATED:
                axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=PAPER if share > 0.7 else INK)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
