"""The parser: exact values, the grammar's edges, and hostile input."""

from __future__ import annotations

import ast
import contextlib
import operator
from collections.abc import Callable
from fractions import Fraction
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro.tasks.planning.expression import MAX_CHARS, MAX_DIGITS, Evaluated, ExpressionError, evaluate

OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def python_value(text: str) -> Fraction:
    """The oracle: Python's own grammar, walked with exact arithmetic."""

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -walk(node.operand)
        assert isinstance(node, ast.Constant) and isinstance(node.value, int)
        return Fraction(node.value)

    return walk(ast.parse(text.strip(), mode="eval").body)


def expressions() -> st.SearchStrategy[str]:
    """Well-formed expressions, with redundant parentheses, minus signs and white space."""
    space = st.sampled_from(["", " ", "  "])
    return st.recursive(
        st.integers(0, 999).map(str),
        lambda inner: st.one_of(
            st.tuples(inner, space, st.sampled_from("+-*/"), space, inner).map("".join),
            inner.map(lambda text: f"({text})"),
            inner.map(lambda text: f"-{text}"),
        ),
        max_leaves=12,
    ).filter(lambda text: len(text) <= MAX_CHARS)


@given(expressions())
def test_agrees_with_pythons_grammar_and_exact_arithmetic(text: str) -> None:
    try:
        expected = python_value(text)
    except ZeroDivisionError:
        with pytest.raises(ExpressionError, match="division by zero"):
            evaluate(text)
    else:
        assert evaluate(text).value == expected


@pytest.mark.parametrize(
    ("text", "value", "literals"),
    [
        ("7", 7, (7,)),
        ("007", 7, (7,)),
        ("(3 + 7) / 4", Fraction(5, 2), (3, 7, 4)),
        ("8 / 4 / 2", 1, (8, 4, 2)),
        ("9 - 4 - 2", 3, (9, 4, 2)),
        ("1 / 3 * 3", 1, (1, 3, 3)),
        ("2 + 3 * 4", 14, (2, 3, 4)),
        ("- 2 * - 3", 6, (2, 3)),
        ("--2", 2, (2,)),
        ("\n 1\t+\r\n2 ", 3, (1, 2)),
    ],
)
def test_value_and_literals(text: str, value: Fraction, literals: tuple[int, ...]) -> None:
    assert evaluate(text) == Evaluated(Fraction(value), literals)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t\r\n", "empty"),
        ("()", "not an expression"),
        ("+3", "not an expression"),
        ("3 7", "not an expression"),
        ("3 +", "not an expression"),
        ("(3 + 7", "not an expression"),
        ("3 + 7)", "not an expression"),
        ("3 + 7 = 10", "not an expression"),
        ("2 ** 3", "not an expression"),
        ("7 // 2", "not an expression"),
        ("9**9**9", "not an expression"),
        ("1.5", "not an expression"),
        ("1e3", "not an expression"),
        ("1_000", "not an expression"),
        ("0x10", "not an expression"),
        ("٣", "not an expression"),
        ("²", "not an expression"),
        ("3\u00a0+ 7", "not an expression"),
        ("3 \N{MINUS SIGN} 7", "not an expression"),
        ("\0", "not an expression"),
        ("\ud800", "not an expression"),
        ("__import__('os')", "not an expression"),
        ("(lambda: 3)()", "not an expression"),
        ("3 / 0", "division by zero"),
        ("3 / (7 - 7)", "division by zero"),
        ("1" * (MAX_DIGITS + 1), "number too long"),
        ("1+" * (MAX_CHARS // 2) + "1", "too long"),
        ("(" * 10_000, "too long"),
        ("9" * 1_000_000, "too long"),
    ],
)
def test_refusals_say_why(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text)
    assert caught.value.reason == reason == str(caught.value)


def test_the_caps_are_inclusive() -> None:
    assert evaluate("9" * MAX_DIGITS).value == 10**MAX_DIGITS - 1
    assert evaluate("1+" * (MAX_CHARS // 2 - 1) + "11").value == MAX_CHARS // 2 + 10


@pytest.mark.parametrize(
    "text",
    [
        "(" * 127 + "12" + ")" * 127,
        "-" * 255 + "1",
        "(" * 256,
        "*".join(["999999999"] * 25),
        "+".join(f"1/{10**8 + i}" for i in range(20)),
        "1/" * 127 + "1",
        "1" * 9 + "\0" * 247,
    ],
)
def test_the_worst_that_fits_takes_milliseconds(text: str) -> None:
    def once() -> float:
        start = process_time()
        with contextlib.suppress(ExpressionError):
            evaluate(text)
        return process_time() - start

    assert len(text) <= MAX_CHARS
    assert any(once() < 0.02 for _ in range(5))


@given(st.one_of(st.text(st.characters(exclude_categories=())), st.text("0123456789+-*/() ", max_size=300)))
def test_any_text_has_a_value_or_a_reason(text: str) -> None:
    try:
        outcome: Evaluated | str = evaluate(text)
    except ExpressionError as error:
        outcome = error.reason
    if isinstance(outcome, str):
        assert outcome in {"empty", "too long", "number too long", "not an expression", "division by zero"}
    else:
        assert outcome.literals
