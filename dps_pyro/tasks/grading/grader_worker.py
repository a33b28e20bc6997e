"""The process that compares answers: a script of its own, started and spoken to by `grader_pool`.

It imports nothing of dps_pyro, so that it starts quickly and is small. A request is a line of JSON, ``[gold, answer]``,
and so is a reply: ``"equal"``, ``"different"``, ``"gold not parsed"``, ``"not parsed"``, ``"timed out"``, ``"out of
memory"`` or ``"failed: <exception>"``.

Three fences, for completions are written by whoever wants to be paid: processor time (a signal that raises here),
wall-clock time (a signal that nothing catches), and memory (a limit of the system's). The second one also ends a worker
whose parent was killed while it was at work; an idle one sees the end of its input.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

import math_verify
from sympy import Basic, nan, oo, zoo

__all__ = ["main"]

_EVERY = 0.2
"""Seconds of processor time between two calls to stop: a bare `except:` somewhere may swallow one."""


class _TimeUp(BaseException):
    """No `Exception`: libraries catch those."""


def main(processor_seconds: float, wall_seconds: float, memory_bytes: int) -> None:
    """Answer requests until the other side is gone."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # whatever prints, prints nowhere
    os.dup2(nowhere, 2)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our input
    _compare(r"\frac{1}{2}", "x = 0.5")  # the first comparison is slow: much is imported and compiled
    print(json.dumps("ready"), file=replies, flush=True)
    signal.signal(signal.SIGVTALRM, _stop)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, wall_seconds)
        print(json.dumps(_judged(gold, answer, processor_seconds)), file=replies, flush=True)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _stop(*_: object) -> None:
    raise _TimeUp


def _judged(gold: str, answer: str, seconds: float) -> str:
    """The reply to one request."""
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _EVERY)
        try:
            return _compare(gold, answer)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _TimeUp:
        return "timed out"
    except MemoryError:
        return "out of memory"
    except Exception as error:  # noqa: BLE001 - whatever a completion does to a parser
        return f"failed: {type(error).__name__}"


def _compare(gold: str, answer: str) -> str:
    """Compare a gold answer with another, by the rules of math-verify."""
    golds = _parsed(f"\\boxed{{{gold}}}")
    if not any(_is_value(one) for one in golds):
        return "gold not parsed"
    answers = _parsed(f"\\boxed{{{answer}}}")
    if any(_same(one, other) for one in golds for other in answers):
        return "equal"
    return "different" if any(_is_value(one) for one in answers) else "not parsed"


@lru_cache(4096)
def _parsed(text: str) -> tuple[Any, ...]:
    """What math-verify reads in a text: a value, and the text it was read from; without what is none, such as 1/0."""
    parsed = math_verify.parse(text, parsing_timeout=None, raise_on_error=True)
    return tuple(one for one in parsed if not (isinstance(one, Basic) and one.has(zoo, nan)) or one is oo)


def _is_value(parsed: Any) -> bool:
    return not isinstance(parsed, str)


def _same(gold: Any, answer: Any) -> bool:
    try:
        return bool(
            math_verify.verify(gold, answer, timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True)
        )
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001
        return False  # what cannot be compared is not the same


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
