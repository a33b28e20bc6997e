"""Arithmetic expressions from an untrusted source, read by a real parser into exact rationals.

The grammar is non-negative integer literals, ``+ - * /``, a unary minus, and parentheses. The text's length and the
literals' digits are capped before parsing, the parser is LALR(1) with its own stack, and each rule is reduced to its
value on the spot: no syntax tree is built, nothing recurses, and there is no power operator to blow up a number. With
at most `MAX_CHARS` characters no value can have more than `MAX_CHARS` digits.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedInput

MAX_CHARS = 256
"""The longest text that is parsed, in characters, surrounding white space not counted."""

MAX_DIGITS = 9
"""The longest literal that is parsed, in digits."""

# Lark's own names for digits and white space match Unicode's; these two match ASCII only.
_GRAMMAR = r"""
?sum: product
    | sum "+" product     -> add
    | sum "-" product     -> sub
?product: signed
    | product "*" signed  -> mul
    | product "/" signed  -> div
?signed: atom
    | "-" signed          -> neg
?atom: LITERAL            -> literal
    | "(" sum ")"
LITERAL: /[0-9]+/
%ignore /[ \t\r\n]+/
"""
_TOO_MANY_DIGITS = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")


class ExpressionError(ValueError):
    """The text has no value. Its `reason` is one of the five constants below."""

    EMPTY = "empty"
    TOO_LONG = "too long"
    NUMBER_TOO_LONG = "number too long"
    NOT_AN_EXPRESSION = "not an expression"
    DIVISION_BY_ZERO = "division by zero"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Evaluated(NamedTuple):
    """An expression's value, exactly, and the literals that it was made of, from left to right."""

    value: Fraction
    literals: tuple[int, ...]


class _Evaluate(Transformer[Token, Evaluated]):
    """Reduces each rule to its value while the parser runs."""

    def literal(self, children: list[Token]) -> Evaluated:
        number = int(children[0])
        return Evaluated(Fraction(number), (number,))

    def neg(self, children: list[Evaluated]) -> Evaluated:
        (operand,) = children
        return Evaluated(-operand.value, operand.literals)

    def add(self, children: list[Evaluated]) -> Evaluated:
        left, right = children
        return Evaluated(left.value + right.value, left.literals + right.literals)

    def sub(self, children: list[Evaluated]) -> Evaluated:
        left, right = children
        return Evaluated(left.value - right.value, left.literals + right.literals)

    def mul(self, children: list[Evaluated]) -> Evaluated:
        left, right = children
        return Evaluated(left.value * right.value, left.literals + right.literals)

    def div(self, children: list[Evaluated]) -> Evaluated:
        left, right = children
        if right.value == 0:
            raise ExpressionError(ExpressionError.DIVISION_BY_ZERO)
        return Evaluated(left.value / right.value, left.literals + right.literals)


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, start="sum", parser="lalr", transformer=_Evaluate())


def evaluate(text: str) -> Evaluated:
    """Compute the value of `text` and find the literals in it, e.g. ``"(3 + 7) / 4"`` -> ``(5/2, (3, 7, 4))``.

    Nothing is executed. It takes at most a few milliseconds on any string, however long.

    Raises:
        ExpressionError: The text is empty, longer than `MAX_CHARS`, has a literal longer than `MAX_DIGITS`, is not an
            expression of the grammar, or divides by zero; its `reason` says which.
    """
    text = text.strip(" \t\r\n")
    if not text:
        raise ExpressionError(ExpressionError.EMPTY)
    if len(text) > MAX_CHARS:
        raise ExpressionError(ExpressionError.TOO_LONG)
    if _TOO_MANY_DIGITS.search(text):
        raise ExpressionError(ExpressionError.NUMBER_TOO_LONG)
    try:
        # With an inline transformer `parse` returns what the transformer made of the start rule.
        result: object = _parser().parse(text)
    except UnexpectedInput as error:
        raise ExpressionError(ExpressionError.NOT_AN_EXPRESSION) from error
    assert isinstance(result, Evaluated)
    return result
