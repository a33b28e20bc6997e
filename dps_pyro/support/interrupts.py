"""Ctrl-C, and the SIGTERM with which schedulers end a job: both raise, and neither in the midst of what cannot stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["Terminated", "passed_on", "terminable", "uninterrupted"]


class Terminated(KeyboardInterrupt):
    """The process was sent SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises `Terminated` inside the block, as Ctrl-C raises `KeyboardInterrupt`. Only the main thread can hear
    it; in other threads the block is as it would be without."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def passed_on() -> Iterator[None]:
    """SIGTERM goes to the processes that this one has started, too, as Ctrl-C does in a terminal, before it does here
    what it did. A command that waits for runs in processes of their own would otherwise wait until they have ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in _children():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGTERM)
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _children() -> list[int]:
    """The processes that this one has started and that are there."""
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended
            found += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM are heard after the block. An exception in the midst of a library that hands work to a thread
    of its own may leave that thread waiting for ever, and the process with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []
    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):  # others are not Python's, and raise nothing
            before[number] = signal.signal(number, lambda *what: heard.append(what))
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        for one, frame in heard[:1]:
            before[one](one, frame)
