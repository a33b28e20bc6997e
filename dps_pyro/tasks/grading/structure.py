r"""The structure of a normalised answer: lists, tuples, sets, matrices, relations, and the values that they hold.

A `Node` is what `read` makes of a text. Reading is linear in the text's length at each depth, and `MAX_DEPTH` bounds
the depth, so that no answer recurses far.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from dps_pyro.tasks.grading.spelling import WORDS

__all__ = ["MAX_DEPTH", "Node", "read", "split"]

MAX_DEPTH = 12
"""The deepest nesting of lists, tuples and matrices that is read. What lies deeper is a value."""


class Node(NamedTuple):
    """A part of an answer.

    Attributes:
        kind: One of ``value``, ``text`` (compared as it is written), ``list`` (no order), ``tuple``, ``matrix``,
            ``union``, ``chain`` (parts that relations join), ``residue`` and ``ratio``.
        text: What it was read from.
        parts: The parts: the elements, the rows of a matrix (each a ``tuple``), or the sides of a chain.
        marks: The brackets of a tuple, the relations of a chain, the modulus of a residue.
    """

    kind: str
    text: str
    parts: tuple[Node, ...] = ()
    marks: tuple[str, ...] = ()


_TOKEN = re.compile(r"\\(?:begin|end)\{[a-z*]{1,12}\}|\\[A-Za-z]{1,30}|\\.|.", re.DOTALL)
_OPEN = {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"}
_CLOSE = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"}
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "\\leq": "\\leq", "\\geq": "\\geq", "\\neq": "\\neq", "\\approx": "\\approx",
    "\\sim": "\\approx", "\\simeq": "\\approx", "\\in": "\\in", "\\implies": "=>", "\\Rightarrow": "=>",
    "\\to": "\\to", "\\equiv": "\\equiv",
}  # fmt: skip
_AS_WRITTEN = re.compile(
    r"\\(?:ldots|forall|exists|notin|setminus|triangle|angle|overline|perp|parallel|Theta|mp)(?![A-Za-z])"
    r"|\bO\(|\\text\{[^{}]{0,300}\}|\\text(?![A-Za-z])|\\(?:iff|Leftrightarrow|cap|subset)|'"
    r"|\^\{?T\}?(?![A-Za-z])|\\prime|\\pmod|\\bmod|\\mathbb\{[A-Z]\}[_^]"
)
"""What is compared as it is written, for it has no value."""
_MATRIX = re.compile(r"\\begin\{([pbvB]?matrix|array|smallmatrix)\}")
_RESIDUE = re.compile(
    r"(?:([A-Za-z]{1,3})\\equiv)(.{1,200})(?:\\pmod\{?(.{1,40}?)\}?|\(?\\text\{mod\}(.{1,40}?)\)?)\Z", re.DOTALL
)
_CHAIN_MEMBER = re.compile(r"\\in(?:\\mathbb\{[ZNQRC]\}|\\text\{[a-z]{1,20}\})[+*]?(?:_\S{1,12}|\^\S{1,6})?\Z")


def split(text: str, marks: Collection[str]) -> tuple[list[str], list[str]]:
    """Split a text at marks outside all brackets and environments: the parts, and the marks between them."""
    parts, found = [], []
    depth = start = 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in _OPEN or mark.startswith("\\begin{"):
            depth += 1
        elif mark in _CLOSE or mark.startswith("\\end{"):
            depth -= 1
        elif depth == 0 and mark in marks:
            parts.append(text[start : token.start()])
            found.append(mark)
            start = token.end()
    return [*parts, text[start:]], found


def read(text: str, depth: int = 0) -> Node:
    """Read a normalised answer."""
    text = text.strip()
    if depth > MAX_DEPTH or not text:
        return Node("value", text)
    if "\\ldots" in text or "\\forall" in text or "\\exists" in text:
        return Node("text", text)
    if (residue := _residue(text, depth)) is not None:
        return residue
    for mark in (";", ","):
        parts, found = split(text, {mark})
        if found and (kept := _elements(parts)):
            return kept if isinstance(kept, Node) else _listed(text, kept, depth)
    if "\\pmod" in text:
        return Node("text", text)
    parts, found = split(text, _RELATIONS)
    if found:
        return _chain(text, parts, [_RELATIONS[one] for one in found], depth)
    parts, found = split(text, {"\\cup"})
    if found:
        return Node("union", text, tuple(read(part, depth + 1) for part in parts))
    if (one := _bracketed(text, depth) or _scaled(text, depth)) is not None:
        return one
    parts, found = split(text, {":"})
    if found and all(parts):
        return Node("ratio", text, tuple(read(part, depth + 1) for part in parts))
    if (parts := split(text, {"\\pm"})[0])[1:] and len(parts) == 2:
        both = tuple(Node("value", f"{parts[0]}{sign}{parts[1]}") for sign in "+-")
        return Node("list", text, both)
    return Node("text" if _AS_WRITTEN.search(text) else "value", text)


def _elements(parts: list[str]) -> list[str] | Node:
    r"""The elements of a list, without empty ones and without conditions such as ``k \in \mathbb{Z}``."""
    kept = [part for part in parts if part.strip()]
    without = [part for part in kept if not _CHAIN_MEMBER.search(part)]
    return (without or kept) if len(kept) > 0 else []


def _listed(text: str, parts: list[str], depth: int) -> Node:
    nodes = tuple(read(part, depth + 1) for part in parts)
    if len(nodes) == 1:
        return nodes[0]
    # "x = 1, 2" says x = 1 and x = 2; "n \equiv 1, 3" was read before.
    flat: list[Node] = []
    for node in nodes:
        flat += node.parts if node.kind == "list" and "\\pm" in node.text and not node.marks else (node,)
    return Node("list", text, tuple(flat))


def _residue(text: str, depth: int) -> Node | None:
    if "\\equiv" not in text or (match := _RESIDUE.fullmatch(text)) is None:
        return None
    values = split(match[2].rstrip("("), {","})[0]
    parts = tuple(read(part, depth + 1) for part in values if part)
    return Node("residue", text, parts, (match[3] or match[4],))


def _chain(text: str, parts: list[str], relations: list[str], depth: int) -> Node:
    r"""Sides and relations. A name before ``\in`` says nothing, and neither does what leads to ``=>``."""
    if relations[0] == "\\in" and len(parts) == 2 and len(parts[0]) <= 3:
        return read(parts[1], depth + 1)
    if "=>" in relations:
        last = len(relations) - 1 - relations[::-1].index("=>")
        rest = relations[last + 1 :]
        return _chain(text, parts[last + 1 :], rest, depth + 1) if rest else read(parts[-1], depth + 1)
    if not parts[0] and relations[0] in ("=", "\\approx"):
        return read(text[1 if relations[0] == "=" else len("\\approx") :], depth + 1)
    if "\\to" in relations or "\\equiv" in relations or "\\in" in relations:
        return Node("text", text)
    if (within := _within(parts, relations)) is not None:
        return read(within, depth + 1)
    sides = tuple(read(part, depth + 1) for part in parts)
    return Node("chain", text, sides, tuple(relations))


_DISTANCE = re.compile(r"\|([A-Za-z])(?:([-+])([^|A-Za-z]{1,40}))?\|")
_PLAIN = re.compile(r"(?:[\d.+\-/{}()]|\\(?:frac|sqrt|pi)(?![A-Za-z])){1,60}")


def _within(parts: list[str], relations: list[str]) -> str | None:
    r"""What a bound of a distance says of the name in it: ``|x-3|<2`` is ``3-(2)<x<3+(2)``."""
    if len(parts) != 2 or relations[0] not in ("<", "\\leq", ">", "\\geq"):
        return None
    turned = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
    distance, bound = _DISTANCE.fullmatch(parts[0]), parts[1]
    relation = relations[0]
    if distance is None:
        distance, bound, relation = _DISTANCE.fullmatch(parts[1]), parts[0], turned[relation]
    if distance is None or _PLAIN.fullmatch(bound) is None:
        return None
    name, sign, shift = distance.groups()
    middle = "" if shift is None else f"({shift})" if sign == "-" else f"-({shift})"
    low, high = f"{middle}-({bound})", f"{middle}+({bound})" if middle else bound
    if relation in ("<", "\\leq"):
        return f"{low}{relation} {name}{relation} {high}"
    return f"{name}{turned[relation]} {low},{name}{relation} {high}"


_MEMBERS = re.compile(r"[A-Za-z](?:\\in\\mathbb\{R\})?[:|](?=.)")
"""The beginning of a set of real numbers that is told by a condition."""


def _scaled(text: str, depth: int) -> Node | None:
    """A matrix with a factor before it: every element times the factor."""
    place = text.find("\\begin{")
    factor = re.sub(r"\\(?:cdot|times)\Z", "", text[:place]) if place > 0 else ""
    if not factor or len(factor) > 60 or (matrix := _bracketed(text[place:], depth)) is None or matrix.kind != "matrix":
        return None
    factor = "-1" if factor == "-" else factor
    rows = []
    for row in matrix.parts:
        if any(cell.kind != "value" for cell in row.parts):
            return None
        cells = tuple(Node("value", f"({factor})({cell.text})") for cell in row.parts)
        rows.append(Node("tuple", f"({factor})({row.text})", cells))
    return Node("matrix", text, tuple(rows))


def _bracketed(text: str, depth: int) -> Node | None:
    """A matrix, a set, a tuple, an interval or a value in brackets; None if no bracket holds the whole text."""
    tokens = [token[0] for token in _TOKEN.finditer(text)]
    first, last = tokens[0], tokens[-1]
    if (matrix := _MATRIX.match(text)) is not None and text.endswith(f"\\end{{{matrix[1]}}}"):
        inside = text[matrix.end() : -len(f"\\end{{{matrix[1]}}}")]
        if matrix[1] == "array" and inside.startswith("{"):
            inside = inside.partition("}")[2]
        if "\\begin" in inside:
            return Node("text", text)
        rows = [row for row in split(inside, {"\\\\"})[0] if row]
        cells = tuple(Node("tuple", row, tuple(read(cell, depth + 1) for cell in split(row, {"&"})[0])) for row in rows)
        return Node("matrix", text, cells)
    reverse = first in ("]", ")") and last in ("[", "(") and "," in text  # ]0, 1[ is the open interval
    if not reverse and (first not in _OPEN or last not in _CLOSE or first in ("\\lfloor", "\\lceil", "{")):
        return None
    level = 0
    for place, token in enumerate(tokens):
        level += (token in _OPEN) - (token in _CLOSE)
        if level == 0 and place < len(tokens) - 1 and not reverse:
            return None
    inside = text[len(first) : -len(last)]
    commas, semicolons = split(inside, {","})[0], split(inside, {";"})[0]
    elements = semicolons if len(semicolons) > 1 else commas
    if first == "\\{":
        if (condition := _MEMBERS.match(inside)) is not None:
            return read(inside[condition.end() :], depth + 1)
        inner = read(inside, depth + 1)
        return inner if inner.kind in ("list", "chain", "text") else Node("list", text, (inner,))
    if len(elements) > 1:
        marks = {"]": "(", "[": ")"} if reverse else {}
        opening = "(" if first == "\\langle" else marks.get(first, first)
        closing = ")" if last == "\\rangle" else marks.get(last, last)
        return Node("tuple", text, tuple(read(part, depth + 1) for part in elements), (opening, closing))
    inner = read(inside, depth + 1)
    return inner if inner.kind != "value" else Node("value", inner.text if first == "(" else text)


_SYMBOL = re.compile(
    r"\\?[A-Za-z]{1,12}(?:_\{?[A-Za-z0-9]{1,4}\}?)?(?:\([A-Za-z0-9,+\-]{1,12}\))?|[A-Z]{2,4}|\\text\{[^{}]{1,200}\}"
    r"|\([A-Za-z](?:,[A-Za-z]){1,5}\)|m?\\(?:angle|triangle)\s?\{?[A-Z]{1,3}\}?|\|[A-Z]{2}\||\\overline\{[A-Z]{2}\}"
    r"|m?\\angle\{?\\[a-z]{1,8}\}?"
)


def is_name(node: Node) -> bool:
    """Whether a side of an equation only names what the other side gives: ``x``, ``f(x)``, ``a_n``, ``AB``, words."""
    match = _SYMBOL.fullmatch(node.text)
    return match is not None and node.text not in (
        "e",
        "i",
        "\\pi",
        "\\infty",
        "\\emptyset",
        "\\sqrt",
        "\\sin",
        "\\cos",
    )


def is_words(node: Node) -> bool:
    """Whether a node is nothing but words."""
    return node.kind == "text" and WORDS.sub("", node.text).strip("., ") == ""
