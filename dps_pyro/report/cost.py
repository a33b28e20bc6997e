"""The cost of runs, and the saving of one way of choosing prompts over another, in tokens, GPU-hours and money.

A run's own files say how many rollouts it drew, how long they were, and how many of them the update learned from. The
bill follows from throughputs and a price that the user gives:

    GPU-seconds = generated tokens / (tokens per second and GPU, drawing) + trained tokens / (the same, training)

Without throughputs it follows from the seconds that the run took on the user's GPUs. The saving compares runs of the
same task *at the same held-out accuracy*, by default the mean final accuracy of the other runs. Every number is a mean
over runs (seeds), with a 95 per cent confidence interval by Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dps_pyro.history.log import RolloutHistory
from dps_pyro.storage import parse_json

__all__ = [
    "Bill",
    "Comparison",
    "Interval",
    "Prices",
    "Spent",
    "bill",
    "compare",
    "interval",
    "spent",
    "spent_by",
    "trained_completions",
]


class Prices(NamedTuple):
    """The price that a user pays, and the speed of the machine."""

    gpu_hour: float = 2.0  # the price of one GPU for one hour, in any currency
    gpus: int = 1  # the number of GPUs that a run occupies; unused with throughputs
    drawing: float | None = None  # the tokens that the engine generates per second and GPU
    training: float | None = None  # the tokens that the update learns from per second and GPU


class Spent(NamedTuple):
    """What a run spent until a step."""

    steps: float
    rollouts: float
    generated: float  # tokens
    trained: float  # tokens of the completions that the update learned from
    rollout_seconds: float
    train_seconds: float
    other_seconds: float  # selecting, observing, judging, handing over weights
    accuracy: float  # held out, at that step

    def hours(self, prices: Prices) -> float:
        """GPU-hours, from the throughputs if they are given, and from the seconds of the run otherwise."""
        if prices.drawing is None or prices.training is None:
            return prices.gpus * (self.rollout_seconds + self.train_seconds + self.other_seconds) / 3600
        return (self.generated / prices.drawing + self.trained / prices.training) / 3600


class Interval(NamedTuple):
    """A mean over runs."""

    mean: float
    half: float  # half the width of its 95 % confidence interval; NaN for a single run
    runs: int

    def __str__(self) -> str:
        spread = "" if math.isnan(self.half) else f" ± {self.half:,.3g}"
        return f"{self.mean:,.4g}{spread}"


class Bill(NamedTuple):
    """What runs spent, as means over them."""

    rollouts: Interval
    generated: Interval
    trained: Interval
    hours: Interval
    money: Interval
    accuracy: Interval


class Comparison(NamedTuple):
    """The costs of two sets of runs until the same accuracy."""

    target: float  # the held-out accuracy to be reached
    own: Bill
    other: Bill
    reached: tuple[int, int]  # the numbers of runs of both sets that reached it
    saved: float  # the saved share of the others' money, negative if it costs more; NaN if no run reached the target
    saved_half: float  # half the width of its 95 % confidence interval (delta method)


_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t, two-sided 95 %, at 1, 2, ... degrees of freedom."""


def interval(values: Sequence[float]) -> Interval:
    """The mean and its 95 per cent confidence interval."""
    known = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    if len(known) == 0:
        return Interval(math.nan, math.nan, 0)
    if len(known) == 1:
        return Interval(float(known[0]), math.nan, 1)
    factor = _T[len(known) - 2] if len(known) - 1 <= len(_T) else 1.96
    return Interval(float(known.mean()), factor * float(known.std(ddof=1)) / math.sqrt(len(known)), len(known))


def spent(folder: Path, accuracy: float | None = None) -> Spent | None:
    """Return what the run in `folder` spent until its end, or until it first had this held-out accuracy; None if it
    never had it.

    The accuracy between two evaluations is interpolated linearly, so that the result depends little on when a run was
    evaluated. Trained tokens are those of the completions that the updates learned from, at the mean length of their
    step; for runs of earlier versions, those of the groups that the log marks as trained on.

    Raises:
        ValueError: the folder contains no run, or the run has no steps.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder}: expected a run folder with metrics.jsonl, got none")
    lines = _entries(path)
    train, evals = ([line for line in lines if line["kind"] == kind] for kind in _NUMBERS)
    if not train or not evals:
        raise ValueError(f"{folder}: expected a run with steps and evaluations, got none")
    return spent_by(train, evals, trained_completions(folder), accuracy)


_NUMBERS = {"train": ("step", "rollouts", "length"), "eval": ("step", "accuracy")}
"""The numbers that a bill takes from each kind of line."""


def _entries(path: Path) -> list[dict[str, Any]]:
    """The steps and evaluations of a run's metrics. A bill that left out what cannot be read would be too low.

    Raises:
        ValueError: a line is damaged; the message names it and the way out.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
            if entry["kind"] not in _NUMBERS:
                continue
            if not all(math.isfinite(float(entry[name])) for name in _NUMBERS[entry["kind"]]):
                raise ValueError("expected finite numbers")
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(
                f"{path}: expected a run's step or evaluation, got {line[:80]!r} in line {number}; "
                f"dps-pyro train --resume --out {path.parent} writes the file again from the last checkpoint"
            ) from error
        found.append(entry)
    return found


def spent_by(
    records: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    learned: Mapping[int, float],
    accuracy: float | None = None,
) -> Spent | None:
    """Return the result of `spent` for a run's lines of metrics; `learned` has the number of completions that the
    update of each step learned from, for lines that do not say it themselves."""
    train = {int(line["step"]): line for line in records}  # if a step was done twice, the last line counts
    evals = sorted({int(line["step"]): line for line in evaluations}.items())
    until = float(max(train) + 1) if accuracy is None else _first(evals, accuracy)
    if until is None:
        return None
    totals = dict.fromkeys(("rollouts", "generated", "trained", "rollout", "update", "other"), 0.0)
    before = 0
    for step, line in sorted(train.items()):
        share = min(max(until - step, 0.0), 1.0)
        number = line["rollouts"] - before
        before = line["rollouts"]
        seconds = {name.partition("/")[2]: float(value) for name, value in line.items() if name.startswith("seconds/")}
        totals["rollouts"] += share * number
        totals["generated"] += share * number * line["length"]
        totals["trained"] += share * _learned(line, learned) * line["length"]
        for part in ("rollout", "update"):
            totals[part] += share * seconds.pop(part, 0.0)
        totals["other"] += share * sum(seconds.values())
    reached = float(evals[-1][1]["accuracy"]) if accuracy is None else accuracy
    return Spent(
        until,
        totals["rollouts"],
        totals["generated"],
        totals["trained"],
        totals["rollout"],
        totals["update"],
        totals["other"],
        reached,
    )


def compare(own: Sequence[Path], other: Sequence[Path], prices: Prices, target: float | None = None) -> Comparison:
    """Compare runs with others at the same held-out accuracy: `target`, or the mean of the others' final accuracies.

    Raises:
        ValueError: a folder is no run.
    """
    ends = [spent(folder) for folder in other]
    goal = interval([end.accuracy for end in ends if end is not None]).mean if target is None else target
    mine, theirs = ([one for folder in runs if (one := spent(folder, goal)) is not None] for runs in (own, other))
    bills = _bill(mine, prices), _bill(theirs, prices)
    (a, da, _), (b, db, _) = bills[0].money, bills[1].money
    ratio = a / b if b > 0 else math.nan
    half = ratio * math.hypot(da / a, db / b) if ratio > 0 else math.nan
    return Comparison(goal, *bills, (len(mine), len(theirs)), 1 - ratio, half)


def bill(runs: Sequence[Path], prices: Prices) -> Bill:
    """Return what runs cost until their ends.

    Raises:
        ValueError: a folder is no run.
    """
    return _bill([one for folder in runs if (one := spent(folder)) is not None], prices)


def _bill(runs: Sequence[Spent], prices: Prices) -> Bill:
    hours = [run.hours(prices) for run in runs]
    columns = ("rollouts", "generated", "trained")
    rollouts, generated, trained = (interval([getattr(run, name) for run in runs]) for name in columns)
    money = interval([prices.gpu_hour * hour for hour in hours])
    return Bill(rollouts, generated, trained, interval(hours), money, interval([run.accuracy for run in runs]))


def _first(evals: Sequence[tuple[int, Mapping[str, Any]]], accuracy: float) -> float | None:
    """The step at which a run first has an accuracy, interpolated linearly between evaluations."""
    last: tuple[int, float] | None = None
    for step, line in evals:
        now = float(line["accuracy"])
        if now >= accuracy:
            if last is None or now == last[1]:
                return float(step)
            return last[0] + (step - last[0]) * (accuracy - last[1]) / (now - last[1])
        last = (step, now)
    return None


def _learned(line: Mapping[str, Any], learned: Mapping[int, float]) -> float:
    """The number of completions that the update of a step learned from: what its line says, or else the log."""
    known = line.get("trained")
    if isinstance(known, int | float) and math.isfinite(known):
        return float(known)
    return learned.get(int(line["step"]), 0.0)


def trained_completions(folder: Path) -> dict[int, float]:
    """The number of completions of groups that the update learned from, by step; empty without a log."""
    path = folder / "history.parquet"
    if not path.is_file():
        return {}
    events = RolloutHistory.from_parquet(path).events
    counts: dict[int, float] = {}
    for step, size in zip(events.step[events.trained].tolist(), events.trials[events.trained].tolist(), strict=True):
        counts[step] = counts.get(step, 0.0) + size
    return counts
