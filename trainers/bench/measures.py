"""What curves say: accuracy at equal rollouts, and the rollouts that reach an accuracy, with the spread over seeds.

The rollouts to an accuracy are read off the mean curve over seeds, where it first has that accuracy, between two
evaluations by a line: single runs cross a level by the noise of their evaluations. Both sides of a ratio are read off
in the same way. Intervals are percentiles of the bootstrap over seeds; arms share seeds, so that each resample takes
the same seeds of all arms, and the target that one of them sets is drawn anew with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_pyro.report.measures import crossing
from dps_pyro.trainers.bench.curves import Curve

__all__ = ["Row", "Saving", "Spread", "crossing", "mean_curve", "ranks", "saving", "summary"]

Array = NDArray[np.float64]


class Spread(NamedTuple):
    """A number over seeds."""

    mean: float
    sd: float  # standard deviation over seeds; NaN of a single one


class Row(NamedTuple):
    """One arm on one testbed."""

    seeds: int
    average: Spread  # mean accuracy over the rollouts that all arms spent, by the trapezoid rule
    final: Spread  # accuracy at the last evaluation
    useful: Spread  # share of the groups
    visited: Spread  # share of the prompts
    trained: Spread  # groups that the update learned from
    steps: Spread
    rollouts: Spread
    generated: Spread  # tokens


class Saving(NamedTuple):
    """How many rollouts an arm takes to the final accuracy of another, beside that other."""

    target: float  # the other's mean final accuracy
    own: float  # rollouts; infinite where the accuracy is not reached
    other: float
    share: float  # own / other
    low: float  # the 95 per cent bootstrap interval of the share; infinite where it is not reached
    high: float


def mean_curve(curves: Sequence[Curve]) -> tuple[Array, Array]:
    """(rollouts, accuracy) of the mean over seeds, at the mean rollouts of each evaluation.

    Raises:
        ValueError: the runs were not evaluated at the same steps.
    """
    if len({tuple(curve.steps) for curve in curves}) != 1:
        raise ValueError("curves: expected runs evaluated at the same steps, got others")
    rollouts = np.array([curve.rollouts for curve in curves], dtype=np.float64)
    return rollouts.mean(0), np.array([curve.accuracy for curve in curves], dtype=np.float64).mean(0)


def saving(own: Mapping[int, Curve], other: Mapping[int, Curve], draws: int = 2000, seed: int = 0) -> Saving:
    """The rollouts of one arm to the final accuracy of another, by the seeds that both have.

    Args:
        own: the arm's curves by seed.
        other: the curves of the arm that sets the target.
        draws: resamples of the seeds.
        seed: the random seed of the resampling.

    Raises:
        ValueError: they have no seed in common.
    """
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        raise ValueError("curves: expected arms with a seed in common, got none")
    target, mine, theirs = _compare([own[one] for one in seeds], [other[one] for one in seeds])
    share = _ratio(mine, theirs)
    if len(seeds) == 1:
        return Saving(target, mine, theirs, share, math.nan, math.nan)
    picks = np.random.default_rng(seed).integers(len(seeds), size=(draws, len(seeds)))
    shares = []
    for pick in picks:
        drawn = [seeds[place] for place in pick]
        shares.append(_ratio(*_compare([own[one] for one in drawn], [other[one] for one in drawn])[1:]))
    # Not interpolated: between a number and infinity there is nothing.
    shares.sort()
    low, high = (shares[round(place * (draws - 1))] for place in (0.025, 0.975))
    return Saving(target, mine, theirs, share, low, high)


def _compare(own: Sequence[Curve], other: Sequence[Curve]) -> tuple[float, float, float]:
    rollouts, accuracy = mean_curve(other)
    target = float(accuracy[-1])
    return target, crossing(*mean_curve(own), target), crossing(rollouts, accuracy, target)


def _ratio(own: float, other: float) -> float:
    if other == 0:  # the target is where the other one started
        return 1.0 if own == 0 else math.inf
    return own / other


def summary(arms: Mapping[str, Mapping[int, Curve]]) -> dict[str, Row]:
    """The rows of one testbed: arm -> its numbers over seeds. All arms' averages are over the same rollouts: as many as
    the run that spent least."""
    common = min(curve.rollouts[-1] for curves in arms.values() for curve in curves.values())
    return {arm: _row(list(curves.values()), common) for arm, curves in arms.items()}


def _row(curves: Sequence[Curve], common: float) -> Row:
    def over(values: Sequence[float]) -> Spread:
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return Spread(float(np.mean(values)), sd)

    return Row(
        len(curves),
        over([average(curve, common) for curve in curves]),
        over([curve.accuracy[-1] for curve in curves]),
        over([float(np.mean(curve.useful)) for curve in curves]),
        over([curve.visited[-1] for curve in curves]),
        over([curve.trained for curve in curves]),
        over([curve.steps[-1] for curve in curves]),
        over([curve.rollouts[-1] for curve in curves]),
        over([curve.generated[-1] for curve in curves]),
    )


def average(curve: Curve, until: float) -> float:
    """The mean accuracy of a run over its first `until` rollouts, by the trapezoid rule."""
    spent, accuracy = np.array(curve.rollouts, dtype=np.float64), np.array(curve.accuracy, dtype=np.float64)
    points = np.unique(np.append(spent[spent <= until], until))
    heights = np.interp(points, spent, accuracy)
    if points[-1] == points[0]:
        return float(heights[0])
    areas = (heights[1:] + heights[:-1]) / 2 * np.diff(points)
    return float(areas.sum() / (points[-1] - points[0]))


def ranks(tables: Mapping[str, Mapping[str, Row]]) -> dict[str, float]:
    """Each arm's rank by average accuracy at equal rollouts, 1 for the best, averaged over the testbeds; ties share."""
    totals: dict[str, list[float]] = {}
    for rows in tables.values():
        for arm, row in rows.items():
            better = sum(other.average.mean > row.average.mean for other in rows.values())
            equal = sum(other.average.mean == row.average.mean for other in rows.values())
            totals.setdefault(arm, []).append(better + (equal + 1) / 2)
    return {arm: float(np.mean(places)) for arm, places in totals.items()}
