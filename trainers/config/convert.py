"""Settings as their types say, from what YAML, the command line or Python make of them."""

from __future__ import annotations

import math
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

__all__ = ["converted"]


def converted(name: str, value: Any, hint: Any) -> Any:
    """A setting as its type says, from what YAML, the command line or Python make of it."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:  # all of ours are "something, or None"
        return None if value is None else converted(name, value, parts[0])
    if kind is Literal:
        if value not in parts:
            raise ValueError(f"{name}: expected one of {', '.join(parts)}; got {value!r}")
        return value
    if kind is tuple and isinstance(value, list | tuple) and (parts[-1] is ... or len(value) == len(parts)):
        return tuple(converted(name, part, parts[0]) for part in value)  # all of ours are of one type
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is float and math.isfinite(number := _number(value)):
        return number
    named = kind is not dict or (isinstance(value, dict) and all(isinstance(key, str) for key in value))
    if kind in (bool, int, str, dict) and type(value) is kind and named:
        return value
    raise ValueError(f"{name}: expected {_EXPECTED[kind]}, got {value!r}")


_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a string",
    Path: "a path",
    dict: "settings, as {name: value}",
    tuple: "a list of the right length",
}


def _number(value: Any) -> float:
    """A float; YAML reads 1e-4, without a point, as a string. NaN for what is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan
