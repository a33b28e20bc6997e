"""What goes wrong with completions and rewards has one outcome each: counted and left out, or a clear stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import call, metrics, tiny

from dps_pyro import RolloutHistory
from dps_pyro.cli import main
from dps_pyro.rollouts import Rollouts
from dps_pyro.tasks import Countdown
from dps_pyro.tasks.reward_process import RewardError, RewardProcess
from dps_pyro.trainers.config_file import save_config
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.policy import load_policy
from dps_pyro.trainers.rolled import Groups
from dps_pyro.trainers.update import update

REWARDS = '''
import os
import time
from pathlib import Path

HERE = Path(__file__).parent


def right(completion, record):
    print("noise on standard output")
    return "+" in completion, "plus" if "+" in completion else "no plus"


def shy(completion, record):
    """Raises on one prompt in four."""
    if record["number"] % 4 == 0:
        raise KeyError(record["number"])
    return float("+" in completion)


def slow(completion, record):
    if record["number"] % 4 == 0:
        time.sleep(60)
    return float("+" in completion)


def late(completion, record):
    """Breaks down for good after a while."""
    count = HERE / "count"
    number = int(count.read_text()) + 1 if count.exists() else 1
    count.write_text(str(number))
    if number > record["breaks_after"]:
        raise ConnectionError("the judge is gone")
    return float("+" in completion)


def dies(completion, record):
    os._exit(3)


def wrong(completion, record):
    return {"nothing": None, "two": 2.0, "nan": float("nan"), "text": "yes"}[record]


pi = 3.14
'''


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    file = tmp_path / "rewards.py"
    file.write_text(REWARDS, encoding="utf-8")
    return file


def problems(folder: Path, **more: Any) -> Path:
    """Prompts for the embedded policy, as records."""
    task = Countdown(train_size=48, test_size=1, style="compact")
    records = [{"prompt": one.text, "number": place} | more for place, one in enumerate(task.prompts("train"))]
    file = folder / "problems.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def settings(folder: Path, reward: str, more: dict[str, Any] | None = None, **record: Any) -> Any:
    file = problems(folder, **record)
    return tiny(
        folder / "run", model="countdown", data=str(file), reward=f"{folder}/rewards.py:{reward}",
        task_args={"features": ["number"]}, batch_size=8, **(more or {}),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- the reward process


def test_a_reward_is_called_elsewhere_and_may_print(rewards: Path) -> None:
    judge = RewardProcess(f"{rewards}:right", 10)
    assert judge("1+2", {}) == (1.0, "plus")
    assert judge("", None) == (0.0, "no plus")
    assert judge("\n" * 100_000 + "Ω+", {"number": [1, "ü"]}) == (1.0, "plus")  # more than a pipe holds
    judge.close()
    assert judge("+", {}) == (1.0, "plus")  # it starts again


def test_raising_hanging_dying_and_wrong_rewards_are_no_zeros(rewards: Path) -> None:
    shy = RewardProcess(f"{rewards}:shy", 10)
    with pytest.raises(RewardError, match="reward raised KeyError: 4"):
        shy("+", {"number": 4})
    assert shy("+", {"number": 5}) == (1.0, "correct")  # it lives on
    slow = RewardProcess(f"{rewards}:slow", 0.3)
    with pytest.raises(RewardError, match=r"reward took more than 0.3 s"):
        slow("+", {"number": 0})
    slow.seconds = 20
    assert slow("", {"number": 1}) == (0.0, "wrong")  # another one
    dies = RewardProcess(f"{rewards}:dies", 10)
    for _ in range(2):
        with pytest.raises(RewardError, match="reward's process died: exit status 3"):
            dies("+", {})
    wrong = RewardProcess(f"{rewards}:wrong", 10)
    for record, message in {
        "nothing": "TypeError", "two": "expected a reward in 0..1, got 2.0", "nan": "got nan", "text": "ValueError",
    }.items():  # fmt: skip
        with pytest.raises(RewardError, match=message):
            wrong("", record)


def test_a_function_that_is_not_there_is_told_at_once(rewards: Path) -> None:
    with pytest.raises(ValueError, match=r"reward: expected path/to/file.py:function, got 'nowhere.py:judge'"):
        RewardProcess("nowhere.py:judge", 1)
    for name in ("pi", "missing"):
        with pytest.raises(ValueError, match=r"reward: expected a function, path/to/file.py:function"):
            RewardProcess(f"{rewards}:{name}", 1)
    rewards.write_text("import nothing_of_that_name\n", encoding="utf-8")
    with pytest.raises(ValueError, match="No module named 'nothing_of_that_name'"):
        RewardProcess(f"{rewards}:right", 1)


# --------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("reward", ["shy", "slow"])
def test_groups_that_cannot_be_judged_are_left_out_and_counted(
    reward: str, rewards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"steps": 2, "reward_timeout": 0.2 if reward == "slow" else 10, "group_size": 2, "acquisition": "uniform"}
    train(settings(tmp_path, reward, more))
    said = " ".join(capsys.readouterr().out.split())
    why = "reward took more than 0.2 s" if reward == "slow" else "reward raised KeyError: "
    assert f"completions were left out of step 1: {why}" in said or f"were left out of step 2: {why}" in said
    lines = metrics(tmp_path / "run")
    steps = [line for line in lines if line["kind"] == "train"]
    history = RolloutHistory.from_parquet(tmp_path / "run/history.parquet")
    assert "number" in history.features
    numbers = torch.tensor(history.features["number"])[history.events.prompt]
    assert not (numbers % 4 == 0).any()  # nothing was made up for them
    assert sum(line["skipped"] for line in steps) > 0
    assert len(history) == 16 - sum(line["skipped"] for line in steps) // 2
    assert steps[-1]["rollouts"] == 32  # they were paid for
    for line in steps:
        assert sum(share for name, share in line.items() if name.startswith("reason/")) == pytest.approx(1)
    assert lines[0]["unjudged"] > 0
    assert 0 <= lines[0]["accuracy"] <= 1


def test_a_reward_that_always_raises_stops_the_run_and_names_the_checkpoint(
    rewards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path, "late", {"steps": 9, "checkpoint_every": 1, "eval_every": 0}, breaks_after=90)
    file = tmp_path / "config.yaml"
    file.write_text(save_config(config), encoding="utf-8")
    status, _, err = call(capsys, "train", "--config", str(file))
    assert status == 2
    assert "expected whole groups to be judged, got none of 8: reward raised ConnectionError: the judge is gone" in err
    last = max((tmp_path / "run/checkpoints").iterdir()).name
    assert f"The last checkpoint is of step {int(last[5:])}; go on with: dps-pyro train --resume" in err
    (tmp_path / "count").unlink()  # mended
    done = int(last[5:])
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--steps", str(done + 1)]) == 0


@pytest.mark.parametrize("completion", ["", "\n", "\n" * 5000, " \t\n "])
def test_empty_completions_are_wrong_and_say_why(completion: str) -> None:
    for style in ("compact", "instruct"):
        task = Countdown(train_size=4, test_size=1, style=style)
        reward = task.reward(task.prompts("train")[0], completion)
        assert reward.value == 0
        assert reward.reason not in ("correct", "wrong value")


def test_completions_without_a_token_take_part_without_harm() -> None:
    """An engine that leaves the end-of-sequence out gives such rows."""
    ids = torch.randint(5, 60, (4, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(6) < torch.tensor([0, 6, 3, 0])[:, None]
    rollouts = Rollouts(
        ids[:, :3], torch.ones(4, 3).bool(), ids, mask, torch.full((4, 6), -1.0), ["stop"] * 4, [""] * 4
    )
    groups = Groups(rollouts, torch.tensor([[0.0, 1, 0, 1]]), [""] * 4)
    for micro in (1, 4):
        config = tiny(Path(), batch_size=1, micro_batch=micro)
        policy, _ = load_policy(config)
        learned = update(policy, None, torch.optim.SGD(policy.parameters(), lr=0.1), groups, config, 0)
        assert learned["loss"] is not None
        assert learned["grad_norm"] is not None and learned["grad_norm"] > 0
    nothing = groups._replace(rollouts=rollouts._replace(completion_mask=torch.zeros_like(mask)))
    learned = update(policy, None, torch.optim.SGD(policy.parameters(), lr=0.1), nothing, config, 0)
    assert learned["loss"] is None  # nothing was drawn, so there is nothing to learn from


# ------------------------------------------------------------------------------------------------------- long prompts


def test_prompts_over_the_limit_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, tokenizer = load_policy(tiny(Path()))
    task = Countdown(train_size=32, test_size=8, style="compact")
    lengths = [len(tokenizer(prompt.text)["input_ids"]) for prompt in task.prompts("train")]
    limit = sorted(lengths)[20]
    short = sum(length <= limit for length in lengths)
    assert 4 <= short < 32
    train(tiny(tmp_path / "run", max_prompt_tokens=limit))
    out = " ".join(capsys.readouterr().out.split())
    assert f"{32 - short} of 32 train prompts are longer than {limit} tokens, and are left out" in out
    history = RolloutHistory.from_parquet(tmp_path / "run/history.parquet")
    assert history.num_prompts == short
    known = {prompt.id for prompt, length in zip(task.prompts("train"), lengths, strict=True) if length <= limit}
    assert set(history.ids or ()) == known


def test_no_room_for_prompts_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--max-prompt-tokens", "1"], "max_prompt_tokens: expected train prompts of at most 1, got"),
        (["--max-new-tokens", "100000"], "max_new_tokens: expected fewer than the model's context of"),
    ):
        status, _, err = call(capsys, "train", "--out", str(tmp_path / "run"), *arguments)
        assert status == 2
        assert message in err
        assert not (tmp_path / "run").exists()
