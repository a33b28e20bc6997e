"""Mathematics: generated and real problems, their splits, their answers."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro.tasks import Math, Prompt, Reward, Task, by_name, judge
from dps_pyro.tasks.mathematics import task as mathematics
from dps_pyro.tasks.mathematics.arithmetic import LEVELS, Problem, random_problem

TASK = Math()
RECORDS: list[dict[str, Any]] = [
    {"problem": f"What is ${n} + {n}$?", "answer": str(2 * n), "level": 1 + n % 5, "type": "Algebra"} for n in range(20)
]


def both(task: Math) -> list[Prompt]:
    return [*task.prompts("train"), *task.prompts("test")]


# Generated problems


def value(expression: str, x: Fraction) -> Fraction:
    """An oracle: a sum of products, with x after its factor."""
    total = Fraction(0)
    for term in expression.replace("-", "+-").split("+"):
        if term:
            product = Fraction(-1 if term.startswith("-") else 1)
            for factor in term.removeprefix("-").replace("x", "*x").removeprefix("*").split("*"):
                product *= x if factor == "x" else Fraction(factor)
            total += product
    return total


@given(st.integers(0, 10**6), st.sampled_from(sorted(LEVELS)))
def test_random_problems_have_the_answers_they_say(seed: int, level: int) -> None:
    problem = random_problem(random.Random(seed), level)
    answer = Fraction(problem.answer)
    left, _, right = problem.text.partition("=")
    if problem.kind == "equation":
        assert value(left, answer) == value(right, answer)
        assert value(left, answer + 1) != value(right, answer + 1)
    else:
        assert right == "" and value(left, Fraction(0)) == answer
    assert problem.level == level
    assert set(problem.text) <= set("0123456789+-*=x")


def test_is_a_task_of_equal_levels() -> None:
    assert isinstance(TASK, Task)
    assert (len(TASK.prompts("train")), len(TASK.prompts("test"))) == (1024, 256)
    levels = Counter(prompt.features["level"] for prompt in TASK.prompts("train"))
    assert set(levels) == {1, 2, 3, 4, 5} and max(levels.values()) - min(levels.values()) <= 1


def test_the_splits_share_no_problem() -> None:
    for task in (TASK, Math(seed=7), Math(levels=(2,), train_size=300)):
        texts = [prompt.text for prompt in both(task)]
        assert len(set(texts)) == len(texts)


def test_the_inventory_is_the_same_for_ever() -> None:
    digest = hashlib.sha256("\n".join(f"{p.id}|{p.text}|{p.answer}" for p in both(TASK)).encode()).hexdigest()
    assert digest[:16] == "e978a42ca84151bc"
    assert random_problem(random.Random(0), 3) == Problem(3, "arithmetic", "98-54-6", "38")


def test_the_test_split_does_not_depend_on_the_training_sets_size() -> None:
    assert Math(train_size=10).prompts("test") == TASK.prompts("test")
    assert Math(seed=1, train_size=10).prompts("test") != TASK.prompts("test")


def test_styles() -> None:
    compact, english = TASK.prompts("train")[0], Math(style="instruct").prompts("train")[0]
    assert compact.id == english.id and compact.text == compact.id.removeprefix("math:") + ":"
    assert "\\boxed{}" in english.text and "*" not in english.text


@pytest.mark.parametrize(
    "arguments",
    [{"levels": ()}, {"levels": (6,)}, {"levels": "12"}, {"levels": 3}, {"train_size": -1}, {"test_size": 1.5},
     {"seed": "a"}, {"style": "loud"}, {"levels": (2,), "train_size": 100_000}],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected .*got"):
        Math(**arguments)


# Rewards


def test_every_answer_earns_the_reward_in_either_form() -> None:
    prompts = both(TASK)
    assert judge(TASK, prompts, [prompt.answer for prompt in prompts]) == [Reward(1.0, "correct")] * len(prompts)
    boxed = [f"So it is $\\boxed{{{prompt.answer}}}$." for prompt in prompts]
    assert judge(TASK, prompts, boxed) == [Reward(1.0, "correct")] * len(prompts)
    wrong = judge(TASK, prompts, [prompt.answer + "1" for prompt in prompts])
    assert {reward.reason for reward in wrong} == {"wrong value"}


@given(st.text("0123456789-/x=+* ", max_size=8))
def test_compact_completions_need_no_luck(completion: str) -> None:
    reward = TASK.reward(TASK.prompts("train")[0], completion)
    assert reward.value == float(reward.reason == "correct")


# Records


def test_records_become_prompts() -> None:
    task = Math.from_records(RECORDS, test_size=5)
    train, test = task.prompts("train"), task.prompts("test")
    assert (len(train), len(test)) == (15, 5)
    assert not set(train.ids) & set(test.ids)
    prompt = train[0]
    assert prompt.text.startswith("What is $") and prompt.text.endswith("within \\boxed{}.")
    assert prompt.features["subject"] == "Algebra" and prompt.features["level"] in range(1, 6)
    assert task.reward(prompt, f"\\boxed{{{prompt.answer}}}") == Reward(1.0, "correct")
    assert Math.from_records(RECORDS, test_size=5).prompts("test") == test
    assert Math.from_records(RECORDS, test_size=5, seed=1).prompts("test") != test


def test_a_training_problem_that_is_held_out_is_left_out_of_training() -> None:
    spaced = [RECORDS[0] | {"problem": "  What is\n$0 + 0$? "}]
    task = Math.from_records(RECORDS + RECORDS[:3], spaced)
    assert (len(task.prompts("train")), len(task.prompts("test"))) == (19, 1)
    assert not set(task.prompts("train").ids) & set(task.prompts("test").ids)


@pytest.mark.parametrize(
    ("record", "gold"),
    [
        ({"question": "q", "final_answer": ["2", "3"]}, "2, 3"),
        ({"question": "q", "final_answer": ["$\\frac{1}{2}$"]}, "\\frac{1}{2}"),
        ({"prompt": "q", "solution": "We see \\boxed{1} and \\boxed{\\pi}."}, "\\pi"),
        ({"question": "q", "answer": 27.0}, "27"),
        ({"problem": "q", "answer": 204}, "204"),
    ],
)
def test_fields_of_the_usual_data_sets(record: dict[str, Any], gold: str) -> None:
    assert Math.from_records([], [record]).prompts("test")[0].answer == gold


def test_records_that_are_no_problems_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a problem \(problem, question, .*\) in record 0, got answer"):
        Math.from_records([{"answer": "1"}])
    with pytest.raises(ValueError, match=r"expected an answer \(answer, final_answer, .*in record 0, got problem"):
        Math.from_records([{"problem": "q"}])
    with pytest.raises(ValueError, match="expected at least one record"):
        Math.from_records([])
    with pytest.raises(ValueError, match=r"expected a problem \(q\)"):
        Math.from_records(RECORDS, problem="q")


def test_files_by_configuration(tmp_path: Path) -> None:
    for name, records in (("train", RECORDS), ("test", RECORDS[:4])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    one = by_name.make("math", {"preset": "from_files", "train": str(tmp_path), "test": str(tmp_path / "test.jsonl")})
    assert (len(one.prompts("train")), len(one.prompts("test"))) == (16, 4)
    other = Math.from_files(tmp_path / "train.jsonl", tmp_path)
    assert other.prompts("train") == one.prompts("train")


def test_suites_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def read(source: str, split: str | None = None) -> list[dict[str, Any]]:
        asked.append((source, split))
        return [{"problem": "p", "question": "p", "answer": "1", "final_answer": ["1"], "solution": "no"}]

    monkeypatch.setattr(mathematics, "read_records", read)
    for name, suite in mathematics.SUITES.items():
        assert by_name.make("math", {"preset": "suite", "name": name}).prompts("test")[0].answer == "1"
        assert asked[-1] == (suite.source, suite.split)
    assert Math.suite("math-500", tmp_path / "m.jsonl").prompts("test")[0].answer == "1"
    assert asked[-1] == (tmp_path / "m.jsonl", None)
    assert len(Math.from_files("train.jsonl", "AIME24").prompts("test")) == 1
    with pytest.raises(ValueError, match="expected a suite among MATH-500, AIME24, AMC23, Minerva, OlympiadBench, got"):
        Math.suite("GSM8K")


def test_splits() -> None:
    with pytest.raises(ValueError, match="'train' or 'test', got 'dev'"):
        TASK.prompts("dev")
