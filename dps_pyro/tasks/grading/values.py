r"""Values that an answer holds, and when two of them are equal: exactly, or as far as a decimal fraction tells.

Math-verify's parser (latex2sympy2_extended) reads a value, and SymPy computes with it. The parser must read the whole
text: a text of which it reads a part has no value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from sympy.core.function import AppliedUndef

from dps_pyro.tasks.grading.spelling import number

__all__ = ["NoValueError", "equal", "proportional", "same_sign_ratio"]

SMALLEST_ERROR = Fraction(5, 10**7)
"""How far a decimal fraction may lie from an exact value that it rounds, for values of at least 0.1; below that, the
same with respect to the value's power of ten."""

_DIGITS = 3000
_LARGEST = 200_000
_CONFIG = ConversionConfig(lowercase_symbols=False)
_MIXED = re.compile(
    r"(?:(?<![\w.})\]\\])|(?<=\\cdot)|(?<=\\times))(\d{1,20})(\\frac\{(\d{1,20})\}\{(\d{1,20})\})(?!\^)"
)
_DECIMAL = re.compile(r"(?<![\d.])(\d{0,60})\.(\d{1,60})(?![\d.])")
_ROUNDED = re.compile(r"([-+]?)(\d{0,60})\.(\d{1,60})(?:(?:\\times|\\cdot)10\^\{?([-+]?\d{1,4})\}?)?")
_LOG = re.compile(r"\\log(?![A-Za-z_]|\s{0,3}_)")
_ROOT = re.compile(r"(\\sqrt(?:\[[^\[\]]{1,20}\])?)\(")
_GROUP = re.compile(r"(?<![\\A-Za-z_^\]}])\{")
_NO_VALUE = re.compile(
    r"\\text|'|\\prime|\^\{?T\}?(?![A-Za-z])|\\ |=|<|>|\\(?:leq|geq|neq|in|approx)(?![A-Za-z])|,|;|\\pm|°°|\\begin|\\\\"
)
_POINTS = (
    Fraction(1733, 1009), Fraction(2719, 1013), Fraction(911, 1019), Fraction(4391, 1021), Fraction(613, 1031),
    Fraction(3517, 1033), Fraction(1487, 1039), Fraction(5261, 1049), Fraction(809, 1051), Fraction(2243, 1061),
)  # fmt: skip


class NoValueError(ValueError):
    """A text has no value."""


class _Value(NamedTuple):
    r"""The readings of a text (``\log`` may be natural or decimal), and the last place of a plain decimal fraction."""

    readings: tuple[Any, ...]
    place: Fraction | None


@lru_cache(4096)
def _parsed(text: str) -> _Value:
    """Read a value.

    Raises:
        NoValueError: The text, or a part of it, is none.
    """
    if not text or _NO_VALUE.search(text):
        raise NoValueError(text)
    place = None
    if (rounded := _ROUNDED.fullmatch(text)) is not None:
        place = Fraction(10) ** (int(rounded[4] or 0) - len(rounded[3]))
    if (plain := number(text)) is not None:
        return _Value((sympy.Rational(plain[0].numerator, plain[0].denominator),), place)
    text = _DECIMAL.sub(lambda m: rf"(\frac{{{int((m[1] or '0') + m[2])}}}{{{10 ** len(m[2])}}})", text)
    text = text.replace("°", r"\cdot\frac{\pi}{180}").replace("\\lg", "\\log_{10}").replace("\\infty", "\\infty ")
    text = _MIXED.sub(_mixed, _grouped(_roots(text))).replace("\\pi(", "\\pi\\cdot(")
    readings = [_LOG.sub(r"\\ln", text), text] if _LOG.search(text) else [text]
    return _Value(tuple(_read(one) for one in readings), place)


def _mixed(found: re.Match[str]) -> str:
    r"""A mixed number as a sum: ``3\frac{1}{2}`` is 3 + 1/2. A number before any other factor is a product, which the
    parser would take for a sum as well: ``2(3)`` is 6."""
    return f"({found[1]}+{found[2]})" if int(found[3]) < int(found[4]) else f"{found[1]}\\cdot{found[2]}"


def _roots(text: str) -> str:
    r"""Braces in place of the parentheses of ``\sqrt(...)`` and ``\sqrt[3](...)``."""
    first, *rest = _ROOT.split(text)
    parts = [first]
    for root, inside in zip(rest[::2], rest[1::2], strict=True):
        depth = 1
        for at, letter in enumerate(inside):
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                parts.append(f"{root}{{{inside[:at]}}}{inside[at + 1 :]}")
                break
        else:
            parts.append(f"{root}({inside}")
    return "".join(parts)


def _grouped(text: str) -> str:
    """Parentheses in place of braces that belong to no command: the parser takes those for a set."""
    if _GROUP.search(text) is None:
        return text
    out, stack = list(text), []
    groups = {match.start() for match in _GROUP.finditer(text)}
    for place, letter in enumerate(text):
        if letter == "{":
            stack.append(place)
        elif letter == "}" and stack and (start := stack.pop()) in groups:
            out[start], out[place] = "(", ")"
    return "".join(out)


class _Parser(_Latex2Sympy):  # type: ignore[misc]  # the library has no types
    """The parser, with factors that stand side by side multiplied. By itself it adds a positive number to a whole
    number before it, as in a mixed number, so that ``2(3)`` would be 5 and ``(-2)(3)`` -5."""

    def convert_postfix_list(self, arr: Sequence[Any], i: int = 0) -> Any:
        first = self.convert_postfix(arr[i])
        if i == len(arr) - 1 or not isinstance(first, sympy.Expr):
            return first if isinstance(first, sympy.Basic) else super().convert_postfix_list(arr, i)
        rest = self.convert_postfix_list(arr, i + 1)
        return self.mul_flat(first, rest)


def _read(text: str) -> Any:
    try:
        found = _Parser(config=_CONFIG).parse(text)
    except MemoryError:
        raise
    except Exception as error:  # the parser raises what it likes
        raise NoValueError(text) from error
    if isinstance(found, sympy.Set):
        return found
    if not isinstance(found, sympy.Expr) or found.has(sympy.zoo, sympy.nan):
        raise NoValueError(text)
    return found


def equal(gold: str, answer: str, tolerance: float = 0.0, *, readings: bool = True) -> bool:
    """Whether two values are equal.

    Exact values are equal when their difference is zero; expressions, when it is zero wherever both are real. A plain
    decimal fraction equals an exact value that it rounds (or cuts off) to at least six digits (`SMALLEST_ERROR`).

    Args:
        gold, answer: Normalised texts.
        tolerance: The relative error that is allowed beside this, >= 0.
        readings: Whether all readings are tried, or the first one only.

    Raises:
        NoValueError: A text has no value. Its ``args`` are ``(text,)``.
    """
    one, other = _parsed(gold), _parsed(answer)
    pairs = list(_pairs(one.readings, other.readings))[: None if readings else 1]
    places = [place for place in (one.place, other.place) if place is not None]
    return any(_equal(a, b, max(places) if places else None, tolerance) for a, b in pairs)


def _pairs(ones: Sequence[Any], others: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """The readings that belong together, also with i as the imaginary unit."""
    for place in range(max(len(ones), len(others))):
        one, other = ones[min(place, len(ones) - 1)], others[min(place, len(others) - 1)]
        yield one, other
        i = sympy.Symbol("i")
        if i in one.free_symbols | other.free_symbols:
            yield one.subs(i, sympy.I), other.subs(i, sympy.I)


def _equal(one: Any, other: Any, place: Fraction | None, tolerance: float) -> bool:
    if isinstance(one, sympy.Set) or isinstance(other, sympy.Set):
        return bool(one == other)
    if one == other:
        return True
    if one.free_symbols or other.free_symbols or one.has(AppliedUndef) or other.has(AppliedUndef):
        return _identical(one, other)
    if one in (sympy.oo, -sympy.oo) or other in (sympy.oo, -sympy.oo):
        return False
    difference = _number(one - other)
    if difference == 0 or (place is None and tolerance == 0):
        return bool(difference == 0)
    size = abs(_number(one))
    error = abs(difference)
    if tolerance and error <= tolerance * size:
        return True
    if place is None:
        return False
    power = sympy.Integer(1)
    if size < 1 and size != 0:
        power = sympy.Integer(10) ** sympy.ceiling(sympy.log(size, 10).evalf(30))
    last = sympy.Rational(place.numerator, place.denominator) * sympy.Rational(999999, 1000000)
    return bool(error < last and error <= SMALLEST_ERROR * power)


def _digits(value: Any) -> float:
    """A bound on the decimal digits before the point of a number, or of its inverse; infinite where it is too large."""
    if isinstance(value, sympy.Rational):
        return math.log10(max(abs(value.p), abs(value.q), 1))
    if not value.args:
        return 1.0
    parts = [_digits(part) for part in value.args]
    if isinstance(value, sympy.Pow):
        return parts[0] * 10 ** parts[1] if parts[1] < 8 else math.inf
    if isinstance(value, sympy.exp | sympy.factorial | sympy.gamma):
        return 10 ** parts[0] * max(parts[0], 1.0) if parts[0] < 8 else math.inf
    return sum(parts) + 1


def _number(value: Any) -> Any:
    """A number's value to 30 digits; 0 where it is 0 to three thousand digits.

    Raises:
        NoValueError: It is none, or it has more than `_LARGEST` digits before or behind the point.
    """
    if _digits(value) > _LARGEST:
        raise NoValueError(str(value)[:50])
    found = value.doit().evalf(30, maxn=_DIGITS)
    if not found.is_number or found.has(sympy.nan, sympy.zoo, sympy.oo):
        raise NoValueError(str(value)[:50])
    parts = found.as_real_imag()
    if any(not (part.is_Float or part.is_Integer or part.is_Rational) for part in parts):
        raise NoValueError(str(value)[:50])
    clean = [0 if getattr(part, "_prec", 53) == 1 else part for part in parts]
    return clean[0] + clean[1] * sympy.I


def _at_points(expressions: Sequence[Any]) -> Iterator[list[Any]]:
    """The values of expressions at points at which all of them have one: rational points, or whole ones for
    expressions that mean something for whole numbers only."""
    applied = sorted({one for e in expressions for one in e.atoms(AppliedUndef)}, key=str)
    names = {call: sympy.Symbol(f"call{place}") for place, call in enumerate(applied)}
    expressions = [e.subs(names) for e in expressions]
    symbols = sorted({symbol for e in expressions for symbol in e.free_symbols}, key=str)
    whole = any(e.has(sympy.factorial, sympy.binomial, sympy.Sum, sympy.Product) for e in expressions)
    whole = whole or any(
        power.base.is_number and power.base.is_negative for e in expressions for power in e.atoms(sympy.Pow)
    )
    for turn in range(6):
        values: dict[Any, Any] = {}
        for place, symbol in enumerate(symbols):
            point = _POINTS[(turn + 3 * place) % len(_POINTS)] + place
            sign = -1 if turn in (4, 5) and not whole and (turn + place) % 2 == 0 else 1
            values[symbol] = (
                sympy.Integer(3 + (5 * turn + 7 * place) % 11)
                if whole
                else sign * sympy.Rational(point.numerator, point.denominator)
            )
        try:
            yield [_number(e.subs(values)) for e in expressions]
        except NoValueError:
            continue


def _identical(one: Any, other: Any) -> bool:
    """Whether two expressions have the same value at every point tried at which they are real."""
    if one.free_symbols != other.free_symbols:
        difference = sympy.simplify(one - other)
        if difference.free_symbols:
            return False
    tried = 0
    for a, b in _at_points([one, other]):
        positive = tried < 4
        tried += 1
        if abs(a - b) <= sympy.Float("1e-20") * max(abs(a), abs(b), sympy.Float("1e-60")):
            continue
        if positive or (sympy.im(a) == 0 and sympy.im(b) == 0):
            return False
    return tried >= 2


def _difference(sides: tuple[str, str]) -> Any:
    left, right = (_parsed(side).readings[0] for side in sides)
    if isinstance(left, sympy.Set) or isinstance(right, sympy.Set):
        raise NoValueError(sides[0])
    return left - right


def same_sign_ratio(gold: tuple[str, str], answer: tuple[str, str]) -> bool:
    """Whether left minus right of an inequality is the same as of another, up to a positive factor.

    Raises:
        NoValueError: A side has no value.
    """
    return _ratio(_difference(gold), _difference(answer), positive=True)


def proportional(gold: tuple[str, str], answer: tuple[str, str]) -> bool:
    """Whether one equation is a rearrangement of another: left minus right is the same up to a constant factor.

    Raises:
        NoValueError: A side has no value.
    """
    one, other = _difference(gold), _difference(answer)
    if not one.free_symbols or one.free_symbols != other.free_symbols:
        return False
    tops = [sympy.fraction(sympy.together(e))[0] for e in (one, other)]
    return _ratio(*tops, positive=False) or _ratio(one, other, positive=False)


def _ratio(one: Any, other: Any, *, positive: bool) -> bool:
    if one.free_symbols != other.free_symbols:
        return False
    ratios = []
    for a, b in _at_points([one, other]):
        if a == 0 and b == 0:
            continue
        if a == 0 or b == 0:
            return False
        ratios.append(a / b)
    if len(ratios) < 3 and one.free_symbols:
        return False
    first = ratios[0] if ratios else 1
    steady = all(abs(ratio - first) <= sympy.Float("1e-20") * abs(first) for ratio in ratios)
    return bool(steady and (not positive or (sympy.im(first) == 0 and sympy.re(first) > 0)))
