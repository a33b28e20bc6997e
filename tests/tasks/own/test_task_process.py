"""Rewards of a user's task, judged in a process that may be killed: what raises, hangs or dies is counted, no zero."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs.processes import gone
from helpers.runs.tiny import metrics, tiny

from dps_pyro import RolloutHistory
from dps_pyro.support.child import DiedError, Killable
from dps_pyro.tasks import Task, by_name
from dps_pyro.tasks.own import task_process
from dps_pyro.tasks.own.reward_process import RewardError
from dps_pyro.tasks.own.task_process import TaskProcess
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.step.groups import earnings

TASKS = '''
from __future__ import annotations

import os
import random
import time

from dps_pyro.tasks import Countdown, Prompt, Reward


class Mine(Countdown):
    """Countdown's prompts; every fourth prompt is trouble."""

    def __init__(self, trouble: str = "none", style: str = "compact") -> None:
        super().__init__(train_size=48, test_size=4, style=style)
        self.trouble = trouble

    def number(self, prompt: Prompt) -> int:
        return sum(map(ord, prompt.id)) % 4

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        print("noise")
        if self.number(prompt) == 0:
            if self.trouble == "raises":
                raise KeyError("a bug")
            if self.trouble == "hangs":
                time.sleep(60)
            if self.trouble == "dies":
                os._exit(3)
            if self.trouble == "nonsense":
                return Reward(7.0, "too much")
        return Reward(float("+" in completion), "plus" if "+" in completion else "no plus")


class Batched(Mine):
    def rewards(self, prompts, completions):
        if self.trouble == "short":
            return [Reward(1.0, "one")]
        return [self.reward(*pair) for pair in zip(prompts, completions)]


class Kept(Batched):
    """Counts its batches."""

    calls = 0

    def rewards(self, prompts, completions):
        self.calls += 1
        return [Reward(1.0, f"call {self.calls}")] * len(prompts)


class Chance(Mine):
    """Other prompts every time."""

    def __init__(self, trouble: str = "none", style: str = "compact") -> None:
        super().__init__(trouble, style)
        self.salt = random.SystemRandom().random()

    def prompts(self, split):
        return type(super().prompts(split))(
            Prompt(f"{self.salt}{one.id}", one.text, one.answer) for one in super().prompts(split)
        )


class Once(Mine):
    def __init__(self, trouble: str = "none", style: str = "compact") -> None:
        if os.environ.get("MADE_ONCE"):
            raise RuntimeError("there is only one of me")
        os.environ["MADE_ONCE"] = "1"
        super().__init__(trouble, style)
'''


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(TASKS, encoding="utf-8")
    return str(tmp_path / "mine.py")


def made(mine: str, name: str, trouble: str = "none", seconds: float = 10.0) -> TaskProcess:
    given = f"{mine}:{name}", {"trouble": trouble}, {"style": "compact"}
    return TaskProcess(by_name.make(*given), *given, seconds)


def troubled(task: Any) -> list[bool]:
    return [task.task.number(prompt) == 0 for prompt in task.prompts("train")]


# ------------------------------------------------------------------------------------------------------------ judging


def test_it_is_the_task_it_stands_for(mine: str) -> None:
    task = made(mine, "Mine")
    plain = task.task
    assert isinstance(task, Task)
    assert (task.name, task.groups, task.prompts("test")) == (plain.name, plain.groups, plain.prompts("test"))
    assert not hasattr(task, "rewards")
    first, *_, last = task.prompts("train")
    assert task.reward(first, "1+2") == (1.0, "plus")
    assert task.reward(last, "\n" * 100_000) == (0.0, "no plus")  # more than a pipe holds
    task.close()
    assert task.reward(first, "é+\x00") == (1.0, "plus")  # it starts again


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("raises", "reward raised KeyError: 'a bug'"),
        ("hangs", "reward took more than 3 s"),
        ("dies", "reward's process died: exit status 3"),
        ("nonsense", "reward raised ValueError: expected a reward in 0..1, got 7.0"),
    ],
)
def test_trouble_is_told_and_the_next_one_is_judged(mine: str, trouble: str, told: str) -> None:
    task = made(mine, "Mine", trouble, seconds=3.0 if trouble == "hangs" else 60)
    bad = next(prompt for prompt, one in zip(task.prompts("train"), troubled(task), strict=True) if one)
    good = next(prompt for prompt, one in zip(task.prompts("train"), troubled(task), strict=True) if not one)
    with pytest.raises(RewardError) as error:
        task.reward(bad, "+")
    assert str(error.value).startswith(told)
    assert task.reward(good, "+") == (1.0, "plus")


@pytest.mark.parametrize("trouble", ["none", "raises", "short"])
def test_a_batch_that_fails_is_judged_one_by_one(mine: str, trouble: str) -> None:
    task = made(mine, "Batched", trouble)
    prompts = list(task.prompts("train"))[:12]
    found = earnings(task, prompts, ["+", "-"] * 6)
    for place, (reward, bad) in enumerate(zip(found, troubled(task), strict=False)):
        if bad and trouble == "raises":
            assert reward.value != reward.value  # NaN: not known
            assert reward.reason == "reward raised KeyError: 'a bug'"
        else:
            assert reward == (1.0 - place % 2, "no plus" if place % 2 else "plus")
    assert any(troubled(task)[:12])


def test_a_batch_that_hangs_is_judged_one_by_one(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_process, "BATCH", 2)
    task = made(mine, "Batched", "hangs", seconds=2.0)
    asked = sorted(zip(troubled(task), task.prompts("train"), strict=True), key=lambda one: not one[0])
    hangs, works = asked[0], asked[-2:]
    start = time.monotonic()
    found = earnings(task, [works[0][1], hangs[1], works[1][1]], ["+"] * 3)
    assert [reward.value != reward.value for reward in found] == [False, True, False]
    assert {reward.reason for reward in found} <= {"plus", "reward took more than 2 s"}
    assert time.monotonic() - start < 50  # of 60 s that one alone would have slept


def test_a_batch_that_works_is_asked_once(mine: str) -> None:
    task = made(mine, "Kept")
    prompts = list(task.prompts("train"))[:5]
    assert [reward.reason for reward in earnings(task, prompts, ["x"] * 5)] == ["call 1"] * 5
    assert [reward.reason for reward in earnings(task, prompts, ["x"] * 5)] == ["call 2"] * 5  # the task lives on


def test_built_in_tasks_that_fail_at_a_batch_are_judged_one_by_one_too(mine: str) -> None:
    task = by_name.make(f"{mine}:Batched", {"trouble": "raises"})  # in this process
    found = earnings(task, list(task.prompts("train"))[:8], ["+"] * 8)
    assert {reward.reason for reward in found} == {"plus", "reward raised KeyError: 'a bug'"}


def test_tasks_that_cannot_be_made_twice_are_told(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MADE_ONCE", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    chance = made(mine, "Chance")
    with pytest.raises(RewardError, match="expected prompts that are the same whenever the task is made, got '0"):
        chance.reward(chance.prompts("train")[0], "+")
    once = made(mine, "Once")
    with pytest.raises(
        RewardError, match="the task's second making, for its rewards, raised RuntimeError: there is only one of me"
    ):
        once.reward(once.prompts("train")[0], "+")
    monkeypatch.delenv("MADE_ONCE")


# --------------------------------------------------------------------------------------------------------------- runs


def test_a_run_counts_what_hangs_and_learns_from_the_rest(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_process, "BATCH", 2)
    train(
        tiny(
            tmp_path / "run", model="countdown", task=f"{mine}:Batched", task_args={"trouble": "hangs"}, batch_size=8,
            group_size=2, steps=1, acquisition="uniform", reward_timeout=0.5,
        )
    )  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert "completions were left out of step 1: reward took more than 0.5 s" in said
    lines = metrics(tmp_path / "run")
    steps = [line for line in lines if line["kind"] == "train"]
    assert sum(line["skipped"] for line in steps) > 0
    history = RolloutHistory.from_parquet(tmp_path / "run/history.parquet")
    assert len(history) == 8 - sum(line["skipped"] for line in steps) // 2
    bad = torch.tensor([sum(map(ord, one)) % 4 == 0 for one in history.ids or ()])
    assert not bad[history.events.prompt].any()  # nothing was made up for them
    assert lines[0]["unjudged"] > 0


# --------------------------------------------------------------------------------------------------- no process is left

HANGS = '''
import re
import sys
import time


def sleeps(completion, record):
    time.sleep(600)


def computes(completion, record):
    """A regular expression that takes for ever, and lets no thread run."""
    re.match(r"(a|a)*$", "a" * 60 + "b")
'''

ASKS = """
import sys
from dps_pyro.tasks.own.reward_process import RewardProcess
judge = RewardProcess(sys.argv[1], 1.0 if sys.argv[1].endswith("computes") else 600.0)
judge.seconds = 1.0
question = {"completion": "", "record": None, "seconds": 1.0}
print(judge._process._process.pid, flush=True)
judge._process.ask(question, 600.0)
"""


@pytest.mark.parametrize("name", ["sleeps", "computes"])
def test_a_killed_run_leaves_no_judge(name: str, tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS, encoding="utf-8")
    command = [sys.executable, "-c", ASKS, f"{tmp_path}/hangs.py:{name}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        judge = int(process.stdout.readline())
        time.sleep(0.5)  # at work
        os.kill(process.pid, signal.SIGKILL)
    assert gone(judge, 60)


def test_a_process_that_is_killed_says_so() -> None:
    process = Killable("dps_pyro.tasks.own.reward_worker", "nowhere.py:judge")
    answer = process.ask(None, 120)
    assert answer is not None and "expected a Python file before the colon" in answer["raised"]
    with pytest.raises(DiedError, match="exit status 0"):
        process.ask({"completion": "", "record": None}, 10)
    process.close()
