"""A lock for objects that several threads may use, which does not stand in the way of copying or pickling them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

__all__ = ["Lock", "one_at_a_time"]

Given = ParamSpec("Given")
Owner = TypeVar("Owner")
Result = TypeVar("Result")


class Lock:
    """A re-entrant lock, used in a `with` statement. A copy of it is a new lock that nobody holds."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()


def one_at_a_time(
    method: Callable[Concatenate[Owner, Given], Result],
) -> Callable[Concatenate[Owner, Given], Result]:
    """A decorator for methods of an object with a `lock`: a thread waits until no other is within any of them."""

    @wraps(method)
    def locked(self: Owner, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        lock: Any = self.lock  # type: ignore[attr-defined]
        with lock:
            return method(self, *args, **kwargs)

    return locked
