"""Generated arithmetic and linear equations of graded difficulty: the problems of `Math()`."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

__all__ = ["LEVELS", "Problem", "random_problem"]


class Problem(NamedTuple):
    """A solved problem.

    Attributes:
        level: The difficulty, from 1 (easiest) to 5.
        kind: ``"arithmetic"`` or ``"equation"``.
        text: An expression or an equation in x, without white space: ``"17+25"``, ``"3x+5=20"``.
        answer: The value of the expression, or that of x: ``"42"``, ``"-7/3"``.
    """

    level: int
    kind: str
    text: str
    answer: str


def random_problem(rng: random.Random, level: int) -> Problem:
    """Draw a problem of the given level. All draws are of integers, so that they are the same on every platform.

    | level | |
    |---|---|
    | 1 | ``a+b``, ``a-b``, up to two digits |
    | 2 | ``x+a=b``, ``a-x=b``, up to two digits; ``a*b`` up to twelve times twelve |
    | 3 | ``ax+b=c``, x a whole number; ``a+b-c``, up to two digits |
    | 4 | ``ax+b=cx+d``, x a whole number; ``a*b``, one digit times two |
    | 5 | ``ax+b=cx+d``, x a fraction; ``a*b+c*d`` |
    """
    return rng.choice(LEVELS[level])(rng, level)


def _sum(rng: random.Random, level: int) -> Problem:
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    if rng.randrange(2):
        return Problem(level, "arithmetic", f"{a}+{b}", str(a + b))
    return Problem(level, "arithmetic", f"{a}-{b}", str(a - b))


def _long_sum(rng: random.Random, level: int) -> Problem:
    a, b, c = (rng.randint(1, 99) for _ in range(3))
    one, other = rng.choice("+-"), rng.choice("+-")
    value = a + (b if one == "+" else -b) + (c if other == "+" else -c)
    return Problem(level, "arithmetic", f"{a}{one}{b}{other}{c}", str(value))


def _small_product(rng: random.Random, level: int) -> Problem:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return Problem(level, "arithmetic", f"{a}*{b}", str(a * b))


def _product(rng: random.Random, level: int) -> Problem:
    a, b = rng.randint(2, 9), rng.randint(11, 99)
    return Problem(level, "arithmetic", f"{a}*{b}", str(a * b))


def _products(rng: random.Random, level: int) -> Problem:
    a, b, c, d = (rng.randint(2, 12) for _ in range(4))
    sign = rng.choice("+-")
    value = a * b + (c * d if sign == "+" else -c * d)
    return Problem(level, "arithmetic", f"{a}*{b}{sign}{c}*{d}", str(value))


def _shift(rng: random.Random, level: int) -> Problem:
    x, a = rng.randint(1, 99), rng.randint(1, 99)
    if rng.randrange(2):
        return Problem(level, "equation", f"x+{a}={x + a}", str(x))
    return Problem(level, "equation", f"{a}-x={a - x}", str(x))


def _one_sided(rng: random.Random, level: int) -> Problem:
    a, b, x = rng.randint(2, 9), rng.randint(1, 20), rng.randint(-12, 12)
    b = b if rng.randrange(2) else -b
    return Problem(level, "equation", f"{a}x{b:+d}={a * x + b}", str(x))


def _two_sided(rng: random.Random, level: int) -> Problem:
    a, c = rng.sample(range(2, 10), 2)
    b, x = rng.randint(1, 20), rng.randint(-9, 9)
    d = a * x + b - c * x
    return Problem(level, "equation", f"{a}x+{b}={c}x{d:+d}" if d else f"{a}x+{b}={c}x", str(x))


def _fractional(rng: random.Random, level: int) -> Problem:
    a, c = rng.sample(range(2, 10), 2)
    b, d = rng.randint(1, 20), rng.randint(1, 20)
    return Problem(level, "equation", f"{a}x+{b}={c}x+{d}", str(Fraction(d - b, a - c)))


LEVELS: dict[int, tuple[Callable[[random.Random, int], Problem], ...]] = {
    1: (_sum,),
    2: (_shift, _small_product),
    3: (_one_sided, _long_sum),
    4: (_two_sided, _product),
    5: (_fractional, _products),
}
"""The kinds of problems of each level, equally likely."""
