r"""Comparison of a gold answer with another, part by part: what is a list, a tuple or an equation is compared as one.

This runs in a worker that can be killed (`grader_worker`), for what it computes may take any time.
"""

from __future__ import annotations

import re

from dps_pyro.tasks.grading import values
from dps_pyro.tasks.grading.regions import FLIPPED, holes, interval, variable
from dps_pyro.tasks.grading.spelling import normalise
from dps_pyro.tasks.grading.structure import Node, is_name, is_words, read
from dps_pyro.tasks.grading.values import NoValueError
from dps_pyro.tasks.grading.words import without_unit

__all__ = ["compare"]

_LABEL = re.compile(
    r"\s{0,9}(?:\\(?:text|textbf|mathrm|mathbf)\s{0,3}\{\s{0,3})?(?:option|choice|answer)?\s{0,3}"
    r"\(?([A-Ja-j])(?:\)|[.:](?=[\s}]))\s{0,3}\}?\s{0,9}"
)
_LETTER = re.compile(
    r"\s{0,9}(?:\\(?:text|textbf|mathrm|mathbf)\s{0,3}\{\s{0,3})?(?:(?:option|choice|answer)\s{1,3})?"
    r"\(?([A-Ja-j])\)?[.:]?\s{0,3}\}?\s{0,9}",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"[A-J](?:,?[A-J]){1,9}")
_CLOCK = re.compile(r"\d{1,2}:\d\d")
_BASE = re.compile(r"([0-9A-F]{1,60})(?:_\{?(\d{1,2})\}?)?")
_NEAR = 0.01
"""The relative error that ``\\approx`` may stand for within one answer."""


def compare(gold: str, answer: str, tolerance: float = 0.0) -> str:
    """Compare two answers: ``"equal"``, ``"different"``, ``"gold not parsed"`` or ``"not parsed"``.

    Args:
        gold: The gold answer, LaTeX or plain text.
        answer: The other answer, as `answers.final_answer` finds it.
        tolerance: The relative error of numbers that is allowed, >= 0.
    """
    if (chosen := _LETTER.fullmatch(gold)) is not None and chosen[1].isupper():
        letter = _LETTER.fullmatch(answer) or _LABEL.match(answer)
        if letter is not None:
            return "equal" if letter[1].upper() == chosen[1] else "different"
        return "different" if normalise(answer) != normalise(gold) else "equal"
    labels = [_LABEL.match(text) for text in (gold, answer)]
    if labels[0] is not None and labels[0].end() < len(gold):
        letter = _LETTER.fullmatch(answer) or labels[1]
        if letter is not None:
            return "equal" if letter[1].upper() == labels[0][1].upper() else "different"
        gold = gold[labels[0].end() :]
    elif labels[1] is not None and labels[1].end() < len(answer):
        answer = answer[labels[1].end() :]
    golds = [normalise(gold)]
    if re.fullmatch(r"\d{1,3}(?:,\d{3}){2,9}", gold):
        golds.append(gold.replace(",", ", "))
    one = normalise(answer)
    if _LETTERS.fullmatch(golds[0]) and _LETTERS.fullmatch(one):
        return "equal" if sorted(golds[0].replace(",", "")) == sorted(one.replace(",", "")) else "different"
    comparison = _Comparison(tolerance)
    if any(comparison.same(read(text), read(one)) for text in golds):
        return "equal"
    unitless = [normalise(without_unit(text)) for text in (gold, answer)]
    if unitless != [golds[0], one] and _Comparison(tolerance).same(*map(read, unitless)):
        return "equal"
    for text, side in ((golds[0], "gold not parsed"), (one, "not parsed")):
        if side in comparison.missed or not text:
            return side
    return "different"


class _Comparison:
    """One comparison, and which sides had parts without a value."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.missed: set[str] = set()

    def same(self, gold: Node, answer: Node) -> bool:
        """Whether two answers, or two parts of them, are the same."""
        if gold.text == answer.text:
            return True
        gold, answer = _plain(gold), _plain(answer)
        left_out = [holes(node) for node in (gold, answer)]
        if left_out[0] is not None and left_out[1] is not None:
            return self._unordered(*left_out)
        ways = {"chain": self._chains, "list": self._lists, "residue": self._residues, "ratio": self._ratios}
        for kind, way in ways.items():
            if kind in (gold.kind, answer.kind):
                return way(gold, answer)
        return self._parts(gold, answer)

    def _parts(self, gold: Node, answer: Node) -> bool:
        """Compare unions, tuples, matrices, texts and values."""
        if gold.kind == answer.kind == "union":
            return self._unordered(gold.parts, answer.parts)
        if gold.kind == answer.kind == "tuple":
            alike = gold.marks == answer.marks or not gold.marks or not answer.marks or len(gold.parts) > 2
            return alike and self._ordered(gold.parts, answer.parts)
        if gold.kind == answer.kind == "matrix":
            return self._ordered(gold.parts, answer.parts)
        if {gold.kind, answer.kind} == {"matrix", "tuple"}:
            return self._ordered(_vector(gold), _vector(answer))
        if "text" in (gold.kind, answer.kind):
            for node, side in ((gold, "gold not parsed"), (answer, "not parsed")):
                if node.kind == "text" and (not is_words(node) or len(node.text) > 60):
                    self.missed.add(side)
            return False
        return gold.kind == answer.kind == "value" and self._values(gold.text, answer.text)

    def _values(self, gold: str, answer: str) -> bool:
        one, other = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
        if one is not None and other is not None and (one[2] or other[2]):
            return one[1] == other[1] and (one[2] == other[2] or not other[2] or (not one[2] and other[2] == "10"))
        percents = gold.endswith("%"), answer.endswith("%")
        gold, answer = gold.rstrip("%"), answer.rstrip("%")
        if percents == (True, False):
            return self._equal(gold, answer) or self._equal(f"\\frac{{{gold}}}{{100}}", answer)
        if percents == (False, True):
            large = re.fullmatch(r"-?0?\.\d{1,30}", answer) is None
            return self._equal(gold, f"\\frac{{{answer}}}{{100}}") or (large and self._equal(gold, answer))
        return self._equal(gold, answer)

    def _equal(self, gold: str, answer: str, tolerance: float | None = None) -> bool:
        for text, side in ((gold, "gold not parsed"), (answer, "not parsed")):
            try:
                values.equal(text, text)
            except NoValueError:
                self.missed.add(side)
                return False
        try:
            return values.equal(gold, answer, self.tolerance if tolerance is None else tolerance)
        except NoValueError:
            self.missed.add("not parsed")
            return False

    def _ordered(self, golds: tuple[Node, ...], answers: tuple[Node, ...]) -> bool:
        return len(golds) == len(answers) and all(map(self.same, golds, answers))

    def _unordered(self, golds: tuple[Node, ...], answers: tuple[Node, ...]) -> bool:
        """Whether each part of the one has its like in the other, and the other way round."""
        left = list(answers)
        for gold in golds:
            like = next((place for place, one in enumerate(left) if self.same(gold, one)), None)
            if like is None:
                return False
            del left[like]
        return not left

    def _distinct(self, node: Node) -> tuple[Node, ...]:
        """The elements of a list, each value once."""
        kept: list[Node] = []
        for part in node.parts if node.kind == "list" else (node,):
            if not any(self.same(one, part) for one in kept):
                kept.append(part)
        return tuple(kept)

    def _lists(self, gold: Node, answer: Node) -> bool:
        """Compare lists. Those of assignments go by the names, where both sides have them, and by their order with a
        side that has none."""
        one, other = _assigned(gold), _assigned(answer)
        if one is not None and other is not None:
            return one.keys() == other.keys() and all(self.same(one[name], other[name]) for name in one)
        if one is not None or other is not None:
            sides = [tuple(named.values()) if named else node.parts for named, node in ((one, gold), (other, answer))]
            return self._ordered(*sides)
        if {gold.kind, answer.kind} == {"list", "tuple"}:
            listed, ordered = (gold, answer) if gold.kind == "list" else (answer, gold)
            return ordered.marks == ("(", ")") and self._ordered(listed.parts, ordered.parts)
        if {gold.kind, answer.kind} == {"list", "union"}:
            intervals = [tuple(interval(part) or part for part in node.parts) for node in (gold, answer)]
            return self._unordered(*intervals)
        missed = set(self.missed)
        golds, answers = self._distinct(gold), self._distinct(answer)
        self.missed = missed
        if len(golds) == len(gold.parts or (gold,)) != len(answers) and len(answers) > len(golds):
            self.missed -= {"not parsed"}
        return len(golds) == len(answers) and self._unordered(golds, answers)

    def _residues(self, gold: Node, answer: Node) -> bool:
        if gold.kind != answer.kind or gold.marks != answer.marks:
            return False
        if all(
            re.fullmatch(r"-?\d{1,30}", text) for text in (*gold.marks, *(p.text for p in gold.parts + answer.parts))
        ):
            modulus = int(gold.marks[0]) or 1
            one, other = ({int(part.text) % modulus for part in node.parts} for node in (gold, answer))
            return one == other
        return self._unordered(gold.parts, answer.parts)

    def _ratios(self, gold: Node, answer: Node) -> bool:
        if _CLOCK.fullmatch(gold.text) and answer.kind == "ratio":
            return False
        if gold.kind == answer.kind:
            pairs = zip(gold.parts, answer.parts, strict=False)
            first, other = gold.parts[0].text, answer.parts[0].text
            return len(gold.parts) == len(answer.parts) and all(
                self._equal(f"({one.text})({other})", f"({two.text})({first})") for one, two in pairs
            )
        ratio, value = (gold, answer) if gold.kind == "ratio" else (answer, gold)
        if len(ratio.parts) != 2 or value.kind != "value" or _CLOCK.fullmatch(ratio.text):
            return False
        quotient = f"\\frac{{{ratio.parts[0].text}}}{{{ratio.parts[1].text}}}"
        return self._equal(quotient, value.text) if ratio is gold else self._equal(value.text, quotient)

    def _chains(self, gold: Node, answer: Node) -> bool:
        """Compare where one is an equation, an inequality, or a chain of them."""
        one, other = self._told(gold), self._told(answer)
        if one is not None and other is not None:
            if gold.kind == answer.kind and not _names_agree(gold, answer):
                return False
            return self.same(one, other)
        if gold.kind != "chain" or answer.kind != "chain":
            if "list" in (gold.kind, answer.kind):  # a list of one, twice
                return self._lists(gold, answer)
            return False
        if len(gold.parts) != 2 or len(answer.parts) != 2:
            return False
        sides, marks = zip(*(_turned(node) for node in (gold, answer)), strict=True)
        if marks[0] != marks[1]:
            return False
        try:
            return (values.proportional if marks[0] in ("=", "\\neq") else values.same_sign_ratio)(*sides)
        except NoValueError:
            self.missed.add("not parsed")
            return False

    def _told(self, node: Node) -> Node | None:
        """What a chain tells: the value that a name has, the interval in which it lies, or what a true chain is worth.

        It is the node itself where that is no chain, and None where the chain tells no value or is not true.
        """
        if node.kind != "chain":
            return node
        if (region := interval(node)) is not None:
            return region
        if set(node.marks) - {"=", "\\approx"}:
            return None
        parts, marks = list(node.parts), list(node.marks)
        if is_name(parts[0]):
            del parts[0], marks[0]
        elif is_name(parts[-1]) and not is_words(parts[-1]) and len(parts) == 2 and parts[0].kind != "text":
            if not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", parts[0].text)):
                return parts[0]
            return None
        for place, mark in enumerate(marks):
            near = parts[place].kind == parts[place + 1].kind == "value" and mark == "\\approx"
            if near and not self._equal(parts[place].text, parts[place + 1].text, _NEAR):
                return None
            if not near and not _Comparison(0.0).same(parts[place], parts[place + 1]):
                return None
        exact = marks.index("\\approx") if "\\approx" in marks else len(parts) - 1
        return parts[exact]


def _plain(node: Node) -> Node:
    """The real line, however it is written."""
    if node.kind == "tuple" and node.text.replace("+", "") == "(-\\infty,\\infty)":
        return Node("value", "\\mathbb{R}")
    return node


def _vector(node: Node) -> tuple[Node, ...]:
    """The elements of a tuple, or of a matrix of one column or one row."""
    if node.kind == "tuple":
        return node.parts
    if len(node.parts) == 1:
        return node.parts[0].parts
    return tuple(row.parts[0] if len(row.parts) == 1 else row for row in node.parts)


def _name(node: Node) -> str | None:
    """The name to which an equation gives a value."""
    return node.parts[0].text if node.kind == "chain" and node.marks[0] == "=" and is_name(node.parts[0]) else None


def _names_agree(gold: Node, answer: Node) -> bool:
    """Whether two chains are about the same name, or about a function's value by two names."""
    if interval(gold) is not None and interval(answer) is not None:
        return variable(gold) == variable(answer)
    one, other = _name(gold), _name(answer)
    if one is None or other is None or one == other:
        return True
    return (
        all("(" in name or name in ("y", "z") or "\\text" in name for name in (one, other)) or "\\text" in one + other
    )


def _assigned(node: Node) -> dict[str, Node] | None:
    """The values of a list of assignments to different names."""
    if node.kind != "list" or any(_name(part) is None or len(part.parts) != 2 for part in node.parts):
        return None
    found = {part.parts[0].text: part.parts[1] for part in node.parts}
    return found if len(found) == len(node.parts) else None


def _turned(node: Node) -> tuple[tuple[str, str], str]:
    """The two sides of a relation, the larger one first, and the relation."""
    sides = (node.parts[0].text, node.parts[1].text)
    mark = node.marks[0]
    return (sides[::-1], FLIPPED[mark]) if mark in ("<", "\\leq") else (sides, mark)
