"""Final answers: where they are found, and when two are the same at sight."""

from __future__ import annotations

from contextlib import suppress
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro.tasks.grading.answers import NoAnswer, final_answer
from dps_pyro.tasks.grading.spelling import normalise, same_at_sight


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"So \boxed{5}.", "5"),
        (r"\boxed{1}, no, \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"<think>\boxed{9}</think>The answer is 4.", "4"),
        (r"\boxed{9}</think> \boxed{4}", "4"),
        ("<answer>12</answer>", "12"),
        (r"<answer>1</answer> \boxed{2} <answer>\boxed{3} it is</answer>", "3"),
        ("<answer>1</answer> and <answer>", "1"),
        ("6 * 7 = 42\n#### 42", "42"),
        ("The answer is 41.\nNo: **the final answer is: $42$.**", "42"),
        ("Answer: \\(x^2\\)", "x^2"),
        ("answer = $$3$$", "3"),
        ("The answer is $1$ and $2$.", "$1$ and $2$"),
        ("The answer is 12 apples.", "12"),
        ("The answer is $12$, since it is even.", "12"),
        ("The answer is 13, not 12.", "13, not 12"),
        ("17", "17"),
        (" -3/4 \n", "-3/4"),
        ("$\\pi$.", "\\pi"),
    ],
)
def test_where_the_final_answer_is(completion: str, answer: str) -> None:
    assert final_answer(completion) == answer


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        (r"\boxed{}", "empty"),
        ("<answer> </answer>", "empty"),
        ("The answer is", "empty"),
        (r"\boxed{1", "unclosed answer"),
        (r"\boxed{3} and an open \boxed{4", "unclosed answer"),
        ("<answer>1", "unclosed answer"),
        (r"<think>\boxed{1}", "unfinished thinking"),
        ("Let us see.\nFirst, 2 + 2 is 4.", "no answer"),
        ("x" * 300, "no answer"),
        (r"\boxed{" + "1" * 1001 + "}", "too long"),
    ],
)
def test_why_there_is_none(completion: str, reason: str) -> None:
    with pytest.raises(NoAnswer) as caught:
        final_answer(completion)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "completion",
    [
        "\\boxed{" * 150_000,
        "\\boxed{1}" * 110_000,
        "<answer>" * 125_000,
        "</answer>" * 110_000,
        "the answer is " * 70_000,
        "{" * 1_000_000,
        "\\" * 1_000_000,
        "####" * 250_000,
    ],
)
def test_a_million_characters_take_a_moment(completion: str) -> None:
    def once() -> float:
        start = process_time()
        with suppress(NoAnswer):
            final_answer(completion)
        return process_time() - start

    assert any(once() < 2.0 for _ in range(3))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\left( \dfrac12,\ 3 \right)", r"(\frac{1}{2},3)"),
        (r"\text{Friday}", "friday"),
        (r"\text{June 20}", "June 20"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90°"),
        (r"\$18.90", "18.90"),
        (r"10{,}000", "10000"),
        (r"10,\!000", "10000"),
        (r"50\%", "50%"),
        (r"x \le 3", r"x\leq 3"),
        (r"\mathrm{e}", "e"),
        ("{7}", "7"),
        ("7.", "7"),
    ],
)
def test_spellings_of_the_same(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)
    assert same_at_sight(one, other) is True


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10,000", "10000", True),
        ("0.5", "1/2", True),
        (r"\frac{2}{4}", "1/2", True),
        (r"-\frac{1}{2}", r"\frac{-1}{2}", True),
        ("+7", "7", True),
        ("7", "8", False),
        ("1/3", r"\frac{1}{2}", False),
        ("0.33", "1/3", None),  # may be rounded
        ("1/0", "1/0", True),  # as text
        ("1/0", "2", None),
        ("x", "y", None),
        ("AB", "ab", None),  # lengths, not words
        ("12:00 PM", "12:00 AM", False),
        (r"3:30 \text{ p.m.}", "3:30 PM", True),
        ("3:30", "3:30 PM", True),
        ("1" * 40, "2", None),
        ("1,2", "12", None),
        ("12,3456", "123456", None),
    ],
)
def test_what_can_be_told_at_sight(one: str, other: str, same: bool | None) -> None:
    assert same_at_sight(one, other) is same
    assert same_at_sight(other, one) is same


LATEX = st.lists(
    st.sampled_from([*r"0123456789+-*/^_(){}[].,=<>!|&%$#~ ", "\\boxed{", "\\frac{", "\\sqrt{", "\\left(", "\\right)",
                     "\\text{", "<think>", "</think>", "<answer>", "</answer>", "answer is ", "\\\\", "\n",
                     "π", "\ud800"])
).map("".join)  # fmt: skip


@given(st.one_of(st.text(), LATEX))
def test_any_text_has_an_answer_or_a_reason(completion: str) -> None:
    try:
        answer = final_answer(completion)
    except NoAnswer as why:
        answer = why.reason
    assert answer == answer.strip() != ""


@given(LATEX, LATEX)
def test_sameness_at_sight_is_symmetric_and_reflexive(one: str, other: str) -> None:
    assert same_at_sight(one, one) is True
    assert same_at_sight(one, other) is same_at_sight(other, one)
    assert normalise(normalise(one)) == normalise(one) or len(normalise(normalise(one))) < len(one)
