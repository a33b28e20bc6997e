"""The grader: what it accepts and rejects, and that no answer, however hostile, outlives its limits."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.problems.grading import BOMB, REASONS, TOWER, children

from dps_pyro.tasks import read_records
from dps_pyro.tasks.base import Reward
from dps_pyro.tasks.grading.grader import Grader, shared_grader

MATH = Path(os.environ.get("MATH_DATA", Path(__file__).parents[4] / "shared" / "data" / "math"))


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    grader = Grader(seconds=1.0, workers=2)
    yield grader
    grader.close()


# What it accepts and rejects


@pytest.mark.skipif(not (MATH / "train.jsonl").is_file(), reason="no MATH here (a folder, MATH_DATA)")
@pytest.mark.parametrize(("file", "count"), [("train.jsonl", 7400), ("math500.jsonl", 500)])
def test_every_gold_answer_of_math_is_right_in_a_box(grader: Grader, file: str, count: int) -> None:
    records = read_records(MATH / file)
    golds = [gold for record in records if (gold := str(record["answer"]))]  # MATH train has two without an answer
    assert count <= len(golds) >= len(records) - 2
    boxed = [f"So the answer is $\\boxed{{{gold}}}$." for gold in golds]
    graded = grader.grade_all(golds, boxed)
    assert [gold for gold, reward in zip(golds, graded, strict=True) if reward != (1.0, "correct")] == []


SAME = [
    ("2", r"\boxed{\sqrt{4}}"),
    (r"\frac{14}{3}", r"\boxed{14/3}"),
    (r"\frac{14}{3}", r"\boxed{4\frac{2}{3}}"),
    (r"\frac{1}{3}", r"\boxed{0.333333}"),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}"),
    ("x^2+2x+1", r"\boxed{(x+1)^2}"),
    ("p - q", r"\boxed{-q + p}"),
    # units, currencies, percentages
    (r"5\text{ cm}", r"\boxed{5}"),
    ("5", r"\boxed{5 \text{ inches}}"),
    (r"\$32{,}348", r"\boxed{32348}"),
    (r"90^\circ", r"\boxed{90}"),
    (r"50\%", r"\boxed{50}"),
    (r"50\%", r"\boxed{0.5}"),
    # intervals and inequalities
    ("[0,1)", r"\boxed{\left[0, 1\right)}"),
    (r"(-\infty, 2] \cup [3, \infty)", r"\boxed{(-\infty,2]\cup[3,\infty)}"),
    (r"(-\infty,2]", r"\boxed{x \le 2}"),
    # sets, tuples, lists
    (r"\{1, 2\}", r"\boxed{2, 1}"),
    ("1,-2", r"\boxed{-2, 1}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}"),
    (r"1 \pm \sqrt{19}", r"\boxed{1 + \sqrt{19}, 1 - \sqrt{19}}"),
    # matrices
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\boxed{\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}}"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\boxed{\begin{pmatrix} -\frac13 \\ \frac23 \end{pmatrix}}"),
    # equations and assignments
    ("5", r"\boxed{x = 5}"),
    ("y = 2x + 3", r"\boxed{2x + 3}"),
    # text
    (r"\text{Evelyn}", r"\boxed{Evelyn}"),
    (r"\text{(C)}", r"\boxed{C}"),
    (r"\text{even}", r"The function is \boxed{\text{Even}}."),
    # plain final answers
    ("12", "The answer is **12 apples**."),
    ("12", "<think>Hm.</think> 12"),
    (r"\frac{1}{2}", "Answer: 1/2"),
    ("42", "6 * 7 = 42\n#### 42"),
]

DIFFERENT = [
    ("2", r"\boxed{3}"),
    ("2", r"\boxed{\sqrt{5}}"),
    (r"\frac{14}{3}", r"\boxed{4.6}"),
    ("x^2+2x+1", r"\boxed{(x-1)^2}"),
    (r"5\text{ cm}", r"\boxed{6\text{ cm}}"),
    (r"50\%", r"\boxed{5}"),
    ("[0,1)", r"\boxed{(0,1)}"),
    (r"(-\infty, 2]", r"\boxed{(-\infty, 2)}"),
    (r"\{1, 2\}", r"\boxed{1, 2, 3}"),
    ("(1,2)", r"\boxed{(2,1)}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\boxed{\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 1 & 2 \end{pmatrix}}"),
    (r"\text{Evelyn}", r"\boxed{Carla}"),
    (r"\text{(C)}", r"\boxed{D}"),
    ("6:00", r"\boxed{7:00}"),  # math-verify reads both as a division by zero
    ("1", r"\boxed{\frac{1}{0}}"),
    ("12", "The answer is 13, not 12."),
    ("12", "I count 12, and then\n"),
]


@pytest.mark.parametrize(("gold", "completion"), SAME)
def test_the_same_in_other_words_is_correct(grader: Grader, gold: str, completion: str) -> None:
    assert grader.grade(gold, completion) == Reward(1.0, "correct")
    assert grader.grade(gold, f"\\boxed{{{gold}}}") == Reward(1.0, "correct")


@pytest.mark.parametrize(("gold", "completion"), DIFFERENT)
def test_something_else_is_not(grader: Grader, gold: str, completion: str) -> None:
    reward = grader.grade(gold, completion)
    assert reward.value == 0.0
    assert reward.reason in REASONS - {"correct"}


@pytest.mark.parametrize(
    ("gold", "completion", "reason"),
    [
        ("2", "", "empty"),
        ("2", r"\boxed{2", "unclosed answer"),
        ("2", r"<think>\boxed{2}", "unfinished thinking"),
        ("2", "Let us think.\nWell.", "no answer"),
        ("2", r"\boxed{\frac{1}{0}}", "not compared, not parsed"),
        ("6:00", r"\boxed{7:00}", "wrong value"),
        (r"\triangle ABC", r"\boxed{5}", "not compared, gold not parsed"),
        ("6:00", r"\boxed{6:00}", "correct"),
        ("2", TOWER, "not compared, not parsed"),
        ("2", BOMB, "not compared, timed out"),
    ],
)
def test_the_reason_says_why(grader: Grader, gold: str, completion: str, reason: str) -> None:
    assert grader.grade(gold, completion) == Reward(float(reason == "correct"), reason)


def test_many_at_once_are_graded_as_one_by_one(grader: Grader) -> None:
    golds, completions = zip(*(SAME + DIFFERENT), strict=True)
    together = Grader(seconds=1.0, workers=2)
    assert together.grade_all(golds, completions) == [grader.grade(*pair) for pair in SAME + DIFFERENT]
    assert len(together.pool.pids) == 2
    pids = together.pool.pids
    together.close()
    assert together.pool.pids == []
    assert not children() & set(pids)
    assert together.grade_all([], []) == []
    with pytest.raises(ValueError, match=r"shorter|longer"):
        together.grade_all(["1"], [])


# Limits


def test_a_fuzzer_finds_nothing() -> None:
    """Random LaTeX, half of it with its braces closed: a reward each, a reason each, in time."""
    pieces = [*"0123456789+-^_(){}[].,=<>!|&%$ xyi", r"\frac{", r"\sqrt{", r"\left(", r"\right)", r"\text{", r"\cup",
              r"\infty", r"\begin{pmatrix}", r"\end{pmatrix}", r"\\", r"\pi", r"\sum_{",
              r"\int_{", r"\log", "é", "\n"]  # fmt: skip
    rng = random.Random(0)
    completions = []
    for _ in range(150):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 30)))
        completions.append(
            "\\boxed{" + text + "}" * (1 + rng.randint(0, 1) * max(text.count("{") - text.count("}"), 0))
        )
    grader = Grader(seconds=0.5, workers=2)
    rewards = grader.grade_all(["2"] * len(completions), completions)
    grader.close()
    assert {reward.reason for reward in rewards} <= REASONS - {"not compared, failed"}
    assert len({reward.reason for reward in rewards}) >= 3


# Speed


def test_of_verdicts_the_oldest_are_forgotten() -> None:
    grader = Grader(workers=1, keep=2)
    answers = [f"\\boxed{{\\sqrt{{{n * n}}}}}" for n in (2, 3, 4)]
    assert [reward.value for reward in grader.grade_all(["2", "3", "4"], answers)] == [1.0] * 3
    assert [query.gold for query in grader._kept] == ["3", "4"]
    grader.close()


@pytest.mark.parametrize(
    "arguments", [{"seconds": 0}, {"seconds": float("nan")}, {"workers": 0}, {"memory": 0}, {"keep": 0}]
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected .* got"):
        Grader(**arguments)  # type: ignore[arg-type]


def test_tasks_share_one_grader() -> None:
    assert shared_grader() is shared_grader()


# Budgets, and what is kept


# Forms that people report as misjudged, each in words of its own

RIGHT = [
    ("3e8", r"\boxed{3 \times 10^8 \text{ m/s}}"),
    ("1.6e-19", r"\boxed{1.60 \cdot 10^{-19}}"),
    ("12", "Answer:\n\n12"),
    ("12", "<answer>So we get x = 12</answer>"),
    ("7", "<answer>The final answer after simplifying is x = 7</answer>"),
    ("B", r"\boxed{\textbf{(B)}\ 12}"),
    (r"\{1,2\}", r"$x=\boxed{1}$ or $x=\boxed{2}$"),
    ("x^2", r"\boxed{x²}"),
    (r"1\frac{1}{2}", r"\boxed{1½}"),
    (r"n \equiv 1 \pmod 4", r"\boxed{n ≡ 5 (mod 4)}"),
    ("5", r"\boxed{x = 2 + 3 = 5}"),
    ("2x+3y=6", r"\boxed{y = 2 - \frac{2}{3}x}"),
    (r"(-\infty,1)\cup(2,\infty)", r"\boxed{x<1 \text{ or } x>2}"),
    ("72", "She sold 72.\n#### 72\nThat answers the question."),
    (r"2\sqrt{3}", r"\boxed{2*sqrt(3)}"),
    (r"\frac{\sqrt{3}}{2}", r"\boxed{√3/2}"),
]
WRONG = [
    ("5", r"\boxed{\geq 5}"),
    ("3", r"\boxed{n \equiv 1 \pmod 3}"),
    ("2", r"\boxed{10 - 2√5}"),
    ("7", r"\boxed{3=7}"),
    ("7", r"\boxed{2x = 7}"),
    ("7", r"\boxed{7}, no: \boxed{8"),
    ("7", "The answer is 8, not 7."),
    ("7", r"\boxed{7 \text{ or } 8}"),
    ("1.6e-19", r"\boxed{9.1e-31}"),
    (r"\frac{1}{2^{40}}", r"\boxed{0}"),
    ("2^{100}", r"\boxed{2^{100}+1}"),
    ("x=1,y=2", r"\boxed{x=2,y=1}"),
    ("2x+3y=6", r"\boxed{2x+3y=7}"),
    ("B", r"\boxed{A. B}"),
    (r"|x|", r"\boxed{x}"),
    (r"\text{even}", r"\boxed{2}"),
]


def test_forms_that_people_write(grader: Grader) -> None:
    rewards = grader.grade_all(*zip(*(RIGHT + WRONG), strict=True))
    wrong = [
        pair
        for pair, reward, right in zip(RIGHT + WRONG, rewards, [1] * 16 + [0] * 16, strict=True)
        if reward.value != right
    ]
    assert wrong == []


def test_a_tolerance_is_relative(grader: Grader) -> None:
    assert grader.grade("6.02e23", r"\boxed{6.0e23}").value == 0.0
    assert grader.grade("6.02e23", r"\boxed{6.0e23}", tolerance=0.01).value == 1.0
    assert grader.grade("1.6e-19", r"\boxed{1.7e-19}", tolerance=0.01).value == 0.0
    assert grader.grade("100", r"\boxed{101}", tolerance=0.02).value == 1.0
    with pytest.raises(ValueError, match="expected a tolerance"):
        grader.grade("1", "1", tolerance=1.0)


@pytest.mark.parametrize(
    ("gold", "completion", "reason"),
    [
        ("391", r"\boxed{17*23}", "not a number"),
        ("391", r"\boxed{17 \cdot 23}", "not a number"),
        ("391", r"\boxed{17*23=391}", "not a number"),
        ("5", r"\boxed{15/3}", "not a number"),
        ("5", r"\boxed{\frac{15}{3}}", "not a number"),
        ("5", r"\boxed{x=5}", "correct"),
        ("5", r"\boxed{x=10-5}", "not a number"),
        ("5", r"\boxed{\sqrt{25}}", "not a number"),
        ("5", "5", "correct"),
        ("-7/3", r"\boxed{-\frac{7}{3}}", "correct"),
        ("-7/3", r"\boxed{\frac{7}{3}}", "wrong value"),
    ],
)
def test_a_generated_problem_pays_for_a_number(grader: Grader, gold: str, completion: str, reason: str) -> None:
    assert grader.grade(gold, completion, number=True) == Reward(float(reason == "correct"), reason)
