"""Countdown: the inventory, the prompts, and a reward that nothing can break."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from operator import add, mul, sub, truediv
from time import process_time
from typing import Any

import pytest
from helpers.problems.splits import both
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro.tasks import Countdown, PromptSet, Reward, Task
from dps_pyro.tasks.grading.answers import tagged
from dps_pyro.tasks.planning.countdown import random_problem
from dps_pyro.tasks.planning.expression import evaluate

TASK = Countdown()
PROMPT = TASK.prompt([3, 7, 25], 46)  # 7 * 3 + 25

REASONS = {
    "unfinished thinking",
    "correct",
    "wrong value",
    "wrong numbers",
    "division by zero",
    "unclosed answer",
    "empty",
    "too long",
    "number too long",
    "not an expression",
}


# The inventory


def test_is_a_task() -> None:
    assert isinstance(TASK, Task)
    assert TASK.name == "countdown"


@pytest.mark.parametrize("style", ["compact", "instruct"])
def test_every_reference_solution_earns_the_reward(style: Any) -> None:
    task = Countdown(style=style)
    for prompt in both(task):
        solution = task.solution(prompt)
        assert task.reward(prompt, solution) == Reward(1.0, "correct")
        assert task.reward(prompt, f"<think>...</think> <answer>{solution}</answer>") == Reward(1.0, "correct")
        assert solution not in prompt.text


def test_default_sizes_and_ranges() -> None:
    assert (len(TASK.prompts("train")), len(TASK.prompts("test"))) == (1024, 256)
    for prompt in both(TASK):
        numbers, target = prompt.answer
        assert all(1 <= number <= 30 for number in numbers) and 1 <= target <= 100
        assert prompt.features["operands"] == len(numbers)


def test_the_splits_share_no_problem() -> None:
    ids = [prompt.id for prompt in both(TASK)]
    assert len(set(ids)) == len(ids)
    problems = {(tuple(sorted(prompt.answer[0])), prompt.answer[1]) for prompt in both(TASK)}
    assert len(problems) == len(ids)


def test_the_counts_of_numbers_have_their_shares() -> None:
    task = Countdown(operands={2: 1, 3: 2, 6: 1}, train_size=100, test_size=10)
    assert Counter(len(p.answer[0]) for p in task.prompts("train")) == {2: 25, 3: 50, 6: 25}
    # 2.5, 5 and 2.5: one of the halves is rounded up.
    assert sorted(Counter(len(p.answer[0]) for p in task.prompts("test")).values()) == [2, 3, 5]


def test_a_list_of_counts_shares_equally() -> None:
    task = Countdown(operands=[3, 4], train_size=20, test_size=2)
    assert Counter(len(p.answer[0]) for p in task.prompts("train")) == {3: 10, 4: 10}
    assert task.prompts("train") == Countdown(operands={3: 2, 4: 2}, train_size=20, test_size=2).prompts("train")


def test_the_inventory_is_the_same_for_ever() -> None:
    """Logged histories refer to prompts by id: a change of this digest orphans them."""
    digest = hashlib.sha256("\n".join(p.id + "|" + p.text for p in both(TASK)).encode()).hexdigest()
    assert digest[:16] == "d67dde6984f8ff52"


def test_seeds_differ_and_repeat() -> None:
    small: dict[str, Any] = {"train_size": 30, "test_size": 10}
    assert Countdown(seed=5, **small).prompts("train") == Countdown(seed=5, **small).prompts("train")
    assert Countdown(seed=5, **small).prompts("train") != Countdown(seed=6, **small).prompts("train")


def test_the_test_split_does_not_depend_on_the_training_sets_size() -> None:
    assert Countdown(train_size=10).prompts("test") == TASK.prompts("test")


def test_drawing_leaves_the_global_generator_alone() -> None:
    random.seed(0)
    before = random.getstate()
    Countdown(train_size=5, test_size=5)
    assert random.getstate() == before


@given(st.integers(0, 10**6), st.integers(2, 8))
@settings(max_examples=30)
def test_random_problems_are_what_they_say(seed: int, operands: int) -> None:
    problem = random_problem(random.Random(seed), operands, (1, 12), (5, 60))
    value, literals = evaluate(problem.solution)
    assert value == problem.target and 5 <= problem.target <= 60
    assert sorted(literals) == sorted(problem.numbers) and len(literals) == operands


@pytest.mark.parametrize(
    "arguments",
    [
        {"operands": {}},
        {"operands": {1: 1.0}},
        {"operands": {9: 1.0}},
        {"operands": {3: 0.0}},
        {"operands": {3: float("nan")}},
        {"operands": {3: True}},
        {"operands": {3: "much"}},
        {"operands": {3: float("inf")}},
        {"operands": {"unknown": 1}},
        {"operands": {2.5: 1}},
        {"operands": [3, "4"]},
        {"operands": [3, [4]]},
        {"operands": []},
        {"operands": "34"},
        {"operands": 3},
        {"operands": None},
        {"numbers": 9},
        {"numbers": (9,)},
        {"numbers": "19"},
        {"numbers": (1, 9.5)},
        {"numbers": {1: 2, 3: 4}},
        {"train_size": 2.5},
        {"train_size": True},
        {"test_size": "many"},
        {"seed": [1]},
        {"style": ["compact"]},
        {"numbers": (0, 9)},
        {"numbers": (9, 1)},
        {"targets": (-5, 9)},
        {"train_size": -1},
        {"style": "loud"},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected .*got"):
        Countdown(**arguments)


def test_too_few_distinct_problems_is_an_error() -> None:
    with pytest.raises(ValueError, match="distinct problems"):
        Countdown(operands={2: 1.0}, numbers=(1, 3), targets=(1, 9), train_size=50, test_size=0)
    with pytest.raises(ValueError, match="found no problem"):
        Countdown(operands={2: 1.0}, numbers=(1, 2), targets=(90, 99), train_size=1, test_size=0)


# Prompts


def test_prompt_styles() -> None:
    assert PROMPT.text == "3 7 25 = 46 :"
    text = Countdown(style="instruct", train_size=0, test_size=0).prompt([3, 7, 25], 46).text
    assert "[3, 7, 25]" in text and "equals 46" in text and "<think>" in text and "<answer>" in text


def test_ids_do_not_depend_on_the_order_or_the_style() -> None:
    assert PROMPT.id == "countdown:3,7,25=46"
    assert TASK.prompt([25, 3, 7], 46).id == PROMPT.id
    assert Countdown(style="instruct", train_size=0, test_size=0).prompt([7, 25, 3], 46).id == PROMPT.id


@pytest.mark.parametrize(
    ("numbers", "target"),
    [([3], 3), ([1] * 9, 9), ([0, 3], 3), ([3, 7], 0), ([3, 7.0], 10), ([3, True], 4), ([3, 7], "10")],
)
def test_problems_out_of_range_are_refused(numbers: Any, target: Any) -> None:
    with pytest.raises(ValueError, match=r"expected .*got"):
        TASK.prompt(numbers, target)


def test_prompt_set_is_an_immutable_sequence() -> None:
    prompts = TASK.prompts("train")
    assert prompts[0].id == prompts.ids[0] and prompts[-1] == prompts[len(prompts) - 1]
    assert isinstance(prompts[2:5], PromptSet) and prompts[2:5].ids == prompts.ids[2:5]
    assert prompts[3] in prompts and list(prompts)[3] == prompts[3]
    assert hash(prompts[:3]) == hash(prompts[:3]) and prompts[:3] == prompts[:3] != prompts[:2]
    assert repr(prompts[:1]) == f"PromptSet(1 prompts: {prompts.ids[0]!r})"
    with pytest.raises(TypeError):
        prompts[0] = prompts[1]  # type: ignore[index]
    with pytest.raises(ValueError, match="distinct ids"):
        PromptSet([prompts[0], prompts[1], prompts[0]])


def test_splits() -> None:
    with pytest.raises(ValueError, match="'train' or 'test', got 'validation'"):
        TASK.prompts("validation")
    with pytest.raises(KeyError):
        TASK.solution(PROMPT)


# The reward


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("7 * 3 + 25", "correct"),
        ("25--(3*7)", "correct"),
        ("<answer> 25 + (7*3)\n</answer>", "correct"),
        ("<think>25+3+7, no</think><answer>25+3+7</answer> or <answer>25+3*7</answer>", "correct"),
        ("<answer><answer>25+3*7</answer>", "correct"),
        ("<answer>25+3*7</answer> and then <answer>", "correct"),
        ("<answer>25+3*7</answer></answer>", "correct"),
        ("<answer>25+3*7</answer> is what </answer> ends", "correct"),
        ("</answer><answer>25+3*7</answer>", "correct"),
        ("<answer>no<answer>25+3*7</answer>no</answer>", "correct"),
        ("<answer>1</answer><answer>25+3*7</answer></answer><answer>2", "correct"),
        ("<answer>25+3*7</answer", "unclosed answer"),
        ("</answer><answer>25+3*7", "unclosed answer"),
        ("<answer>25+3*7<answer></answer>", "empty"),
        ("25 + 3 + 7", "wrong value"),
        ("7 * 3 + 25 / 25", "wrong numbers"),
        ("46", "wrong numbers"),
        ("21 + 25", "wrong numbers"),
        ("7 * 3 + 25 / (3 - 3)", "division by zero"),
        ("<answer>25+3*7", "unclosed answer"),
        ("<answer></answer>", "empty"),
        ("", "empty"),
        ("\n\n\n", "empty"),
        ("7 * 3 + 25 = 46", "correct"),
        ("46 = 7 * 3 + 25", "correct"),
        ("7 × 3 + 25", "correct"),
        (r"$7 \times 3 + 25$", "correct"),
        (r"The answer is $\boxed{7 \cdot 3 + 25 = 46}$.", "correct"),
        (r"<answer>\boxed{(3 x 7) + 25}</answer>", "correct"),
        (r"\(\left(25 + 3\right) \div 7\)", "wrong value"),
        (r"\frac{25}{3 + 7}", "wrong value"),
        ("25 + 3 + 7 = 46", "wrong value"),
        ("7 * 3 + 25 = 47", "not an expression"),
        ("7 * 3 + 25 = 46 = 46", "not an expression"),
        ("<think><answer>7 * 3 + 25</answer>", "unfinished thinking"),
        ("<think><answer>7 * 3 + 25</answer></think>no", "not an expression"),
        ("<think><answer>7 * 3 + 7</answer></think><answer>25 + 3 * 7</answer>", "correct"),
        (r"\boxed{7 * 3 + 25", "unclosed answer"),
        ("25+3*7</answer>", "not an expression"),
        ("The answer is 7 * 3 + 25", "not an expression"),
        ("<answer>25+3*7</answer><answer>no</answer>", "not an expression"),
    ],
)
def test_the_reward_says_why(completion: str, reason: str) -> None:
    assert TASK.reward(PROMPT, completion) == Reward(float(reason == "correct"), reason)


def test_arithmetic_is_exact() -> None:
    prompt = TASK.prompt([3, 3, 8, 8], 24)
    assert TASK.reward(prompt, "8 / (3 - 8 / 3)") == Reward(1.0, "correct")


def test_each_number_is_used_as_often_as_it_is_given() -> None:
    assert TASK.reward(TASK.prompt([5, 5], 25), "5 * 5").value == 1.0
    assert TASK.reward(TASK.prompt([5, 2], 25), "5 * 5").reason == "wrong numbers"
    assert TASK.reward(TASK.prompt([5, 5, 5], 25), "5 * 5").reason == "wrong numbers"


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("9**9**9", "not an expression"),
        ("__import__('os').system('true')", "not an expression"),
        ("٣ * 7 + 25", "not an expression"),
        ("7² + 3", "not an expression"),
        ("\0" * 100, "not an expression"),
        ("(" * 10_000, "too long"),
        ("(" * 10_000 + "7" + ")" * 10_000, "too long"),
        ("9" * 1_000_000, "too long"),
        ("9" * 100, "number too long"),
        ("<answer>" * 125_000, "unclosed answer"),
        ("</answer>" * 110_000, "too long"),
        ("</answer>" * 50_000 + "<answer>" * 50_000, "unclosed answer"),
        ("<answer>" * 125_000 + "</answer>", "empty"),
        ("<answer>" + "</answer>" * 110_000, "empty"),
        ("<answer>" + "</answer" * 120_000 + "<answer" * 9 + "</answer>", "too long"),
        ("<answer></answer>" * 60_000 + "<answer>" * 9, "empty"),
        ("<answer" * 140_000, "too long"),
        (" " * 1_000_000, "empty"),
        ("1" + " " * 1_000_000 + "1", "too long"),
    ],
)
def test_hostile_completions_earn_nothing_in_milliseconds(completion: str, reason: str) -> None:
    def once() -> float:
        start = process_time()
        assert TASK.reward(PROMPT, completion) == Reward(0.0, reason)
        return process_time() - start

    assert any(once() < 0.02 for _ in range(5))


@given(
    st.one_of(
        st.text(),
        st.text(st.characters(exclude_categories=())),  # lone surrogates too
        st.text("3725+-*/() "),
        st.lists(st.sampled_from(["<answer>", "</answer>", "3", "7", "25", "+", "*", "(", ")", "\n"])).map("".join),
    )
)
@settings(max_examples=120)
def test_any_completion_earns_a_reward_with_a_known_reason(completion: str) -> None:
    value, reason = TASK.reward(PROMPT, completion)
    assert reason in REASONS
    assert value == (1.0 if reason == "correct" else 0.0)


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "a", "b"])).map("".join))
@settings(max_examples=120)
def test_the_answer_is_the_last_pair(completion: str) -> None:
    """The definition, spelled out: every opening with the first closing after it, and the last of these."""
    opening = re.compile("<answer>")
    pairs = [(at.end(), completion.find("</answer>", at.end())) for at in opening.finditer(completion)]
    closed = [completion[start:end] for start, end in pairs if end >= 0]
    assert tagged(completion) == ((closed[-1], False) if closed else (None, bool(pairs)))


APPLY: dict[str, Callable[[Fraction, Fraction], Fraction]] = {"+": add, "-": sub, "*": mul, "/": truediv}


@pytest.mark.parametrize("target", [46, 53, 10])
@given(st.permutations([3, 7, 25]), st.sampled_from("+-*/"), st.sampled_from("+-*/"), st.booleans())
def test_correct_means_worth_the_target(target: int, numbers: list[int], one: str, two: str, right: bool) -> None:
    a, b, c = map(Fraction, numbers)
    text = "{} {} ({} {} {})" if right else "({} {} {}) {} {}"
    worth = APPLY[one](a, APPLY[two](b, c)) if right else APPLY[two](APPLY[one](a, b), c)
    reward = TASK.reward(TASK.prompt([3, 7, 25], target), text.format(a, one, b, two, c))
    assert reward.reason == ("correct" if worth == target else "wrong value")


# The paper's
