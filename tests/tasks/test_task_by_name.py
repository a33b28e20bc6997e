"""`--task`: by name, of a user's file, with presets, with what a task may have more than it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.engines.chat import chat_model
from helpers.runs.tiny import call, metrics, tiny, words

from dps_pyro.policies.embedded import EMBEDDED
from dps_pyro.tasks import Countdown, Prompt, PromptSet, Reward, Task, by_name, judge
from dps_pyro.trainers.config.config_file import load_config
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.parts import make_task
from dps_pyro.trainers.policy.chat import query, render
from dps_pyro.trainers.policy.load import load_policy

MINE = '''
from __future__ import annotations

from dps_pyro.tasks import Prompt, PromptSet, Reward


class Echo:
    """Say the word."""

    name = "echo"
    system = "You are an echo."
    groups = "length"

    def __init__(self, size: int = 8) -> None:
        words = [chr(ord("a") + i) * (1 + i % 3) for i in range(size + 4)]
        made = [Prompt(f"echo:{word}", f"Say {word}", word, {"length": len(word)}) for word in words]
        self.splits = {"train": PromptSet(made[4:]), "test": PromptSet(made[:4])}

    def prompts(self, split: str) -> PromptSet:
        return self.splits[split]

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        right = prompt.answer[0] in completion
        return Reward(float(right), "said" if right else "not said")


def short() -> Echo:
    return Echo(4)


number = 3


class NoTask:
    name = "none"
'''


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    return str(tmp_path / "mine.py")


@pytest.mark.usefixtures("undrawn")
def test_a_task_of_ones_own_trains_from_the_command_line(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = chat_model(tmp_path / "model"), tmp_path / "run"
    options = f"--task {mine}:Echo --model {model} --batch-size 4 --group-size 4 --steps 2 --max-new-tokens 8"
    assert call(capsys, "train", "--out", str(out), "--threads", "1", *options.split())[0] == 0
    first, *lines = metrics(out)
    assert first["prompts"] == 4
    assert {name for line in lines for name in line if name.startswith("reason/")} <= {"reason/said", "reason/not_said"}
    assert (out / "report.html").is_file()
    config = load_config(out / "config.yaml")
    assert (config.task.task, config.task.model) == (f"{mine}:Echo", model)


def test_a_function_may_make_the_task_and_arguments_reach_it(mine: str) -> None:
    assert len(by_name.make(f"{mine}:short").prompts("train")) == 4
    assert len(by_name.make(f"{mine}:Echo", {"size": 3}).prompts("train")) == 3


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (":number", {}, r"task: expected one of countdown, .*or path/to/file.py:Name, got .*:number"),
        (":nothing", {}, "task: expected one of Echo, short, NoTask in .*, got 'nothing'"),
        (":NoTask", {}, r"task: expected one with name, prompts\(split\) and reward\(prompt, completion\), got"),
        (":Echo", {"sise": 3}, "task_args: expected size; got an unexpected keyword argument 'sise'"),
        (":Echo", {"preset": "large"}, "task_args: expected a preset among none, got 'large'"),
    ],
)
def test_mistakes_are_told(name: str, arguments: dict[str, Any], message: str, mine: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_name.make(mine + name, arguments)


def test_no_such_task_is_told_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "train", "--task", "poetry")
    assert status == 2
    assert "task: expected one of countdown" in words(out + err)
    assert "got 'poetry'" in words(out + err)


def test_a_task_without_a_policy_of_its_own_asks_for_a_model(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "train", "--task", f"{mine}:Echo")
    assert status == 2
    assert "model: expected a causal LM's folder or hub id for the task" in words(out + err)


def test_the_policy_is_the_tasks_own_where_no_model_is_named() -> None:
    assert TrainConfig().task.policy == "countdown"
    assert TrainConfig().resolved().task.model == "countdown"
    assert TrainConfig.flat(model="some/hub-id").resolved().task.model == "some/hub-id"
    for task in EMBEDDED:
        config = TrainConfig.flat(task=task).resolved()
        assert config.task.model == task
        assert make_task(config).name == task


@pytest.mark.parametrize("task", ["countdown", "math", "blocks"])
def test_an_embedded_policy_knows_its_tasks_language(task: str) -> None:
    """Its prompts are compact, whether the policy is named or a folder with its tokenizer."""
    for model in (None, str(EMBEDDED[task])):
        config = TrainConfig.flat(task=task, model=model)
        _, tokenizer = load_policy(config)
        for prompt in make_task(config, tokenizer).prompts("train"):
            assert tokenizer.unk_token_id not in tokenizer(prompt.text)["input_ids"]


# Chat and raw


@pytest.mark.parametrize(
    ("prompt_format", "system", "shown"),
    [
        ("auto", None, "<user>Hello<assistant>"),
        ("chat", None, "<user>Hello<assistant>"),
        ("raw", None, "Hello"),
        ("auto", "Be brief.", "<system>Be brief.<user>Hello<assistant>"),
        ("raw", "Be brief.", "Be brief.\n\nHello"),
    ],
)
def test_chat_and_raw_formats_and_the_system_prompt(
    prompt_format: Any, system: str | None, shown: str, tmp_path: Path
) -> None:
    _, tokenizer = load_policy(TrainConfig.flat(model=chat_model(tmp_path)))
    assert render(tokenizer, "Hello", system, prompt_format) == shown


def test_chat_format_needs_a_template(tmp_path: Path) -> None:
    _, tokenizer = load_policy(TrainConfig())
    with pytest.raises(ValueError, match="prompt_format: expected a tokenizer with a chat template"):
        render(tokenizer, "Hello", None, "chat")
    with pytest.raises(ValueError, match="prompt_format: expected a tokenizer with a chat template"):
        train(tiny(tmp_path / "run", prompt_format="chat"))


def test_the_tasks_system_prompt_reaches_the_policy(mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dps_pyro.trainers.step import groups as rolled

    seen: list[tuple[Any, ...]] = []

    def spy(reader: Any, prompt: Prompt, system: Any, prompt_format: Any) -> Any:
        seen.append((system, prompt_format))
        return query(reader, prompt, system, prompt_format)

    monkeypatch.setattr(rolled, "query", spy)
    settings = {"task": f"{mine}:Echo", "task_args": {}, "model": chat_model(tmp_path / "model"), "max_new_tokens": 2}
    train(tiny(tmp_path / "run", prompt_format="raw", **settings))
    assert set(seen) == {("You are an echo.", "raw")}


# Many at once


def test_judge_uses_the_tasks_batch_where_it_has_one() -> None:
    task = Countdown(train_size=4, test_size=1)
    prompts = list(task.prompts("train"))
    completions = [task.solution(prompt) for prompt in prompts[:3]] + ["no"]
    assert [reward.value for reward in judge(task, prompts, completions)] == [1, 1, 1, 0]

    class Batched(Countdown):
        def rewards(self, prompts: Any, completions: Any) -> list[Reward]:
            return [Reward(0.5, "together")] * len(prompts)

    batched: Task = Batched(train_size=4, test_size=1)
    assert judge(batched, prompts, completions) == [Reward(0.5, "together")] * 4
    with pytest.raises(ValueError, match="expected one completion per prompt, got 1 of 4 prompts"):
        judge(task, prompts, completions[:1])


def test_a_prompt_needs_three_things_only() -> None:
    assert PromptSet([Prompt("a", "Say a", "a")])[0].features == {}
