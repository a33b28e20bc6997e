"""What the tests of tasks share."""

from __future__ import annotations

from dps_pyro.tasks import Countdown, Prompt


def both(task: Countdown) -> list[Prompt]:
    return [*task.prompts("train"), *task.prompts("test")]
