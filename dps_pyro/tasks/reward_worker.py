"""The process in which a user's reward function runs: `python -m dps_pyro.tasks.reward_worker FILE.py:FUNCTION`.

Reads one question a line, answers one line each; spoken to by `dps_pyro.tasks.reward_process`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from dps_pyro.plugins import load

__all__ = ["main"]


def main() -> None:
    """Answer until the other side is gone."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints, prints elsewhere

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        function = load("reward", sys.argv[1])
        if not callable(function):
            raise TypeError(f"expected a function, got {function!r}")
    except Exception as error:  # noqa: BLE001 - told to the other side, which raises it
        say({"raised": _short(error)})
        return
    say({"ready": True})
    for line in sys.stdin:
        question = json.loads(line)
        try:
            say(_checked(function(question["completion"], question["record"])))
        except Exception as error:  # noqa: BLE001 - as above
            say({"raised": _short(error)})


def _checked(found: Any) -> dict[str, Any]:
    """A value in 0..1 and a reason."""
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
