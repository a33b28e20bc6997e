"""The process in which a user's reward function runs: `python -m dps_pyro.tasks.own.reward_worker FILE.py:FUNCTION`.

Reads one question a line, answers one line each; spoken to by `dps_pyro.tasks.own.reward_process`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from dps_pyro.support.plugins import load

__all__ = ["answer_questions", "checked", "main"]


def main() -> None:
    """Answer until the other side is gone."""

    def ready() -> Callable[[Any], dict[str, Any]]:
        function = load("reward", sys.argv[1])
        if not callable(function):
            raise TypeError(f"expected a function, got {function!r}")
        return lambda question: checked(function(question["completion"], question["record"]))

    answer_questions(ready)


def answer_questions(ready: Callable[[], Callable[[Any], dict[str, Any]]]) -> None:
    """Say {"ready": true}, then answer a line of JSON to each on standard input until that ends. What raises becomes
    {"raised": ...}. A question's `seconds` are what the other side waits for; it kills this process then.

    Args:
        ready: makes what answers; it may raise, which ends this process.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints, prints elsewhere

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    # Where the other side is killed nobody is left to kill this one at work: what waits is seen to by a thread, what
    # computes (and may never let a thread run) by a clock of processor time.
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    try:
        found = ready()
    except Exception as error:  # noqa: BLE001 - told to the other side, which raises it
        say({"raised": _short(error)})
        return
    say({"ready": True})
    for line in sys.stdin:
        question = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, 2 * question["seconds"] + 1)
        try:
            answer = found(question)
        except Exception as error:  # noqa: BLE001 - as above
            answer = {"raised": _short(error)}
        signal.setitimer(signal.ITIMER_PROF, 0)
        say(answer)


def _follow(parent: int) -> None:
    """End with the process that started this one."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def checked(found: Any) -> dict[str, Any]:
    """A value in 0..1 and a reason.

    Raises:
        TypeError, ValueError: it is neither a number in 0..1 nor that and a reason.
    """
    value, reason = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"expected a reward in 0..1, got {value!r}")
    if reason is None:
        reason = "correct" if number == 1 else "wrong" if number == 0 else "partly correct"
    return {"value": number, "reason": str(reason)[:100]}


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


if __name__ == "__main__":
    main()
