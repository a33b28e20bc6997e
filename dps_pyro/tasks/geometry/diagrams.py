"""Geometry problems with a picture: what each problem gives and asks, and how it is drawn.

A problem is whole numbers alone (its marks and its layout); the picture follows from them. The pictures show how things
lie, not their true sizes, like many a textbook's: the marked numbers are what counts, and only the picture has them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dps_pyro.tasks.geometry.bitmap import Figure, Point, snap

__all__ = ["FAMILIES", "KINDS", "LEVELS", "Problem", "random_problem"]

LEVELS = (1, 2, 3)
"""Angles are multiples of ten at level 1, of five at level 2, and any whole numbers at level 3; lengths have one digit
at level 1, are at most 20 at level 2 and at most 50 at level 3."""

FIND = "Find x."


class Problem(NamedTuple):
    """A problem and its solution.

    Attributes:
        kind: Of `KINDS`, e.g. ``"triangle/sum"``.
        marks: The numbers that the picture shows, in the order in which they are shown.
        layout: The positions of things: whole numbers that, with the kind and the marks, determine the figure.
        question: The text beside the picture, without any of the numbers.
        answer: The value asked for.
        working: The steps to it, e.g. ``"180-50-60=70"``; several are separated by commas.
        figure: What the picture shows.
    """

    kind: str
    marks: tuple[int, ...]
    layout: tuple[int, ...]
    question: str
    answer: int
    working: str
    figure: Figure

    @property
    def steps(self) -> int:
        """The number of operations that lead to the answer; 0 where it is read off."""
        return sum(self.working.count(sign) for sign in "+-*/")


_Drawn = tuple[tuple[int, ...], tuple[int, ...], str, int, str, Figure]  # a Problem's fields after `kind`


def _angle(rng: random.Random, level: int, low: int, high: int, *, even: bool = False) -> int:
    """Draw an angle of the level within [low, high], in degrees."""
    step = {1: 10, 2: 5, 3: 1}[level]
    if even:
        step = {1: 20, 2: 10, 3: 2}[level]
    return step * rng.randint(-(-low // step), high // step)


def _length(rng: random.Random, level: int) -> int:
    return rng.randint(2, {1: 9, 2: 20, 3: 50}[level])


def _between(a: Point, b: Point, part: int, whole: int) -> Point:
    """The point `part / whole` of the way from a to b."""
    return a[0] + (b[0] - a[0]) * part // whole, a[1] + (b[1] - a[1]) * part // whole


def _polygon(corners: tuple[Point, ...]) -> tuple[tuple[Point, Point], ...]:
    return tuple(zip(corners, (*corners[1:], corners[0]), strict=True))


def _inside(corners: tuple[Point, ...], texts: tuple[str, ...]) -> tuple[tuple[str, Point], ...]:
    """A label within each corner of a polygon."""
    middle = (sum(x for x, _ in corners) // len(corners), sum(y for _, y in corners) // len(corners))
    return tuple(snap(text, _between(corner, middle, 2, 5)) for corner, text in zip(corners, texts, strict=True))


def _tick(a: Point, b: Point) -> tuple[Point, Point]:
    """A stroke across the middle of a side: sides with one are equally long."""
    x, y = _between(a, b, 1, 2)
    across, down = (4, 0) if abs(b[1] - a[1]) > abs(b[0] - a[0]) else (0, 4)
    return (x - across, y - down), (x + across, y + down)


def _triangle(apex: int, flip: int) -> tuple[Point, Point, Point]:
    """Left, right and upper corner; upside down where `flip`."""
    low, high = (10, 86) if flip else (86, 10)
    return (6, low), (90, low), (apex, high)


def _triangle_sum(rng: random.Random, level: int) -> _Drawn:
    a = _angle(rng, level, 20, 120)
    b = _angle(rng, level, 20, min(120, 160 - a))
    layout = (rng.randint(3, 9) * 8, rng.randrange(2), rng.randrange(3))
    corners = _triangle(*layout[:2])
    texts = [str(a), str(b)]
    texts.insert(layout[2], "x")
    figure = Figure(_polygon(corners), _inside(corners, tuple(texts)))
    return (a, b), layout, FIND, 180 - a - b, f"180-{a}-{b}={180 - a - b}", figure


def _triangle_isosceles(rng: random.Random, level: int) -> _Drawn:
    layout = (48, rng.randrange(2), rng.randrange(3))  # the last: 0 and 1, a base angle is given, 2, the apex's is
    given = _angle(rng, level, 20, 140, even=True) if layout[2] == 2 else _angle(rng, level, 20, 80)
    corners = _triangle(*layout[:2])
    left, right, apex = corners
    shown = {0: (str(given), "", "x"), 1: ("", str(given), "x"), 2: ("x", "", str(given))}[layout[2]]
    labels = tuple(label for label in _inside(corners, shown) if label[0])
    figure = Figure((*_polygon(corners), _tick(left, apex), _tick(right, apex)), labels)
    if layout[2] == 2:
        rest = 180 - given
        return (given,), layout, FIND, rest // 2, f"180-{given}={rest},{rest}/2={rest // 2}", figure
    return (given,), layout, FIND, 180 - 2 * given, f"180-{given}-{given}={180 - 2 * given}", figure


def _triangle_exterior(rng: random.Random, level: int) -> _Drawn:
    a = _angle(rng, level, 20, 90)
    b = _angle(rng, level, 20, min(90, 160 - a))
    mirror, apex = layout = rng.randrange(2), rng.randint(2, 4) * 8
    corners: tuple[Point, ...] = ((4, 86), (64, 86), (apex, 10))
    end, outside = (94, 86), (80, 76)
    if mirror:
        corners = tuple((96 - x, y) for x, y in corners)
        end, outside = (96 - end[0], 86), (96 - outside[0], 76)
    labels = tuple(label for label in _inside(corners, (str(a), "", str(b))) if label[0])
    figure = Figure((*_polygon(corners), (corners[1], end)), (*labels, snap("x", outside)))
    return (a, b), layout, FIND, a + b, f"{a}+{b}={a + b}", figure


def _parallel(rng: random.Random, level: int) -> _Drawn:
    given = _angle(rng, level, 20, 160)
    # The transversal's two crossings; for each of two marks, the crossing and the corner there.
    lean = rng.choice((-1, 1))
    crossings = ((48 + 8 * lean, 32), (48 - 8 * lean, 64))
    first, second = rng.sample(
        [(crossing, right, below) for crossing in (0, 1) for right in (0, 1) for below in (0, 1)], 2
    )
    layout = (lean, *first, *second)
    labels = []
    for (crossing, right, below), text in ((first, str(given)), (second, "x")):
        x, y = crossings[crossing]
        half = 4 * len(text)
        labels.append(snap(text, (x + 8 + half if right else x - 8 - half, y + (12 if below else -4))))
    figure = Figure(
        (((2, 32), (93, 32)), ((2, 64), (93, 64)), ((48 + 24 * lean, 0), (48 - 24 * lean, 95))), tuple(labels)
    )
    # Going round a crossing the angles alternate; opposite ones are equal.
    equal = first[1] ^ first[2] == second[1] ^ second[2]
    answer = given if equal else 180 - given
    return (given,), layout, FIND, answer, f"x={given}" if equal else f"180-{given}={answer}", figure


_RIM: tuple[Point, ...] = (
    (88, 48), (83, 68), (68, 83), (48, 88), (28, 83), (13, 68),
    (8, 48), (13, 28), (28, 13), (48, 8), (68, 13), (83, 28),
)  # fmt: skip
"""Points on the circle about (48, 48) of radius 40, each a twelfth of the way round from the last."""


def _circle_inscribed(rng: random.Random, level: int) -> _Drawn:
    turn, central = layout = rng.randrange(12), rng.randrange(2)  # 1: the angle at the centre is given
    apex, one, two = _RIM[turn], _RIM[(turn + 5) % 12], _RIM[(turn + 8) % 12]
    centre = (48, 48)
    given = _angle(rng, level, 40, 170, even=True) if central else _angle(rng, level, 20, 85)
    at_centre, at_apex = (str(given), "x") if central else ("x", str(given))
    middle = _between(one, two, 1, 2)
    lines = ((centre, one), (centre, two), (apex, one), (apex, two))
    labels = snap(at_centre, _between(centre, middle, 1, 2)), snap(at_apex, _between(apex, centre, 2, 5))
    answer = given // 2 if central else 2 * given
    working = f"{given}/2={answer}" if central else f"{given}*2={answer}"
    return (given,), layout, FIND, answer, working, Figure(lines, labels, (centre, 40))


def _circle_diameter(rng: random.Random, level: int) -> _Drawn:
    turn, other, radius_given = layout = rng.randrange(12), rng.choice((2, 3, 4)), rng.randrange(2)
    radius = _length(rng, level)
    given, answer = (radius, 2 * radius) if radius_given else (2 * radius, radius)
    on_radius, on_diameter = (str(given), "x") if radius_given else ("x", str(given))
    centre, start, end, tip = (48, 48), _RIM[turn], _RIM[(turn + 6) % 12], _RIM[(turn + other) % 12]
    labels = snap(on_radius, _between(centre, tip, 3, 5)), snap(on_diameter, _between(centre, end, 3, 5))
    working = f"{given}*2={answer}" if radius_given else f"{given}/2={answer}"
    return (given,), layout, FIND, answer, working, Figure(((start, end), (centre, tip)), labels, (centre, 40))


def _quadrilateral_angles(rng: random.Random, level: int) -> _Drawn:
    angles = [_angle(rng, level, 60, 120) for _ in range(2)]
    angles.append(_angle(rng, level, 50, min(130, 320 - sum(angles))))
    unknown, *shifts = layout = (rng.randrange(4), *(rng.randint(0, 2) for _ in range(4)))
    a, b, c, d = (8 * shift for shift in shifts)
    corners = ((4 + a, 6), (91, 6 + b), (91 - c, 89), (4, 89 - d))
    texts = [str(angle) for angle in angles]
    texts.insert(unknown, "x")
    answer = 360 - sum(angles)
    working = f"360-{'-'.join(map(str, angles))}={answer}"
    return tuple(angles), layout, FIND, answer, working, Figure(_polygon(corners), _inside(corners, tuple(texts)))


def _quadrilateral_parallelogram(rng: random.Random, level: int) -> _Drawn:
    given = _angle(rng, level, 20, 160)
    lean, at = rng.choice((-1, 1)), rng.randrange(4)
    further = rng.randint(1, 3)
    left, right = (24, 2) if lean > 0 else (2, 24)
    corners = ((left, 16), (93 - right, 16), (93 - left, 80), (right, 80))
    texts = ["", "", "", ""]
    texts[at], texts[(at + further) % 4] = str(given), "x"
    labels = tuple(label for label in _inside(corners, tuple(texts)) if label[0])
    answer = given if further == 2 else 180 - given
    working = f"x={given}" if further == 2 else f"180-{given}={answer}"
    return (given,), (lean, at, further), FIND, answer, working, Figure(_polygon(corners), labels)


def _rectangle(rng: random.Random, level: int) -> tuple[int, int, tuple[int, ...], Figure]:
    wide, high = _length(rng, level), min(_length(rng, level), 20)
    below, right = layout = rng.randrange(2), rng.randrange(2)
    corners = ((12, 20), (83, 20), (83, 75), (12, 75))
    labels = snap(str(wide), (48, 68 if below else 28)), snap(str(high), (72 if right else 24, 48))
    return wide, high, layout, Figure(_polygon(corners), labels)


def _quadrilateral_perimeter(rng: random.Random, level: int) -> _Drawn:
    wide, high, layout, figure = _rectangle(rng, level)
    total = wide + high
    working = f"{wide}+{high}={total},{total}*2={2 * total}"
    return (wide, high), layout, "Find the perimeter.", 2 * total, working, figure


def _quadrilateral_area(rng: random.Random, level: int) -> _Drawn:
    wide, high, layout, figure = _rectangle(rng, level)
    return (wide, high), layout, "Find the area.", wide * high, f"{wide}*{high}={wide * high}", figure


KINDS: Mapping[str, Callable[[random.Random, int], _Drawn]] = {
    "triangle/sum": _triangle_sum,
    "triangle/isosceles": _triangle_isosceles,
    "triangle/exterior": _triangle_exterior,
    "parallel/transversal": _parallel,
    "circle/inscribed": _circle_inscribed,
    "circle/diameter": _circle_diameter,
    "quadrilateral/angles": _quadrilateral_angles,
    "quadrilateral/parallelogram": _quadrilateral_parallelogram,
    "quadrilateral/perimeter": _quadrilateral_perimeter,
    "quadrilateral/area": _quadrilateral_area,
}
"""The kinds of problems, each as family/kind."""

FAMILIES = ("triangle", "parallel", "circle", "quadrilateral")


def random_problem(rng: random.Random, kind: str, level: int) -> Problem:
    """Draw a problem. All draws are of integers, so that they are the same on every platform.

    Raises:
        ValueError: There is no such kind or level.
    """
    if kind not in KINDS or level not in LEVELS:
        raise ValueError(f"expected a kind of {', '.join(KINDS)} and a level of 1, 2 or 3, got {kind!r} and {level!r}")
    return Problem(kind, *KINDS[kind](rng, level))
