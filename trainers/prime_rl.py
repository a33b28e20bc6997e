"""A task sampler in the shape of prime-rl's curriculum: `__next__`, `observe(group)`, `state_dict`, `load_state_dict`,
`metrics`.

prime-rl (`prime_rl.orchestrator.curriculum.samplers.TaskSampler`, as of August 2026) asks for one task at a time, has
many groups under way, and reports each group when it is final. Here a batch of tasks is selected when the last batch is
used up, and a batch of groups makes one step of the sampler. The module does not import prime-rl. It only uses the
names in its episodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch

from dps_pyro.history.counts import count_groups
from dps_pyro.selection.sampler import PromptSampler
from dps_pyro.support import checks

__all__ = ["PredictiveTaskSampler"]


class Keyed(Protocol):
    """A task of prime-rl. Only its key matters here."""

    @property
    def key(self) -> str | None:
        """Distinct among the tasks of one environment."""
        ...


TaskT = TypeVar("TaskT", bound=Keyed)


class PredictiveTaskSampler(Iterator[TaskT], Generic[TaskT]):
    """Hands out tasks by predicted usefulness.

    Args:
        sampler: a sampler of as many prompts as there are tasks, with rows in their order or with their keys as ids.
        tasks: all of them, with distinct keys.
        batch_size: the number of tasks that are selected together, and of groups per observed step. It is prime-rl's
            batch size in groups.
        solved_at: a rollout with at least this reward solved its task; None counts rewards within 0..1 as they are.

    Raises:
        ValueError: the tasks are not the sampler's, or their keys not distinct.
    """

    def __init__(
        self, sampler: PromptSampler, tasks: Sequence[TaskT], batch_size: int, *, solved_at: float | None = 1.0
    ) -> None:
        self.sampler = checks.instance("sampler", sampler, PromptSampler)
        by_key = {str(task.key): task for task in tasks if task.key is not None}
        if len(by_key) < len(tasks):
            raise ValueError(f"tasks: expected distinct keys, got {len(by_key)} of {len(tasks)} tasks")
        keys = list(by_key) if sampler.ids is None else sampler.ids
        if len(keys) != sampler.num_prompts or by_key.keys() != set(keys):
            raise ValueError(f"tasks: expected those of the sampler's {sampler.num_prompts} prompts, got {len(tasks)}")
        self.tasks = [by_key[key] for key in keys]
        self.batch_size = checks.count("batch_size", batch_size, 1, sampler.num_prompts)
        self.solved_at = solved_at
        self._row = {key: row for row, key in enumerate(keys)}
        self._coming: deque[int] = deque()
        self._rows: list[int] = []  # of the rollouts of this step so far
        self._rewards: list[float] = []
        self._groups = 0

    def __next__(self) -> TaskT:
        """The next task; it never runs out."""
        if not self._coming:
            self._coming.extend(self.sampler.select(self.batch_size).tolist())
        return self.tasks[self._coming.popleft()]

    def observe(self, group: Sequence[Any]) -> None:
        """Take in a final group: episodes with `task.key` and `traces`, of which those count that have no error and
        whose agent is trained, with their `reward`. A group of which none counts was lost.

        Raises:
            ValueError: the group is empty, or its task is not among the tasks.
        """
        if not group:
            raise ValueError("group: expected episodes, got none")
        key = group[0].task.key
        if key not in self._row:
            raise ValueError(f"group: expected the key of one of the {len(self.tasks)} tasks, got {key!r}")
        traces = [trace for episode in group for trace in episode.traces]
        rewards = [float(trace.reward) for trace in traces if not trace.has_error and trace.agent.trainable]
        rewards = rewards or [float("nan")]  # as of a rollout that was not scored
        self._rows += [self._row[key]] * len(rewards)
        self._rewards += rewards
        self._groups += 1
        if self._groups == self.batch_size:
            # A task that came twice in the step is one larger group.
            counts = count_groups(self._rows, self._rewards, self.solved_at)
            self._rows, self._rewards, self._groups = [], [], 0
            useful = counts.useful(self.sampler.tolerance)
            self.sampler.observe(counts.prompts, counts.solved, counts.trials, useful=useful)

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to continue, as tensors and plain values. Groups under way are not part of it:
        prime-rl does not save them, and what becomes of them is observed when it is reported."""
        return {
            "sampler": self.sampler.state_dict(),
            "coming": torch.tensor(list(self._coming), dtype=torch.long),
            "rows": torch.tensor(self._rows, dtype=torch.long),
            "rewards": torch.tensor(self._rewards, dtype=torch.float64),
            "groups": self._groups,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: it is another sampler's.
        """
        self.sampler.load_state_dict(state_dict["sampler"])
        self._coming = deque(state_dict["coming"].tolist())
        self._rows, self._rewards = state_dict["rows"].tolist(), state_dict["rewards"].tolist()
        self._groups = int(state_dict["groups"])

    def metrics(self) -> dict[str, float]:
        """The sampler's."""
        return self.sampler.metrics()
