"""The statistics that the report computes itself: smoothing, calibration, visits and time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from dps_pyro.report.run import EventLog, Floats, Ints, Run

SELECTOR_PHASES = ("select", "observe")
"""The phases that exist only because prompts are selected by belief."""

_PHASES = ("select", "rollout", "reward", "observe", "update")
_TOTALS = ("total", "step")  # sums over phases, which a stack must not count twice


def smooth(values: Floats, window: int) -> Floats:
    """[T], the centred running mean over `window` steps (odd), over fewer at both ends; NaNs are ignored."""
    known = np.isfinite(values)
    half = window // 2
    totals = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    count = counts[high] - counts[low]
    return np.where(count > 0, (totals[high] - totals[low]) / np.maximum(count, 1), np.nan)


def window_for(length: int) -> int:
    """An odd smoothing window of about a sixteenth of the run, at least 1."""
    return (length // 16) | 1


def mean(values: Floats) -> float:
    """The mean of the finite values; NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


LAST = 3
"""The number of last evaluations whose mean is the final accuracy, because a single evaluation is noisy."""


def crossing(rollouts: Floats, accuracy: Floats, target: float) -> float:
    """The number of rollouts at which a curve first has the accuracy `target`, interpolated linearly between
    evaluations; infinite if it never has it."""
    reached = np.flatnonzero(accuracy >= target)
    if len(reached) == 0:
        return math.inf
    at = int(reached[0])
    if at == 0:
        return float(rollouts[0])
    rise = (target - accuracy[at - 1]) / (accuracy[at] - accuracy[at - 1])
    return float(rollouts[at - 1] + rise * (rollouts[at] - rollouts[at - 1]))


class Saving(NamedTuple):
    """The rollouts that two runs took to the final accuracy of one of them."""

    target: float  # the other run's final accuracy, the mean of its last evaluations
    own: float  # rollouts; infinite if the accuracy was not reached
    other: float


def saving(own: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> Saving:
    """Return the rollouts that a run took to the final accuracy of another. Each is given as the rollouts and the
    accuracies of its evaluations, [E] each."""
    target = mean(other[1][-LAST:])
    return Saving(target, crossing(*own, target), crossing(*other, target))


class Calibration(NamedTuple):
    """Predicted chances and outcomes in B equal bins of [0, 1]; NaN for bins without groups.

    `low` and `high` are the 95 % Wilson interval of `useful`, the share of a bin's groups that were useful.
    """

    total: int
    groups: Ints
    predicted: Floats
    useful: Floats
    low: Floats
    high: Floats
    ece: float
    brier: float


def calibration(log: EventLog, bins: int = 10) -> Calibration:
    """Score the chances at selection in `log`.

    The expected calibration error is the sum over bins of |mean predicted - share useful|, weighted by the bin's share
    of the groups; the Brier score is the mean of (predicted - useful)^2. Groups without a finite prediction or without
    trials are left out; with no group at all both are NaN.
    """
    kept = np.isfinite(log.predicted) & (log.trials > 0)
    predicted, useful = log.predicted[kept], log.useful[kept].astype(np.float64)
    at = np.clip((predicted * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    some = count > 0
    size = np.maximum(count, 1)
    mean_predicted = np.bincount(at, predicted, minlength=bins) / size
    share = np.bincount(at, useful, minlength=bins) / size
    z = 1.96
    centre = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    reach = z / (1 + z**2 / size) * np.sqrt(share * (1 - share) / size + z**2 / (4 * size**2))
    return Calibration(
        total=len(predicted),
        groups=count,
        predicted=np.where(some, mean_predicted, np.nan),
        useful=np.where(some, share, np.nan),
        low=np.where(some, centre - reach, np.nan),
        high=np.where(some, centre + reach, np.nan),
        ece=float((count * np.abs(mean_predicted - share)).sum() / len(predicted)) if len(predicted) else float("nan"),
        brier=mean((predicted - useful) ** 2),
    )


def visits(log: EventLog) -> Ints:
    """[num_prompts], the number of groups of each prompt."""
    return np.bincount(log.prompt, minlength=log.num_prompts)


class PromptRow(NamedTuple):
    """One prompt's record: solved rates over the first and the second half of its visits (NaN if there is none)."""

    id: str
    visits: int
    early: float
    late: float
    predicted: float


def prompt_rows(log: EventLog, rows: Ints) -> list[PromptRow]:
    """The records of the prompts in `rows`, in that order."""
    found = []
    for row in rows.tolist():
        at = np.flatnonzero(log.prompt == row)
        at = at[np.argsort(log.step[at], kind="stable")]
        first, second = at[: (len(at) + 1) // 2], at[(len(at) + 1) // 2 :]
        predicted = log.predicted[at][np.isfinite(log.predicted[at])]
        found.append(
            PromptRow(
                id=log.id(row),
                visits=len(at),
                early=_rate(log, first),
                late=_rate(log, second),
                predicted=float(predicted[-1]) if len(predicted) else float("nan"),
            )
        )
    return found


def most_and_least(log: EventLog, size: int) -> tuple[list[PromptRow], list[PromptRow]]:
    """The `size` most and least visited prompts among those visited at least once, without overlap."""
    count = visits(log)
    order = np.argsort(-count, kind="stable")
    order = order[count[order] > 0]
    top = order[:size]
    return prompt_rows(log, top), prompt_rows(log, order[len(top) :][::-1][:size])


def _rate(log: EventLog, at: Ints) -> float:
    trials = log.trials[at].sum()
    return float(log.solved[at].sum() / trials) if trials > 0 else float("nan")


def phase_seconds(run: Run) -> dict[str, Floats]:
    """The seconds per step by phase, [T] each: the known phases in their order of execution, then any others."""
    named = {key.removeprefix("seconds/") for record in run.train for key in record if key.startswith("seconds/")}
    ordered = [name for name in _PHASES if name in named] + sorted(named.difference(_PHASES, _TOTALS))
    return {name: np.nan_to_num(run.column(f"seconds/{name}"), posinf=0.0, neginf=0.0) for name in ordered}


def shares(phases: dict[str, Floats]) -> dict[str, float]:
    """Each phase's share of the whole; empty if no time was recorded."""
    total = float(sum(seconds.sum() for seconds in phases.values()))
    return {name: float(seconds.sum()) / total for name, seconds in phases.items()} if total > 0 else {}
