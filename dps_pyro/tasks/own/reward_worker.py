"""The process in which a user's reward function runs.

It is started as `python -m dps_pyro.tasks.own.reward_worker FILE.py:FUNCTION '[0.0, 1.0, null, false]'`; the list is
the rule by which numbers become rewards.

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
from dps_pyro.tasks.own.signatures import Rule, adapted, checked

__all__ = ["answer_questions", "main"]


def main() -> None:
    """Answer questions until the other side is gone."""

    def ready() -> Callable[[Any], dict[str, Any]]:
        function, rule = adapted(load("reward", sys.argv[1])), Rule(*json.loads(sys.argv[2]))
        return lambda question: checked(function(question["completion"], question["record"]), rule)

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


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


if __name__ == "__main__":
    main()
