"""The same sampler seed and the same rewards give the same selections, whichever loop asks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.plugins.trl_runs import PROMPTS, predictive
from helpers.runs.tiny import tiny
from torch.utils.data import DataLoader

from dps_pyro import PromptSampler, RolloutHistory
from dps_pyro.models import SolvingProgress
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.parts import make_sampler, make_task
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.prime_rl import PredictiveTaskSampler

STEPS, BATCH, GROUP = 4, 3, 4
ROW = {name: row for row, name in enumerate(PROMPTS)}


def rewards(row: int) -> list[float]:
    """Of the prompt's rollouts, the same in every loop."""
    return [float((row * 5 + rollout * 3) % 7 < 3) for rollout in range(GROUP)]


def make() -> PromptSampler:
    return PromptSampler(SolvingProgress(), len(PROMPTS), trials=GROUP, seed=11)


def solved(rows: list[int]) -> list[float]:
    return [sum(rewards(row)) for row in rows]


def bare() -> PromptSampler:
    """The verbs alone, as in a loop of one's own and in this package's."""
    sampler = make()
    for _ in range(STEPS):
        rows = sampler.select(BATCH)
        sampler.observe(rows, solved(rows.tolist()), GROUP)
    return sampler


def torch_loader() -> PromptSampler:
    sampler = make()
    batches = sampler.as_torch_sampler(BATCH, GROUP, STEPS)
    for rows in DataLoader(range(len(PROMPTS)), batch_size=BATCH * GROUP, sampler=batches):  # type: ignore[arg-type]
        distinct = rows[::GROUP].tolist()
        sampler.observe(distinct, solved(distinct), GROUP)
    return sampler


def prime_rl() -> PromptSampler:
    tasks = [SimpleNamespace(key=name) for name in PROMPTS]
    sampler = PredictiveTaskSampler(make(), tasks, BATCH)
    agent = SimpleNamespace(trainable=True)
    for _ in range(STEPS):
        for task in [next(sampler) for _ in range(BATCH)]:
            traces = [SimpleNamespace(reward=x, has_error=False, agent=agent) for x in rewards(ROW[task.key])]
            sampler.observe([SimpleNamespace(task=task, traces=[trace]) for trace in traces])
    return sampler.sampler


def of_trl(out: Path) -> PromptSampler:
    def judge(completions: list[str], id: list[str], **_: Any) -> list[float]:  # noqa: A002 - the column's
        return [rewards(ROW[name])[at % GROUP] for at, name in enumerate(id)]

    trainer = predictive(
        out, prompts=make(), reward_funcs=judge, max_steps=STEPS, per_device_train_batch_size=BATCH * GROUP
    )
    trainer.train()
    sampler: PromptSampler = trainer.prompt_sampler
    return sampler


@pytest.mark.parametrize("loop", ["torch", "prime-rl", "trl"])
def test_every_loop_selects_the_same(loop: str, tmp_path: Path) -> None:
    if loop == "trl" and importlib.util.find_spec("trl") is None:
        pytest.skip("needs trl")
    other = {"torch": torch_loader, "prime-rl": prime_rl, "trl": lambda: of_trl(tmp_path)}[loop]()
    expected = bare()
    for column, mine, theirs in zip(
        expected.history.events._fields, expected.history.events, other.history.events, strict=True
    ):
        assert mine.nan_to_num().tolist() == theirs.nan_to_num().tolist(), column
    assert other.select(BATCH).tolist() == expected.select(BATCH).tolist()


def test_this_packages_trainer_selects_what_the_bare_verbs_would(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", steps=4, seed=5)
    train(config)
    log = RolloutHistory.from_parquet(tmp_path / "run" / "history.parquet")
    events, progress = log.events, log.progress().tolist()

    task = make_task(config, load_policy(config)[1])
    sampler = make_sampler(config, task)
    assert sampler.ids == log.ids
    for step in range(4):
        now = events.step == step
        chosen = sampler.select(config.rollouts.batch_size)
        rows, solved_now, trained = events.prompt[now], events.solved[now], events.trained[now]
        assert sorted(chosen.tolist()) == sorted(rows.tolist())
        sampler.observe(rows, solved_now, events.trials[now], trained=trained, progress=progress[step])
