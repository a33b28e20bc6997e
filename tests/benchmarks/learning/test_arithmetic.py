"""Arithmetic of graded difficulty: levels, splits and rewards."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.learning.arithmetic import LEVELS, Arithmetic
from dps_pyro.tasks import Prompt


def test_levels_have_the_same_share_as_long_as_they_have_problems() -> None:
    task = Arithmetic(("1+1", "2*2"), train_size=200, test_size=20)
    shares = {split: Counter(prompt.features["level"] for prompt in task.prompts(split)) for split in ("train", "test")}
    assert shares["test"] == {"1+1": 10, "2*2": 10}
    assert shares["train"] == {"1+1": 81 - 10, "2*2": 200 - 71}  # there are 81 sums of one digit


@given(st.integers(0, 99), st.sets(st.sampled_from((*LEVELS, "2-1", "3-3")), min_size=1))
def test_the_splits_have_nothing_in_common_and_the_answers_are_right(seed: int, levels: set[str]) -> None:
    task = Arithmetic(tuple(levels), train_size=40, test_size=20, seed=seed)
    train, test = ({prompt.id: prompt for prompt in task.prompts(split)} for split in ("train", "test"))
    assert len(train) == 40 and len(test) == 20 and not train.keys() & test.keys()
    for prompt in (*train.values(), *test.values()):
        first, sign, second = prompt.id.partition(next(sign for sign in "+-*" if sign in prompt.id))
        a, b = int(first), int(second)
        assert prompt.answer == {"+": a + b, "-": a - b, "*": a * b}[sign]
        assert prompt.features["level"] == f"{len(first)}{sign}{len(second)}"


def test_the_language_is_english_or_that_of_the_embedded_policy() -> None:
    english, compact = (next(iter(Arithmetic(("2*1",), 4, 1, style=style).prompts("train"))) for style in STYLES)
    assert english.id == compact.id and compact.text == f"{compact.id}:"
    assert english.text == f"What is {english.id.replace('*', ' × ')}? Reply with the number only."


STYLES: tuple[Any, ...] = ("instruct", "compact")


@pytest.mark.parametrize(
    ("completion", "value", "reason"),
    [
        ("-7", 1.0, "correct"),
        ("12 - 19 = -7.", 1.0, "correct"),
        ("7", 0.0, "wrong number"),
        ("-7 or 8", 0.0, "wrong number"),
        ("seven", 0.0, "no number"),
        ("", 0.0, "no number"),
        ("9" * 100_000, 0.0, "wrong number"),
        ("12345678-7" + "0" * 2000, 0.0, "wrong number"),
        ("__import__('os').abort()", 0.0, "no number"),
    ],
)
def test_the_answer_is_the_last_whole_number(completion: str, value: float, reason: str) -> None:
    prompt = Prompt("12-19", "", -7)
    assert Arithmetic(train_size=1, test_size=1).rewards([prompt], [completion]) == [(value, reason)]


@pytest.mark.parametrize(
    "wrong",
    [{"levels": ()}, {"levels": "1+1"}, {"levels": ("4+1",)}, {"levels": ("1/1",)}, {"style": "rude"},
     {"levels": ("1+1",), "train_size": 80, "test_size": 2}],
)  # fmt: skip
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(wrong)):
        Arithmetic(**wrong)
