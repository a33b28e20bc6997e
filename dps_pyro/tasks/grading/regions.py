r"""Parts of the real line: the intervals that inequalities say, and the points that are left out of the line."""

from __future__ import annotations

import re

from dps_pyro.tasks.grading.structure import Node, is_name, read, split

__all__ = ["FLIPPED", "holes", "interval", "variable"]

_BELOW = {"<": "(", "\\leq": "["}
FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}


def variable(node: Node) -> str | None:
    """The one name among the sides of a relation; None if there is none or more than one."""
    names = [part.text for part in node.parts if is_name(part)]
    return names[0] if len(names) == 1 else None


def interval(node: Node) -> Node | None:
    r"""The interval of one variable that an inequality says: ``0 < x \leq 3`` is (0, 3]; None for anything else."""
    if node.kind != "chain" or variable(node) is None:
        return None
    parts, marks = list(node.parts), list(node.marks)
    if all(mark in (">", "\\geq") for mark in marks):
        parts, marks = parts[::-1], [FLIPPED[mark] for mark in marks[::-1]]
    if any(mark not in _BELOW for mark in marks) or len(parts) > 3:
        return None
    name = variable(node)
    place = next(place for place, part in enumerate(parts) if part.text == name)
    if len(parts) == 3 and place != 1:
        return None
    low = parts[0] if place == 1 else Node("value", "-\\infty")
    high = parts[-1] if place < len(parts) - 1 else Node("value", "\\infty")
    opening = _BELOW[marks[0]] if place == 1 else "("
    closing = {"(": ")", "[": "]"}[_BELOW[marks[-1]]] if place < len(parts) - 1 else ")"
    return Node("tuple", f"{opening}{low.text},{high.text}{closing}", (low, high), (opening, closing))


_LEFT_OUT = re.compile(r"\\mathbb\{R\}(?:\\setminus|\\backslash|-)\\\{(.{1,200})\\\}", re.DOTALL)


def holes(node: Node) -> tuple[Node, ...] | None:
    r"""The points that are missing where an answer is the real line without a few of them; None for anything else.

    It may be written ``\mathbb{R}\setminus\{1\}``, ``x \neq 1`` or ``(-\infty,1)\cup(1,\infty)``.
    """
    if (line := _LEFT_OUT.fullmatch(node.text)) is not None:
        return tuple(read(part) for part in split(line[1], {","})[0])
    apart = node.parts if node.kind == "list" else (node,)
    if all(part.kind == "chain" and part.marks == ("\\neq",) and is_name(part.parts[0]) for part in apart):
        same = len({part.parts[0].text for part in apart}) == 1
        return tuple(part.parts[1] for part in apart) if same else None
    if node.kind not in ("union", "list"):
        return None
    return _between([interval(part) or part for part in node.parts])


def _between(intervals: list[Node]) -> tuple[Node, ...] | None:
    """The points between open intervals that touch each other and reach from minus infinity to infinity."""
    if any(one.kind != "tuple" or one.marks != ("(", ")") or len(one.parts) != 2 for one in intervals):
        return None
    after = {one.parts[0].text.lstrip("+"): one.parts[1] for one in intervals}
    points, place = [], "-\\infty"
    while (upper := after.pop(place, None)) is not None:
        points.append(upper)
        place = upper.text.lstrip("+")
    return tuple(points[:-1]) if not after and place == "\\infty" and len(points) > 1 else None
