"""The process in which a user's reward function runs: `python -m dps_pyro.tasks.own.reward_worker FILE.py:FUNCTION`.

It reads one question per line and answers with one line. `dps_pyro.tasks.own.reward_process` speaks to it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from dps_pyro.support.child import end_with_parent
from dps_pyro.support.plugins import load

__all__ = ["answer_questions", "checked", "main"]


def main() -> None:
    """Answer questions until the other side is gone."""

    def ready() -> Callable[[Any], dict[str, Any]]:
        function = load("reward", sys.argv[1])
        if not callable(function):
            raise TypeError(f"expected a function, got {function!r}")
        return lambda question: checked(function(question["completion"], question["record"]))

    answer_questions(ready)


def answer_questions(ready: Callable[[], Callable[[Any], dict[str, Any]]]) -> None:
    """Say {"ready": true}, then answer each line of JSON on standard input with one, until the input ends.

    An exception becomes {"raised": ...}. The `seconds` of a question are the time that the other side waits before it
    kills this process.

    Args:
        ready: Makes the function that answers. If it raises, this process ends.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints, prints elsewhere

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    # If the other side is killed, nobody is left to kill this process at work. A thread ends one that waits, and a
    # clock of processor time ends one that computes, which may never let a thread run.
    end_with_parent()
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


def checked(found: Any) -> dict[str, Any]:
    """Check what a reward function returned, and give it a reason.

    Raises:
        TypeError, ValueError: It is neither a number in 0..1 nor such a number and a reason.
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
