"""The rounds of dynamic sampling: how many candidates are rolled out at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers.runs.tiny import metrics, tiny

from dps_pyro.history.log import RolloutHistory
from dps_pyro.rollouts.base import Rollouts
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.selection import completing
from dps_pyro.tasks import Prompt, Reward
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.parts import make_task
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.step.bookkeeping import Clock
from dps_pyro.trainers.step.groups import Groups, Source, roll_out

TWO = {"train_size": 32, "test_size": 8, "operands": {2: 1.0}}


class Counting:
    """The policy's own engine, and how many prompts it was asked to roll out at a time."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine
        self.asked: list[int] = []

    def generate(self, prompts: Sequence[Any], *arguments: Any, **settings: Any) -> Rollouts:
        self.asked.append(len(prompts))
        return self.engine.generate(prompts, *arguments, **settings)


class Parts(NamedTuple):
    source: Source
    engine: Counting
    prompts: list[Prompt]


@pytest.fixture
def parts() -> Parts:
    config = tiny(Path(), batch_size=3, group_size=8, task_args=TWO, dynamic_sampling=0, refill="missing")
    policy, tokenizer = load_policy(config)
    task = make_task(config, tokenizer)
    engine = Counting(TransformersEngine(policy, tokenizer))
    source = Source(engine, tokenizer, task, config)  # type: ignore[arg-type]
    return Parts(source, engine, [task.prompts("train")[row] for row in range(21)])


def rolled(parts: Parts, chances: torch.Tensor | None) -> tuple[Groups, list[int]]:
    parts.engine.asked.clear()
    return roll_out(parts.source, parts.prompts, 0, Clock(), chances=chances), list(parts.engine.asked)


def test_each_round_asks_for_what_is_missing_and_the_last_one_completes_the_batch(parts: Parts) -> None:
    chances = torch.linspace(0.8, 0.2, 21)
    groups, asked = rolled(parts, chances)
    useful, done, missing = groups.useful.int(), 0, 3
    for count in asked:
        assert missing > 0
        assert count == completing(chances[done:], missing)
        missing -= int(useful[done : done + count].sum())
        done += count
    assert missing <= 0
    assert done == len(groups.rewards) < 21
    assert groups.of(torch.arange(21)).tolist() == list(range(done))
    # The rewards are those of the prompts they are booked for.
    for place, prompt in enumerate(parts.prompts[:done]):
        said = groups.rollouts.texts[8 * place : 8 * place + 8]
        assert groups.rewards[place].tolist() == [parts.source.task.reward(prompt, text).value for text in said]


def test_without_chances_a_round_is_a_batch(parts: Parts) -> None:
    groups, asked = rolled(parts, None)
    assert set(asked) == {3}
    before = groups.useful[: 3 * (len(asked) - 1)]
    assert before.sum() < 3 <= groups.useful.sum()


class Failing:
    """A task whose reward fails for some prompts."""

    def __init__(self, task: Any, fails: set[str]) -> None:
        self.task, self.fails = task, fails

    def prompts(self, split: str) -> Any:
        return self.task.prompts(split)

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        if prompt.id in self.fails:
            raise ConnectionError("the judge is gone")
        reward: Reward = self.task.reward(prompt, completion)
        return reward


def test_a_later_round_that_cannot_be_judged_is_left_out_and_counted(parts: Parts) -> None:
    chances = torch.full((21,), 0.9)
    _, asked = rolled(parts, chances)
    assert len(asked) > 1
    second = parts.prompts[asked[0] : asked[0] + asked[1]]
    task = Failing(parts.source.task, {prompt.id for prompt in second})
    source = replace(parts.source, task=task)
    groups, again = rolled(parts._replace(source=source), chances)
    assert again[:2] == asked[:2]
    assert groups.skipped == 8 * asked[1]
    assert groups.trouble is not None and "the judge is gone" in groups.trouble
    left_out = range(asked[0], asked[0] + asked[1])
    assert not set(left_out) & set(groups.of(torch.arange(21)).tolist())
    everything = replace(source, task=Failing(parts.source.task, {prompt.id for prompt in parts.prompts}))
    with pytest.raises(ValueError, match="expected whole groups to be judged, got none of 3"):
        rolled(parts._replace(source=everything), chances)


def test_a_run_that_refills_what_is_missing_trains_whole_batches_and_resumes_exactly(tmp_path: Path) -> None:
    shared = {"batch_size": 3, "dynamic_sampling": 0, "refill": "missing", "task_args": TWO, "checkpoint_every": 2}
    train(tiny(tmp_path / "whole", steps=4, **shared))
    train(tiny(tmp_path / "parts", steps=2, **shared))
    train(tiny(tmp_path / "parts", steps=4, resume=True, **shared))
    events = RolloutHistory.from_parquet(tmp_path / "whole/history.parquet").events
    trained = torch.zeros(4, dtype=torch.long).index_add(0, events.step, events.trained.long())
    assert trained.tolist() == [3] * 4
    whole, parts = (
        [
            (line["rollouts"], line["reward"], line["loss"])
            for line in metrics(tmp_path / name)
            if line["kind"] == "train"
        ]
        for name in ("whole", "parts")
    )
    assert whole == parts


def test_what_is_missing_is_refilled_only_with_dynamic_sampling() -> None:
    with pytest.raises(
        ValueError, match="refill: expected dynamic_sampling of 0, or of at least 2, with missing, got 1"
    ):
        tiny(Path(), refill="missing")
