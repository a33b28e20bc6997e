"""Tasks of reasoning-gym: safe scorers, answers found, features, and the reward process."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from typing import Any

import pytest

from dps_pyro.tasks import PromptSet, Task, feature_columns
from dps_pyro.tasks.by_name import make
from dps_pyro.tasks.gym.safe import REFUSED, SAFE, VERSION
from dps_pyro.tasks.gym.task import ReasoningGym
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.parts import make_task

gym = pytest.importorskip("reasoning_gym")

SMALL = {"train_size": 12, "test_size": 4}
HOSTILE = ["", "<answer>", "</answer><answer>", "(" * 5000, "9" * 5000, "[" * 3000, "\x00\ud800", "a," * 5000]


@pytest.fixture(scope="module")
def backward() -> ReasoningGym:
    return ReasoningGym("spell_backward", **SMALL, config={"min_word_len": 3, "max_word_len": 6})


def test_problems_are_distinct_and_the_same_for_ever(backward: ReasoningGym) -> None:
    assert isinstance(backward, Task)
    train, test = backward.prompts("train"), backward.prompts("test")
    assert isinstance(train, PromptSet)
    assert (len(train), len(test)) == (12, 4)
    assert not set(train.ids) & set(test.ids)
    again = ReasoningGym("spell_backward", **SMALL, config={"min_word_len": 3, "max_word_len": 6})
    assert again.prompts("train") == train
    columns = feature_columns(train)
    assert set(columns) == {"word_len", "length"}
    assert all(3 <= float(size) <= 6 for size in columns["word_len"])
    other = ReasoningGym("spell_backward", **SMALL, seed=7)
    assert set(other.prompts("train").ids) != set(train.ids)


def test_answers_are_judged_by_the_tasks_own_scorer(backward: ReasoningGym) -> None:
    prompt = backward.prompts("train")[0]
    told = f"so <answer>x</answer>, no: <answer> {prompt.answer} </answer>."
    assert backward.reward(prompt, told) == (1.0, "correct")
    assert backward.reward(prompt, prompt.answer) == (0.0, "no answer")
    nearly = prompt.answer[:-1] + "?"
    assert backward.reward(prompt, f"<answer>{nearly}</answer>") == (0.0, "partly correct")
    graded = ReasoningGym("spell_backward", **SMALL, config={"min_word_len": 3, "max_word_len": 6}, partial=True)
    value, reason = graded.reward(graded.prompts("train")[0], f"<answer>{nearly}</answer>")
    assert 0 < value < 1
    assert reason == "partly correct"
    compact = ReasoningGym("gcd", **SMALL, style="compact")
    first = compact.prompts("train")[0]
    assert compact.reward(first, f" {first.answer}\n").value == 1.0
    assert "<answer>" not in first.text


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_unfit_tasks_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"got {name}: "):
        ReasoningGym(name)
    assert name not in SAFE


def test_no_safe_scorer_evaluates_or_parses_code() -> None:
    """The list is of this version; where another is installed, its scorers are looked through for what must not be."""
    from reasoning_gym.factory import DATASETS

    assert len(SAFE) == 58
    for name in SAFE:
        source = inspect.getsource(DATASETS[name][0].score_answer)
        for call in ("eval(", "exec(", "parse_expr", "sympify", "literal_eval", "pickle", "subprocess", "compile("):
            assert call not in source, (name, VERSION)


@pytest.mark.parametrize("name", ["chain_sum", "game_of_life", "group_anagrams", "knights_knaves", "sudoku", "gcd"])
def test_hostile_answers_are_judged_or_refused_quickly(name: str) -> None:
    task = ReasoningGym(name, train_size=2, test_size=1, style="compact")
    prompt = task.prompts("train")[0]
    for completion in HOSTILE:
        assert 0 <= task.reward(prompt, completion).value < 1


def test_by_name_and_in_the_reward_process(tmp_path: Any) -> None:
    made = make("reasoning-gym:gcd", SMALL, {"style": "compact"})
    assert made.name == "reasoning-gym:gcd"
    config = TrainConfig.flat(
        out=tmp_path, task="reasoning-gym:spell_backward", model="countdown", task_args=SMALL, batch_size=4
    )
    task: Any = make_task(config)
    try:
        prompts = list(task.prompts("train"))[:3]
        judged = task.rewards(prompts, [prompts[0].answer, "<answer>x</answer>", ""])  # an embedded policy's style
        assert [reward.value for reward in judged] == [1.0, 0.0, 0.0]
        assert task.reward(prompts[1], prompts[1].answer).reason == "correct"
    finally:
        task.close()
    with pytest.raises(ValueError, match="scorer evaluates"):
        make("reasoning-gym:n_queens")
    with pytest.raises(ValueError, match="task_args"):
        make("reasoning-gym:gcd", {"config": {"no_such": 1}})
    few = {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 3}
    with pytest.raises(ValueError, match="different problems"):
        make("reasoning-gym:gcd", {"train_size": 50, "test_size": 1, "config": few})


def test_another_process_makes_the_same_problems() -> None:
    """The reward process makes its own, and knows problems by their ids, whatever its hash seed."""
    names = ("spell_backward", "knights_knaves", "shortest_path", "sudoku")
    code = "from dps_pyro.tasks.gym.task import ReasoningGym as R\n" + "\n".join(
        f"print(R({name!r}, train_size=5, test_size=1).prompts('train').ids)" for name in names
    )
    # pytest's own process has a random seed unless the environment gives one.
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ours = [str(ReasoningGym(name, train_size=5, test_size=1).prompts("train").ids) for name in names]
    assert told.splitlines() == ours
    assert told.count("spell_backward") == 5
