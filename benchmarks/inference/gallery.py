"""The gallery's models made for some prompts, found by what their constructors take."""

from __future__ import annotations

import inspect
from typing import Any

from dps_pyro import Dynamics, models
from dps_pyro.tracking.tracker import is_fitted

__all__ = ["FITTED", "SMALL", "arguments", "columns", "make"]


def columns(num_prompts: int) -> dict[str, Any]:
    """What is known of the prompts, under the names by which constructors take it."""
    names = ["algebra" if row % 3 else "geometry" for row in range(num_prompts)]
    lengths = [float((7 * row) % 11) for row in range(num_prompts)]
    return {"groups": names, "features": {"subject": names, "length": lengths}}


def arguments(name: str, num_prompts: int, *, only_needed: bool = False) -> dict[str, Any]:
    """The columns that a model's constructor takes; or only those that it cannot do without."""
    taken = inspect.signature(getattr(models, name)).parameters
    given = {column: value for column, value in columns(num_prompts).items() if column in taken}
    return {
        column: value
        for column, value in given.items()
        if not only_needed or taken[column].default is inspect.Parameter.empty
    }


def make(name: str, given: dict[str, Any]) -> Any:
    """A model of the gallery."""
    return getattr(models, name)(**given)


FITTED = [
    name
    for name in models.__all__
    if issubclass(getattr(models, name), Dynamics) and is_fitted(make(name, arguments(name, 1, only_needed=True)))
]
"""The models that are fitted to logs, by name."""

SMALL: dict[str, dict[str, Any]] = {"Covariate": {"levels": 3}, "Hierarchical": {"levels": 3}}
"""Arguments that make the costliest models small enough for hundreds of histories at once."""
