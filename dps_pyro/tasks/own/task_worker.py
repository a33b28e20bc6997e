"""The process in which a user's task judges.

It is started as `python -m dps_pyro.tasks.own.task_worker '["FILE.py:NAME", {...}, {...}]'`.

`dps_pyro.tasks.own.task_process` speaks to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from dps_pyro.tasks import by_name
from dps_pyro.tasks.base import judge
from dps_pyro.tasks.own.reward_worker import answer_questions
from dps_pyro.tasks.own.signatures import checked

__all__ = ["main"]


def main() -> None:
    """Answer questions until the other side is gone."""
    answer_questions(_ready)


def _ready() -> Callable[[Any], dict[str, Any]]:
    task = by_name.make(*json.loads(sys.argv[1]))
    known = {prompt.id: prompt for split in ("test", "train") for prompt in task.prompts(split)}

    def judged(question: Any) -> dict[str, Any]:
        missing = [name for name in question["prompts"] if name not in known]
        if missing:
            raise LookupError(f"expected prompts that are the same whenever the task is made, got {missing[0]!r} anew")
        prompts, completions = [known[name] for name in question["prompts"]], question["completions"]
        together = question["together"]
        found = judge(task, prompts, completions) if together else [task.reward(prompts[0], completions[0])]
        if len(found) != len(completions):
            raise ValueError(f"expected a reward for each of {len(completions)} completions, got {len(found)}")
        rewards = [checked(one) for one in found]
        return {"rewards": [[one["value"], one["reason"]] for one in rewards]}

    return judged


if __name__ == "__main__":
    main()
