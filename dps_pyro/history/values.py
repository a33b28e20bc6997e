"""The values that a log is given: vectors of a step's groups, the step's own numbers, and which groups are useful."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dps_pyro.history.columns import Events
from dps_pyro.support import checks

__all__ = ["bounded", "check_memory", "levels_of", "step_columns", "useful_by_sum", "vector"]


def levels_of(events: Events) -> dict[int, float]:
    """Return each step's progress (step -> value), as the groups of the step recorded it."""
    known = ~events.progress.isnan()
    return dict(zip(events.step[known].tolist(), events.progress[known].tolist(), strict=True))


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
