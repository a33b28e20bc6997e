"""Forms in which people write answers, kind by kind: each with one that is right and one that is nearly so."""

from __future__ import annotations

import pytest

from dps_pyro.tasks.grading.answers import final_answer
from dps_pyro.tasks.grading.comparison import compare

PRODUCTS = [
    ("6", "2(3)", "5"),
    ("-6", "(-2)(3)", "-5"),
    ("24", "2(3)(4)", "9"),
    (r"\frac{3}{2}", r"3\left(\frac12\right)", r"\frac{7}{2}"),
    (r"\frac{3}{2}", r"\frac{6}{2}\frac{1}{2}", r"\frac{7}{2}"),
    (r"\frac{7}{2}", r"3\frac{1}{2}", r"\frac{3}{2}"),
    (r"-\frac{7}{2}", r"-3\tfrac12", r"-\frac{5}{2}"),
    ("7", r"2\cdot 3\frac{1}{2}", "6.5"),
    (r"\frac{15}{2}", r"3\frac{5}{2}", r"\frac{11}{2}"),  # no mixed number: its fraction is more than one
    (r"6\pi", r"2\pi(3)", r"5\pi"),
    ("1:2", "2:4", "2:1"),
    ("3:4:5", "6:8:10", "3:5:4"),
]
UNITS = [
    ("25", r"25 \text{ m}^2", "24"),
    ("25", r"25\,\mathrm{m}", "26"),
    (r"25\text{ m}", "25m", "26m"),
    ("9.81", r"9.81 \mathrm{~m} / \mathrm{s}^{2}", "9.8"),
    ("20", r"20^\circ\mathrm{C}", "21"),
    (r"300\mathrm{~K}", "300", "301"),
    ("25m", "25m", "25"),  # without \text it may be a product
]
WORDS_AROUND = [
    ("-5", r"\text{negative } 5", "5"),
    ("5", r"\text{positive } 5", r"\text{negative } 5"),
    ("5", r"5 \text{ cm}", r"5 \text{ squared}"),
    ("25", r"25 \text{ cm squared}", r"5 \text{ squared}"),
    ("5", r"5 \text{ apples}", r"5 \text{ tens}"),
    ("60", r"5 \text{ dozens}", "5"),
    ("5", r"5 \text{ degrees}", r"5 \text{ degrees below zero}"),
    (r"\frac{5}{6}", r"5/6 \text{ of the cake}", r"\frac{5}{6} \text{ is wrong}"),
    ("(0,1)", r"\text{the point } (0,1)", r"\text{the point } (1,0)"),
    ("9:00 AM", "9:00 a.m.", "8:00 a.m."),
    ("5", r"\text{five}", r"\text{fifteen}"),
]
ROOTS = [
    (r"\sqrt[3]{7}", "∛7", "√7"),
    (r"2\sqrt[4]{x+1}", "2∜(x+1)", "2√(x+1)"),
]
REGIONS = [
    ("[-2,2]", r"|x| \le 2", "(-2,2)"),
    ("(1,5)", "|x-3|<2", "(1,4)"),
    ("(-5,1)", "3>|x+2|", "(-1,5)"),
    (r"(-\infty,-3)\cup(3,\infty)", "|x|>3", "(-3,3)"),
    (r"(-\infty,-3]\cup[3,\infty)", r"|x|\geq 3", r"(-\infty,-3)\cup(3,\infty)"),
    (r"(0,\infty)", r"\{x \in \mathbb{R} : x > 0\}", r"\{x : x \ge 0\}"),
    ("[-4,4]", r"\{x \mid -4 \le x \le 4\}", "(-4,4)"),
    (r"\mathbb{R}\setminus\{0\}", r"(-\infty,0)\cup(0,\infty)", r"(-\infty,0]\cup(0,\infty)"),
    (r"\mathbb{R}\setminus\{-1,1\}", r"(1,\infty)\cup(-\infty,-1)\cup(-1,1)", r"\mathbb{R}\setminus\{1\}"),
    (r"x \neq 2", r"(-\infty,2)\cup(2,\infty)", r"x \neq -2"),
    (r"x \neq -1, x \neq 1", r"\mathbb{R}-\{1,-1\}", r"\mathbb{R}-\{1\}"),
    (r"\emptyset", r"\text{No solutions}", r"\{0\}"),
    (r"(-\infty,\infty)", r"\text{all real numbers}", r"\text{all integers}"),
]
MATRICES = [
    (
        r"\begin{pmatrix} 1/2 & 0 \\ 0 & 1/2 \end{pmatrix}",
        r"\frac12\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}",
        r"\frac13\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}",
    ),
    (
        r"\begin{pmatrix} -1 \\ 2 \end{pmatrix}",
        r"-\begin{bmatrix} 1 \\ -2 \end{bmatrix}",
        r"-\begin{bmatrix} 1 \\ 2 \end{bmatrix}",
    ),
    (r"\begin{pmatrix} 4 \\ 6 \end{pmatrix}", r"2 \cdot \begin{pmatrix} 2 \\ 3 \end{pmatrix}", "(6,4)"),
]
WORDS = [
    (r"\text{ellipse}", r"\text{an ellipse}", r"\text{a circle}"),
    (r"\text{no solution}", r"\text{No solutions}", r"\text{one solution}"),
    ("July 4", r"4\text{ July}", r"\text{July 14}"),
    (r"\text{July 4}", r"\text{the 4th of July}", "4"),
    ("March 14, 2015", "14 March 2015", "14 March 2016"),
    ("May 5", "May 5th", "June 5"),
    ("no", r"\text{No}", "yes"),
]
UNICODE = [
    ("12", "１２", "１３"),
    ("7", "𝟕", "𝟖"),
    ("(1,2)", "（１，２）", "（２，１）"),
    ("50%", "５０％", "５"),
]
FORMS = {"products": PRODUCTS, "units": UNITS, "regions": REGIONS, "matrices": MATRICES, "words": WORDS,
         "unicode": UNICODE, "words around": WORDS_AROUND, "roots": ROOTS}  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [pytest.param(*row, id=f"{kind}-{row[1]}") for kind, rows in FORMS.items() for row in rows],
)
def test_forms_of_an_answer(gold: str, right: str, wrong: str) -> None:
    assert compare(gold, right) == "equal"
    assert compare(right, gold) == "equal"
    assert compare(gold, gold) == "equal"
    assert compare(gold, wrong) != "equal"
    assert compare(right, wrong) != "equal"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("After checking all options, option D is correct.", "D"),
        ("I think (C) is the correct answer.", "C"),
        ("A is the best choice, but the answer is B.", "B"),
        ("So we get \\boxed 17", "17"),
        ("The final answer is \\boxed 2/3.", "2/3"),
        ("Use \\boxed format: \\boxed{4}", "4"),
        ("Put it in a \\boxed format. The answer is 5", "5"),
    ],
)
def test_where_such_answers_stand(completion: str, answer: str) -> None:
    assert final_answer(completion) == answer
