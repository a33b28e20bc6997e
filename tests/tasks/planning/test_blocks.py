"""The blocks world: rules, shortest plans, and a verifier that carries plans out."""

from __future__ import annotations

import hashlib
import random
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro.tasks import BlocksWorld, Prompt, Reward, Task
from dps_pyro.tasks.planning.blocks import TABLE, State, move, plan, random_state

TASK = BlocksWorld()
PROMPT = TASK.prompt(("ab", "c"), ("cb", "a"))
REASONS = {
    "correct", "goal not reached", "illegal move", "too many moves", "unclosed answer", "empty", "too long",
    "not a plan",
}  # fmt: skip


def both(task: BlocksWorld) -> list[Prompt]:
    return [*task.prompts("train"), *task.prompts("test")]


def written(steps: list[tuple[str, str]], style: str = "compact") -> str:
    if style == "compact":
        return ";".join(block + onto for block, onto in steps)
    told = [f"move {block} " + ("to the table" if onto == TABLE else f"onto {onto}") for block, onto in steps]
    return f"<think>...</think><answer>{'; '.join(told)}</answer>"


def test_the_rules() -> None:
    assert move(("ab", "c"), "b", "c") == ("a", "cb")
    assert move(("ab", "c"), "b", TABLE) == ("a", "b", "c")
    assert move(("ab", "c"), "c", "b") == ("abc",)
    assert move(("ab", "c"), "a", "c") is None  # b is on it
    assert move(("ab", "c"), "c", "a") is None
    assert move(("ab", "c"), "c", TABLE) is None  # it is there
    assert move(("ab", "c"), "c", "c") is None
    assert move(("ab", "c"), "d", "c") is None


def shortest(start: State, goal: State) -> int:
    """An oracle: iterative deepening over every pair of letters."""
    letters = sorted("".join(start))
    frontier, seen, moves = {start}, {start}, 0
    while goal not in frontier:
        tried = (move(state, *step) for state in frontier for step in product(letters, [*letters, TABLE]))
        frontier = {state for state in tried if state is not None} - seen
        seen |= frontier
        moves += 1
    return moves


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_plans_are_shortest_and_work(seed: int, blocks: int) -> None:
    rng = random.Random(seed)
    start, goal = random_state(rng, blocks), random_state(rng, blocks)
    steps = plan(start, goal, rng)
    assert len(steps) == shortest(start, goal) == len(plan(start, goal))
    prompt = TASK.prompt(start, goal)
    assert prompt.features["moves"] == len(steps)
    if steps:
        assert TASK.reward(prompt, written(steps)) == Reward(1.0, "correct")


@pytest.mark.parametrize("style", ["compact", "instruct"])
def test_every_problem_has_a_plan_that_earns_the_reward(style: Any) -> None:
    task = BlocksWorld(style=style, train_size=200)
    for prompt in both(task):
        steps = plan(*prompt.answer)
        assert 1 <= len(steps) == prompt.features["moves"] <= 6
        assert task.reward(prompt, written(steps, style)) == Reward(1.0, "correct")


def test_is_a_task_whose_splits_share_no_problem() -> None:
    assert isinstance(TASK, Task)
    assert (len(TASK.prompts("train")), len(TASK.prompts("test"))) == (1024, 256)
    problems = [prompt.answer for prompt in both(TASK)]
    assert len(set(problems)) == len(problems)
    assert {prompt.features["moves"] for prompt in both(TASK)} == {1, 2, 3, 4, 5, 6}


def test_the_inventory_is_the_same_for_ever() -> None:
    digest = hashlib.sha256("\n".join(p.id + "|" + p.text for p in both(TASK)).encode()).hexdigest()
    assert digest[:16] == "560ccd89767877b6"
    assert BlocksWorld(train_size=5).prompts("test") == TASK.prompts("test")
    assert BlocksWorld(train_size=5, seed=1).prompts("test") != TASK.prompts("test")


def test_styles() -> None:
    assert PROMPT.text == "ab/c > a/cb :"
    text = BlocksWorld(style="instruct", train_size=0, test_size=0).prompt(("ab", "c"), ("cb", "a")).text
    assert "Now: a is on the table, b is on a, c is on the table." in text
    assert "Wanted: a is on the table, c is on the table, b is on c." in text


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("bc", "correct"),
        (" B c . ", "correct"),
        ("b _ ; b c", "correct"),
        ("b_\nbc", "correct"),
        ("<answer>Move b onto c.</answer>", "correct"),
        ("<answer>move block b on top of block c</answer>", "correct"),
        ("<answer>c b</answer> no: <answer>b onto c</answer>", "correct"),
        ("b_", "goal not reached"),
        ("ac", "illegal move"),
        ("bb", "illegal move"),
        ("bd", "illegal move"),
        (";".join(["b_", "ba"] * 7 + ["bc"]), "too many moves"),
        ("", "empty"),
        (";", "empty"),
        ("bc;;", "correct"),
        ("bc;;bc", "not a plan"),
        ("put b on c", "correct"),
        ("<answer>1. Move block b onto the block c.</answer>", "correct"),
        ("<answer>move the block b from the block a onto the top of the block c</answer>", "correct"),
        ("<answer>- b -> table\n\n- b → c</answer>", "correct"),
        ("<think><answer>b c</answer></think> I do not know", "not a plan"),
        ("<think><answer>b c</answer>", "unfinished thinking"),
        ("do not move b onto c", "not a plan"),
        ("<answer>bc", "unclosed answer"),
        ("bc;" * 250_000, "too long"),
        ("b" * 1_000_000, "too long"),
        ("__import__('os')", "not a plan"),
    ],
)
def test_the_verifier_says_why(completion: str, reason: str) -> None:
    assert TASK.reward(PROMPT, completion) == Reward(float(reason == "correct"), reason)


def test_only_a_shortest_plan_where_that_is_wanted() -> None:
    task = BlocksWorld(optimal=True, train_size=0, test_size=0)
    prompt = task.prompt(("ab", "c"), ("cb", "a"))
    assert task.reward(prompt, "bc").value == 1.0
    assert task.reward(prompt, "b_;bc") == Reward(0.0, "not shortest")


@given(st.one_of(st.text(), st.text("abc_; \n"), st.text(st.characters(exclude_categories=()))))
def test_any_completion_earns_a_reward_with_a_known_reason(completion: str) -> None:
    reward = TASK.reward(PROMPT, completion)
    assert reward.reason in REASONS
    assert reward.value == float(reward.reason == "correct")


@pytest.mark.parametrize(
    "arguments",
    [{"blocks": ()}, {"blocks": (7,)}, {"blocks": "34"}, {"moves": (3, 2)}, {"moves": (0, 2)}, {"train_size": -1},
     {"seed": 0.5}, {"style": "loud"}, {"blocks": (2,), "train_size": 100}, {"blocks": (2,), "moves": (9, 9)}],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected .*got|found no problem"):
        BlocksWorld(**arguments)


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="'train' or 'test', got 'dev'"):
        TASK.prompts("dev")
    with pytest.raises(ValueError, match="expected the same blocks"):
        plan(("ab",), ("ac",))
