"""The pictures of a diagnosis, a comparison and a calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dps_pyro.report.canvas import (
    AMBER,
    BLUE,
    INK,
    MUTED,
    PAPER,
    RULE,
    VERMILION,
    figure,
    label,
    share_axis,
    style,
    to_png,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dps_pyro.evaluation.comparison import Compared
    from dps_pyro.evaluation.diagnosis import Diagnosis
    from dps_pyro.evaluation.predictive import Check
    from dps_pyro.evaluation.sbc_ranks import Ranks

__all__ = ["draw_comparison", "draw_diagnosis", "draw_ranks"]


def draw_diagnosis(found: Diagnosis, path: Path) -> Path:
    """Draw six panels as PNG: the log beside its replications (two curves and three numbers), the scores of each step's
    groups, Pareto k per prompt, and the states in hindsight."""
    with style():
        canvas = figure(10.5, 6.0)
        panels = canvas.subplots(2, 3).flatten()
        named = {check.name: check for check in found.checks}
        _curve(panels[0], named.get("useful share by step"), "step")
        _curve(panels[1], named.get("solve rate by visit"), "visit of a prompt")
        _numbers(panels[2], [check for check in found.checks if len(check.at) == 1])
        steps = found.prequential.groups.nonzero().squeeze(-1)
        means = found.prequential.by_step[steps] / found.prequential.groups[steps]
        panels[3].plot(steps.numpy(), means.numpy(), color=BLUE, linewidth=1.2)
        panels[3].set_title("prequential log score of a group", loc="left")
        panels[3].set_xlabel("step")
        if found.loo.pareto_k is not None:
            panels[4].scatter(found.loo.rows.numpy(), found.loo.pareto_k.clamp(max=2.0).numpy(), s=4, color=BLUE)
            panels[4].axhline(found.loo.good_k, color=VERMILION, linewidth=1.0, linestyle="--")
        panels[4].set_title("Pareto k of leaving a prompt out", loc="left")
        panels[4].set_xlabel("prompt")
        _states(panels[5], found)
        to_png(canvas, path)
    return path


def draw_comparison(found: Sequence[Compared], score: str, path: Path) -> Path:
    """Draw the elpd difference of each model from the best, with its standard error, as PNG."""
    with style():
        canvas = figure(6.4, 1.1 + 0.4 * len(found))
        axes = canvas.subplots()
        places = list(range(len(found)))[::-1]
        for place, one in zip(places, found, strict=True):
            colour = BLUE if place == places[0] else MUTED
            axes.errorbar(
                one.behind.total, place, xerr=one.behind.standard_error, color=colour, marker="o", markersize=4
            )
        axes.axvline(0.0, color=INK, linewidth=0.6)
        axes.set_yticks(places, [label(one.name) for one in found])
        axes.set_ylim(-0.6, len(found) - 0.4)
        axes.set_title(f"log predictive density, {score}", loc="left")
        axes.set_xlabel("nats behind the best ± standard error")
        axes.grid(visible=False, axis="y")
        to_png(canvas, path)
    return path


def draw_ranks(found: Ranks, bins: int, path: Path) -> Path:
    """Draw the rank histogram of each scalar over the band that contains 99 % of the bars of uniform ranks, as PNG."""
    import torch

    chances = found.p_values(bins)
    count = len(next(iter(found.ranks.values())))
    low, high = _binomial_band(count, 1 / bins)
    columns = 4
    rows = -(-len(chances) // columns)
    with style():
        canvas = figure(10.5, 0.5 + 1.4 * rows)
        panels = canvas.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
        for axes, (name, chance) in zip(panels, chances.items(), strict=False):
            axes.axhspan(low, high, color=RULE, linewidth=0)
            bars = found.histogram(name, bins)
            middle = (torch.arange(bins) + 0.5) / bins
            bad = chance * len(chances) < 0.01
            axes.bar(middle.numpy(), bars.numpy(), width=0.9 / bins, color=VERMILION if bad else BLUE)
            axes.set_title(f"{label(name)}: p = {chance:.2f}", loc="left")
            axes.grid(visible=False)
        for axes in panels[len(chances) :]:
            axes.set_visible(False)
        to_png(canvas, path)
    return path


def _curve(axes: Any, check: Check | None, where: str) -> None:
    axes.set_xlabel(where)
    if check is None:
        return
    low, high = check.band()
    at = check.at.numpy()
    axes.fill_between(at, low.numpy(), high.numpy(), color=AMBER, alpha=0.35, linewidth=0, label="replications, 95 %")
    axes.plot(at, check.observed.numpy(), color=BLUE, linewidth=1.2, label="the log")
    share_axis(axes, "")
    axes.set_title(f"{check.name} (tail {check.tail:.2f})", loc="left")
    axes.legend(loc="best", fontsize=7)


def _numbers(axes: Any, found: Sequence[Check]) -> None:
    for place, check in enumerate(reversed(found)):
        low, high = check.band()
        axes.plot([float(low), float(high)], [place, place], color=AMBER, linewidth=6, alpha=0.5)
        axes.plot([float(check.observed)], [place], color=BLUE, marker="o", markersize=4)
    names = [f"{check.name}\n(tail {check.tail:.2f})" for check in reversed(found)]
    axes.set_yticks(range(len(found)), names)
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_title("shares, and those of replications", loc="left")


def _states(axes: Any, found: Diagnosis) -> None:
    """Draw one band per state. A legend of more than five states would not be readable, and is left out."""
    import matplotlib as mpl

    share = found.occupancy
    colours = mpl.colormaps["viridis"].resampled(len(found.states))
    shades = [colours(place) for place in range(len(found.states))]
    axes.stackplot(
        range(len(share)), share.mT.numpy(), colors=shades, labels=[label(name, 20) for name in found.states]
    )
    share_axis(axes, "")
    axes.set_title("prompts by state, in hindsight", loc="left")
    axes.set_xlabel("step")
    if len(found.states) <= 5:
        axes.legend(loc="lower right", fontsize=7, frameon=True, facecolor=PAPER, framealpha=0.9)


def _binomial_band(count: int, chance: float) -> tuple[float, float]:
    """The central 99 % of Binomial(count, chance), by summation."""
    import torch

    law = torch.distributions.Binomial(count, torch.tensor(chance, dtype=torch.float64))
    below = law.log_prob(torch.arange(count + 1, dtype=torch.float64)).exp().cumsum(0)
    return float((below < 0.005).sum()), float((below < 0.995).sum())
