"""A task sampler with prime-rl's five verbs, on objects with the names that prime-rl's have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress
from dps_pyro.storage import load_state, save_state
from dps_pyro.trainers.prime_rl import PredictiveTaskSampler


@dataclass
class Task:
    key: str | None


@dataclass
class Trace:
    reward: float
    has_error: bool = False
    agent: Any = field(default_factory=lambda: SimpleNamespace(trainable=True))


def group(task: Task, rewards: list[float], **trace: Any) -> list[Any]:
    return [SimpleNamespace(task=task, traces=[Trace(reward, **trace)]) for reward in rewards]


TASKS = [Task(f"task {row}") for row in range(20)]


def make(seed: int = 0, **settings: Any) -> PredictiveTaskSampler[Task]:
    return PredictiveTaskSampler(PromptSampler(SolvingProgress(), 20, trials=4, seed=seed), TASKS, 5, **settings)


def test_tasks_come_as_select_selects_and_a_batch_of_groups_is_a_step() -> None:
    sampler, alone = make(), PromptSampler(SolvingProgress(), 20, trials=4, seed=0)
    for step in range(3):
        tasks = [next(sampler) for _ in range(5)]
        rows = alone.select(5)
        assert tasks == [TASKS[row] for row in rows.tolist()]
        for task in tasks:
            assert sampler.sampler.tracker.step == step
            sampler.observe(group(task, [1.0, 0.0, 0.5, 1.0]))
        alone.observe(rows, [2] * 5, 4)
    assert sampler.metrics() == alone.metrics()


def test_errors_and_untrained_agents_do_not_count_and_repeats_are_one_group() -> None:
    sampler = make()
    sampler.observe(group(TASKS[2], [1.0, 0.0]))
    sampler.observe(group(TASKS[2], [1.0]))
    sampler.observe(group(TASKS[3], [1.0, 1.0], has_error=True))
    sampler.observe(group(TASKS[4], [1.0], agent=SimpleNamespace(trainable=False)) + group(TASKS[4], [0.0]))
    assert len(sampler.sampler.history) == 0
    sampler.observe(group(TASKS[5], [0.0]))
    events = sampler.sampler.history.events
    assert events.prompt.tolist() == [2, 3, 4, 5]
    assert (events.solved.tolist(), events.trials.tolist()) == ([2, 0, 0, 0], [3, 0, 1, 1])


def test_partial_rewards() -> None:
    sampler = make(solved_at=None)
    for task in TASKS[:5]:
        sampler.observe(group(task, [0.25, 0.5]))
    assert sampler.sampler.history.events.solved.tolist() == [0.75] * 5


def test_it_resumes_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    sampler = make()
    for _ in range(8):
        task = next(sampler)
        sampler.observe(group(task, [1.0, 0.0]))
    save_state(tmp_path, sampler.state_dict())
    other = make(seed=7)
    other.load_state_dict(load_state(tmp_path))
    for _ in range(12):
        ours, theirs = next(sampler), next(other)
        assert ours == theirs
        sampler.observe(group(ours, [0.0, 1.0]))
        other.observe(group(theirs, [0.0, 1.0]))


def test_tasks_are_found_by_the_samplers_ids() -> None:
    ids = [f"task {row}" for row in reversed(range(20))]
    sampler = PredictiveTaskSampler(PromptSampler(SolvingProgress(), ids, seed=0), TASKS, 5)
    rows = PromptSampler(SolvingProgress(), ids, seed=0).select(5)
    assert [next(sampler).key for _ in range(5)] == [ids[row] for row in rows.tolist()]


def test_what_does_not_fit_is_refused() -> None:
    prompts = PromptSampler(SolvingProgress(), 20)
    with pytest.raises(ValueError, match="tasks: expected distinct keys, got 19 of 20"):
        PredictiveTaskSampler(prompts, [*TASKS[:19], TASKS[0]], 5)
    with pytest.raises(ValueError, match="tasks: expected those of the sampler's 20 prompts, got 19"):
        PredictiveTaskSampler(prompts, TASKS[:19], 5)
    with pytest.raises(ValueError, match="group: expected the key of one of the 20 tasks, got 'other'"):
        make().observe(group(Task("other"), [1.0]))
    with pytest.raises(ValueError, match="group: expected episodes, got none"):
        make().observe([])
