"""The values that a log is given: vectors of a step's groups, the step's own numbers, and which groups are useful."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.history.columns import Events
from dps_pyro.support import checks

__all__ = [
    "Groups",
    "bounded",
    "check_memory",
    "checked_groups",
    "levels_of",
    "marks_kept",
    "marks_saved",
    "step_columns",
    "useful_by_sum",
    "vector",
]


class Groups(NamedTuple):
    """The columns of a step's groups."""

    solved: Tensor  # [V], within 0..trials
    trials: Tensor  # long [V]
    predicted: Tensor  # [V], NaN where unknown
    trained: Tensor  # bool [V]
    useful: Tensor  # bool [V]


def levels_of(events: Events) -> dict[int, float]:
    """Return each step's progress (step -> value), as the groups of the step recorded it."""
    known = ~events.progress.isnan()
    return dict(zip(events.step[known].tolist(), events.progress[known].tolist(), strict=True))


def marks_saved(marks: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, Tensor]]:
    """Return what was recorded of the steps themselves (name -> step -> value) as tensors."""
    return {
        name: {
            "step": torch.tensor(list(by_step), dtype=torch.long),
            "value": torch.tensor(list(by_step.values()), dtype=torch.float64),
        }
        for name, by_step in marks.items()
    }


def marks_kept(saved: Mapping[str, Mapping[str, Tensor]], events: Events) -> dict[str, dict[int, float]]:
    """Return what `marks_saved` saved, and the progress that the groups recorded."""
    marks = {"progress": levels_of(events)}
    for name, columns in saved.items():
        by_step = dict(zip(columns["step"].tolist(), columns["value"].tolist(), strict=True))
        marks.setdefault(name, {}).update(by_step)
    return marks


def checked_groups(rows: Tensor, solved: Any, trials: Any, predicted: Any, trained: Any, useful: Any) -> Groups:
    """Return the columns of a step's groups, checked.

    Raises:
        ValueError: the columns have different lengths, or a count is outside 0..trials.
    """
    count = vector("solved", solved, torch.float64)
    size = vector("trials", trials, torch.long)
    size = size.expand(len(rows)).clone() if len(size) == 1 else size
    chance = vector("predicted", [math.nan] * len(rows) if predicted is None else predicted, torch.float32)
    learned = size > 0 if trained is None else vector("trained", trained, torch.bool)
    mixed = None if useful is None else vector("useful", useful, torch.bool)
    given = {"prompts": rows, "solved": count, "trials": size, "predicted": chance, "trained": learned}
    given |= {} if mixed is None else {"useful": mixed}
    if len({len(column) for column in given.values()}) > 1:
        lengths = ", ".join(f"{len(column)} {name}" for name, column in given.items())
        raise ValueError(f"expected columns of one length, got {lengths}")
    if not bool(((count >= 0) & (count <= size)).all()):
        raise ValueError("solved: expected numbers within 0..trials")
    return Groups(count, size, chance, learned, useful_by_sum(count, size) if mixed is None else mixed)


def step_columns(columns: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, float]:
    """Return a step's own columns, checked against the names of the `features`.

    Raises:
        ValueError: a name is taken, or a value is no finite number.
    """
    for name, value in columns.items():
        if name == "progress" or name in features:
            what = "progress, an argument of its own" if name == "progress" else f"{name!r}, which is a feature"
            raise ValueError(f"columns: expected names that are free, got {what}")
        number = checks.numbers(f"columns[{name!r}]", value)
        if number.ndim or not bool(number.isfinite()):
            raise ValueError(f"columns[{name!r}]: expected one finite number, got {value!r}")
    return {name: float(value) for name, value in columns.items()}


def useful_by_sum(solved: Tensor, trials: Tensor, tolerance: float = 0.0) -> Tensor:
    """Return bool [V], what a group's sum says about whether its rewards differed: it says so if `tolerance < solved
    < trials - tolerance` and there were at least two rewards.

    With rewards of 0 and 1 and a tolerance of 0, the sum says exactly that: the group is neither all wrong nor all
    right. The sum of real-valued rewards says less. If the entry is false, no two rewards are more than `tolerance`
    apart; if it is true, the rewards may still be equal.
    """
    return (solved > tolerance) & (solved < trials - tolerance) & (trials > 1)


def vector(name: str, values: Any, dtype: torch.dtype) -> Tensor:
    """Return a copy of `values` as a vector of the dtype.

    Raises:
        ValueError: the dtype is long and a value is not a whole number.
    """
    given = torch.as_tensor(values).detach().reshape(-1)
    column = given.to(dtype, copy=True)
    if dtype == torch.long and not torch.equal(column.to(given.dtype), given):
        raise ValueError(f"{name}: expected whole numbers, got {given.tolist()[:8]}")
    return column


def bounded(name: str, value: Any, most: int) -> int:
    """A whole number from 0 to `most`, above which it is an id or a time stamp."""
    if (number := checks.count(name, value, 0)) > most:
        raise ValueError(f"{name}: expected at most {most:,}, got {number:,}: is it an id, or a time stamp?")
    return number


def check_memory(num_prompts: int, num_steps: int) -> None:
    """Check that rectangles, which hold 17 bytes for each prompt at each step, fit into this machine's memory."""
    needed, there = 17 * num_prompts * num_steps, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"history: {num_prompts:,} prompts at {num_steps:,} steps would take {needed / 2**30:,.0f} GiB, and this "
            f"machine has {there / 2**30:,.0f}: is a step, or a prompt's row, a time stamp or an id?"
        )
