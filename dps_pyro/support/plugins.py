"""What users bring: an object in a file of theirs, a constructor with their arguments."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["call", "load"]

_Made = TypeVar("_Made")


def load(setting: str, name: str) -> Any:
    """What path/to/file.py:Name names.

    Raises:
        ValueError: there is no such file, or it has no such name.
    """
    path, _, attribute = name.rpartition(":")
    unique = f"_{setting}_of_{Path(path).stem}"
    if not Path(path).is_file() or (spec := importlib.util.spec_from_file_location(unique, path)) is None:
        raise ValueError(f"{setting}: expected a Python file before the colon, got {path!r}")
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    if not hasattr(module, attribute):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == unique]
        names = ", ".join(own[:8]) + (", ..." if len(own) > 8 else "")
        raise ValueError(f"{setting}: expected one of {names or 'some names'} in {path}, got {attribute!r}")
    return getattr(module, attribute)


def call(name: str, make: Callable[..., _Made], arguments: dict[str, Any]) -> _Made:
    """Call a constructor with a user's arguments; those that it does not take are the user's error.

    Raises:
        ValueError: the arguments are not its; the message begins with `name`, the setting they came in.
    """
    signature = inspect.signature(make)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{name}: expected {', '.join(signature.parameters) or 'none'}; {error}") from error
    try:
        return make(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        # Of a user's own class it may as well be a bug, which wants its traceback.
        if not make.__module__.startswith("dps_pyro."):
            raise
        reason = " ".join(str(error).split())
        given = "" if isinstance(error, ValueError) else f", got {arguments} for {signature}"
        raise ValueError(f"{name}: {reason}{given}") from error
