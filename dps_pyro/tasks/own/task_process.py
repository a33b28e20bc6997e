"""A user's task, whose rewards are judged in a process that can be killed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dps_pyro.support.child import Killable
from dps_pyro.tasks.base import Prompt, PromptSet, Reward, Task
from dps_pyro.tasks.own.reward_process import START, JudgeProcess, RewardError

__all__ = ["BATCH", "TaskProcess"]

BATCH = 10
"""How many times as long as a call of `reward` a call of `rewards` over a batch may take."""


class TaskProcess(JudgeProcess):
    """A task of a user's file, as `by_name.make` makes it. Its prompts are its own; its rewards are judged by a second
    one like it in another process, within a time limit.

    That process starts at the first judgement, where the task's constructor runs once more. A prompt is known there by
    its id.

    Args:
        task: The task, as it was made here.
        name, arguments, optional: The arguments from which `by_name.make` made it.
        seconds: The time that one call of `reward` may take, > 0. A call of `rewards` may take ten times that.

    Attributes:
        name, system, groups, rewards: Those of the task, as far as it has them.
    """

    rewards: Callable[[Sequence[Prompt], Sequence[str]], list[Reward]]
    system: str
    groups: str

    def __init__(
        self, task: Task, name: str, arguments: Mapping[str, Any], optional: Mapping[str, Any], seconds: float
    ) -> None:
        self.task, self.seconds = task, seconds
        self.name = task.name
        self._made_from = json.dumps([name, dict(arguments), dict(optional)])
        for extra in ("system", "groups"):
            if hasattr(task, extra):
                setattr(self, extra, getattr(task, extra))
        if getattr(task, "rewards", None) is not None:
            self.rewards = self._rewards

    def prompts(self, split: str) -> PromptSet:
        """The prompts of a split of the task."""
        return self.task.prompts(split)

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """Judge one completion by the task.

        Raises:
            RewardError: The task raised, ran out of time, died, or returned something else than a reward.
        """
        (found,) = self._ask([prompt], [completion], together=False, seconds=self.seconds)
        return found

    def _rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward]:
        return self._ask(prompts, completions, together=True, seconds=BATCH * self.seconds)

    def _ask(
        self, prompts: Sequence[Prompt], completions: Sequence[str], *, together: bool, seconds: float
    ) -> list[Reward]:
        ids = [prompt.id for prompt in prompts]
        answer = self._judged({"prompts": ids, "completions": list(completions), "together": together}, seconds)
        return [Reward(math.nan if value is None else float(value), str(why)) for value, why in answer["rewards"]]

    def _started(self) -> Killable:
        process = Killable("dps_pyro.tasks.own.task_worker", self._made_from)
        ready = process.ask(None, START)
        if ready is None or "raised" in ready:
            process.close()
            why = f"took more than {START:g} s" if ready is None else f"raised {ready['raised']}"
            raise RewardError(f"the task's second making, for its rewards, {why}")
        return process
