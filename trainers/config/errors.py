"""Errors about settings, in one line: the name, what was expected, and what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

__all__ = ["told", "unknown"]

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a finite number",
    "float_parsing": "a finite number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "path_type": "a path",
    "dict_type": "settings, as {name: value}",
    "tuple_type": "a list of the right length",
    "missing": "a list of the right length",
    "too_long": "a list of the right length",
    "too_short": "a list of the right length",
    "model_type": "settings, as {name: value}",
    "model_attributes_type": "settings, as {name: value}",
}
"""What the types of pydantic's errors mean for a setting."""

_BOUNDS = {
    "greater_than_equal": ("ge", "{} or more"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "{} or less"),
    "less_than": ("lt", "less than {}"),
}


def told(error: ValidationError, given: Mapping[str, Any]) -> str:
    """Say what the first error is: `steps: expected 1 or more, got 0`.

    Args:
        error: what pydantic found.
        given: the values that were checked, by the names of the fields.
    """
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    if not first["loc"]:
        return str(context["error"]) if "error" in context else first["msg"]
    name = str(first["loc"][0])
    whole = given.get(name)
    if kind == "literal_error":
        return f"{name}: expected one of {_choices(context['expected'])}; got {whole!r}"
    if kind in _BOUNDS:
        bound, text = _BOUNDS[kind]
        return f"{name}: expected {text.format(context[bound])}, got {first['input']!r}"
    if first["loc"][-1] == "[key]":  # a key of a mapping that is no string
        kind = "dict_type"
    if kind in _EXPECTED:
        return f"{name}: expected {_EXPECTED[kind]}, got {whole!r}"
    if "error" not in context:
        return f"{name}: {first['msg']}, got {whole!r}"
    message = str(context["error"])
    return message if message.startswith(f"{name}: ") or ": expected" in message else f"{name}: {message}"


def _choices(expected: str) -> str:
    """Turn pydantic's list of choices, `'a', 'b' or 'c'`, into `a, b, c`."""
    return expected.replace("'", "").replace(" or ", ", ")


def unknown(names: Iterable[str], known: Iterable[str], where: str = "") -> str:
    """Say which names are unknown, each with the nearest known one, and what names there are.

    Args:
        names: the unknown names.
        known: all that would have been accepted.
        where: the name of the section, if the names were found in one.
    """
    known = list(known)
    parts = []
    for name in names:
        near = get_close_matches(name, known, 1)
        parts.append(f"{name} (nearest: {near[0]})" if near else name)
    place = f"{where}: " if where else ""
    return f"{place}expected settings among {', '.join(known)}; got {', '.join(parts)}"
