"""A reward function as verl's users write them: Countdown's own grader."""

from __future__ import annotations

import json
from typing import Any

from dps_pyro.tasks import Countdown, Prompt

TASK = Countdown(train_size=2, test_size=1)


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, Any]:
    numbers, target = json.loads(ground_truth)
    reward = TASK.reward(Prompt("", "", (tuple(numbers), target)), solution_str)
    return {"score": reward.value, "acc": reward.value == 1.0}
