"""A model by its name, as configurations and command lines give it."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.features import MOST_STRINGS
from dps_pyro.history.log import Features
from dps_pyro.inference.posterior import Posterior
from dps_pyro.support import plugins
from dps_pyro.tracking.predictor import Predictor

__all__ = ["make"]


def make(
    name: str,
    arguments: dict[str, Any] | None = None,
    features: Features | None = None,
    optional: Collection[str] = (),
    posterior: Posterior | None = None,
) -> Dynamics[Any] | Predictor:
    """A dynamics model by its name in the gallery (`SolvingProgress`) or in a file (`my_model.py:MyDynamics`).

    Args:
        name: the model.
        arguments: of its constructor. For one that takes `groups`, the name of a feature stands for its column, and
            names joined by "+", such as "blocks+moves", stand for the pairs of their values; for one that takes
            `features`, a list of names stands for their columns. Where it is left out, all of them are taken, but for
            those with too many different strings.
        features: what is known of the prompts: name -> one value a prompt.
        optional: those of the arguments that a model may do without: left out of one that does not take them.
        posterior: of other prompts, that the model is to start from: the labels of its groups, or its reference
            features, are taken from there (`posterior.about["columns"]`) where they are not given.

    Raises:
        ValueError: there is no such model, it is none, its arguments are wrong, or there is no such feature.
    """
    import dps_pyro.models as gallery

    own = name.removeprefix("models.").removeprefix("dps_pyro.models.")
    found = plugins.load("dynamics", name) if ":" in name else getattr(gallery, own, None)
    if not (isinstance(found, type) and (issubclass(found, Dynamics) or hasattr(found, "tracker"))):
        names = ", ".join(gallery.__all__)
        raise ValueError(f"dynamics: expected one of {names}, or path/to/file.py:Name, got {name!r}")
    taken = inspect.signature(found).parameters
    given = {key: value for key, value in (arguments or {}).items() if key in taken or key not in optional}
    table = dict(features or {})
    if "groups" in taken and isinstance(given.get("groups"), str):
        given["groups"] = _labels(table, given["groups"])
    if "features" in taken:
        names = given.get("features", [column for column, values in table.items() if _readable(values)])
        if isinstance(names, list) and all(isinstance(column, str) for column in names):
            given["features"] = {column: _column(table, column) for column in names}
    grouped = "groups" not in taken or given.get("groups") is not None
    if posterior is not None and grouped:
        carried = dict(posterior.about.get("columns") or {})
        given |= {key: value for key, value in carried.items() if key in taken and given.get(key) is None}
    found_class: Any = found
    made: Dynamics[Any] | Predictor = plugins.call("dynamics_args", found_class, given)
    return made


def _labels(table: dict[str, Any], named: str) -> list[str]:
    """The labels of a feature, or of several that are joined by "+"."""
    names = [named] if named in table else named.split("+")
    return ["+".join(map(str, values)) for values in zip(*(_column(table, name) for name in names), strict=True)]


def _readable(values: Sequence[Any]) -> bool:
    """Whether a design matrix can have a feature: it is of numbers, or of not too many different strings."""
    return len({value for value in values if isinstance(value, str)}) <= MOST_STRINGS


def _column(table: dict[str, Any], name: str) -> Any:
    if name not in table:
        raise ValueError(f"dynamics_args: expected features among {', '.join(table) or 'none'}, got {name!r}")
    return table[name]
