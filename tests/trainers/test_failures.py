"""What goes wrong with completions and rewards has one outcome each: counted and left out, or a clear stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from helpers.engines.chat import chat_model
from helpers.runs.tiny import call, metrics, tiny
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from dps_pyro import RolloutHistory
from dps_pyro.cli import main
from dps_pyro.rollouts import Rollouts
from dps_pyro.tasks import BlocksWorld, Countdown, Geometry, Math, Task, judge
from dps_pyro.tasks.own.reward_process import RewardError, RewardProcess
from dps_pyro.trainers.config.config_file import save_config
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.step.groups import Groups
from dps_pyro.trainers.step.policy_update import update

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
        "nothing": "reward abstained",
        "two": "expected a reward in 0..1, got 2.0",
        "nan": "reward abstained",
        "text": "ValueError",
    }.items():
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
    more = {"steps": 2, "reward_timeout": 1 if reward == "slow" else 10, "group_size": 2, "acquisition": "uniform"}
    train(settings(tmp_path, reward, more))
    said = " ".join(capsys.readouterr().out.split())
    why = "reward took more than 1 s" if reward == "slow" else "reward raised KeyError: "
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


@pytest.mark.parametrize("completion", ["\n" * 5000, " \t\r\n " * 100, "\0" * 50])
@pytest.mark.parametrize("task", [Math, BlocksWorld, Geometry], ids=lambda task: task.__name__)
def test_every_task_calls_them_wrong(task: Any, completion: str) -> None:
    made: Task = task(train_size=4, test_size=2)
    prompts = list(made.prompts("test"))
    for reward in judge(made, prompts, [completion] * len(prompts)):
        assert reward.value == 0
        assert reward.reason not in ("correct", "wrong value")


def test_a_policy_that_writes_newlines_alone_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From end to end: no group is useful, nothing is learned, and the run says what it saw."""
    _, tokenizer = load_policy(tiny(Path(), model=chat_model(tmp_path / "other")))
    (newline,) = tokenizer("\n")["input_ids"]
    shape = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=512)
    model = GPT2LMHeadModel(shape)
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[newline] = 50.0  # likeliest whatever came before
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    train(tiny(tmp_path / "run", model=str(tmp_path / "model"), max_new_tokens=5, steps=11, log_completions=5))
    steps = [line for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert all((line["reward"], line["useful"], line["loss"], line["skipped"]) == (0, 0, None, 0) for line in steps)
    assert all(line["truncated"] == 1 for line in steps)
    assert {name for line in steps for name in line if name.startswith("reason/")} == {"reason/empty"}
    table = pandas.read_parquet(tmp_path / "run/completions")
    assert set(table["completion"]) == {"\n" * 5}
    said = " ".join(capsys.readouterr().out.split())
    assert "no group was useful" in said and "100% of the completions were cut off" in said
    kept = GPT2LMHeadModel.from_pretrained(tmp_path / "run/policy").state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in before.items())


# -------------------------------------------------------------------------------------------------- what is not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_takes_no_step(bad: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (4, 6), generator=generator)
    mask = torch.ones(4, 6, dtype=torch.bool)
    drawn = torch.full((4, 6), -1.0)
    drawn[1, 2] = bad
    rollouts = Rollouts(ids[:, :3], mask[:, :3], ids, mask, drawn, ["stop"] * 4, [""] * 4)
    groups = Groups(rollouts, torch.tensor([[0.0, 1, 0, 1]]), [""] * 4)
    config = tiny(Path(), batch_size=1)
    policy, _ = load_policy(config)
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
    if bad > 0:  # its ratio is zero: nothing is learned from the token, and nothing breaks
        learned = update(policy, None, optimizer, groups, config, 0)
        assert learned["grad_norm"] is not None and learned["grad_norm"] < float("inf")
        return
    with pytest.raises(FloatingPointError, match=r"gradient norm: expected a finite number, got (nan|inf)"):
        update(policy, None, optimizer, groups, config, 0)
    assert all(torch.equal(before[name], weight) for name, weight in policy.state_dict().items())
    assert not optimizer.state


def test_a_gradient_that_overflows_stops_the_run_and_the_checkpoint_is_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The KL to the initial policy is zero at first, and has this weight later."""
    run, file = tmp_path / "run", tmp_path / "my.yaml"
    config = tiny(run, steps=9, batch_size=8, checkpoint_every=1, learning_rate=1e-3, kl=1e38, eval_every=0)
    file.write_text(save_config(config), encoding="utf-8")
    status, _, err = call(capsys, "train", "--config", str(file))
    assert status == 1
    assert err.startswith("dps-pyro train: gradient norm: expected a finite number, got ")
    done = max(int(folder.name[5:]) for folder in (run / "checkpoints").iterdir())
    assert 1 <= done < 9
    assert f"The last checkpoint is of step {done}; go on with: dps-pyro train --resume --out {run}" in err
    assert main(["train", "--resume", "--out", str(run), "--kl", "0.01", "--steps", str(done + 1)]) == 0
    weights = load_file(run / f"checkpoints/step-{done + 1:06d}/policy/model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


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
