"""Formulas solved for x: what is asked, what is right, and what is not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.learning.testbeds.formulas import Formulas, Operation, problem, question, solution
from dps_pyro.tasks import Prompt, judge

TASK = Formulas(operations=(1, 4), train_size=40, test_size=20)


def asked(text: str, answer: str) -> Prompt:
    return Prompt(f"formulas:{text}", f"{text}:", answer)


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_what_is_shown_is_right_and_one_wrong_sign_is_not(seed: int, operations: int) -> None:
    steps, result = problem(random.Random(seed), operations)
    text, answer = question(steps, result), solution(steps, result)
    assert text.count("x") == 1
    assert len(answer) <= 36
    prompt = asked(text, answer)
    assert TASK.reward(prompt, answer).value == 1
    wrong = [steps[0]._replace(sign={"+": "-", "-": "+", "*": "/", "/": "*"}[steps[0].sign], first=False), *steps[1:]]
    assert (TASK.reward(prompt, solution(wrong, result)).value == 1) == (question(wrong, result) == text)


@pytest.mark.parametrize(
    ("completion", "value", "reason"),
    [
        ("(c/b)-a", 1, "correct"),
        (" c / b - a ", 1, "correct"),
        ("(c-a*b)/b", 1, "correct"),
        ("c/(b-a)", 0, "wrong"),
        ("(c/b)-", 0, "not an expression"),
        ("c/(b-b)", 0, "division by zero"),
        ("", 0, "not a formula of the known letters"),
        ("x", 0, "not a formula of the known letters"),
        ("31/7-1", 0, "not a formula of the known letters"),
        ("cb", 0, "not an expression"),
        ("(" * 100_000, 0, "not a formula of the known letters"),
    ],
)
def test_every_formula_with_the_value_of_x_is_right(completion: str, value: float, reason: str) -> None:
    prompt = asked("(x+a)*b=c", "(c/b)-a")
    assert TASK.reward(prompt, completion) == (value, reason)


def test_the_known_number_may_stand_first() -> None:
    steps = [Operation("-", "a", True), Operation("/", "b", True)]
    assert question(steps, "c") == "b/(a-x)=c"
    assert solution(steps, "c") == "a-(b/c)"


def test_splits_differ_and_have_all_numbers_of_operations() -> None:
    train, test = TASK.prompts("train"), TASK.prompts("test")
    assert not {*train.ids} & {*test.ids}
    assert {prompt.features["operations"] for prompt in train} == {1, 2, 3, 4}
    assert [prompt.text for prompt in train] == [
        prompt.text for prompt in Formulas(operations=(1, 4), train_size=40, test_size=20).prompts("train")
    ]
    assert all(reward.value == 1 for reward in judge(TASK, list(test), [str(prompt.answer) for prompt in test]))
    with pytest.raises(ValueError, match="operations: expected a smallest number of at least 1"):
        Formulas(operations=(3, 2))
