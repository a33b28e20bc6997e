"""The final answer of a mathematical completion, and what can be said of it without computer algebra.

Everything here is linear in the completion's length; what needs more than reading is `grader_worker`'s.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["MAX_CHARS", "NoAnswer", "final_answer", "last_box", "normalise", "same_at_sight"]

MAX_CHARS = 1000
"""The longest answer that is looked at, in characters."""

_LINE = 256
"""The longest completion, in characters, that may be an answer by itself."""

_TAIL = 4000
"""How far from a completion's end an answer in words may begin, in characters."""


class NoAnswer(ValueError):  # noqa: N818 - what is missing is no error of the program
    """A completion has no final answer. Its `reason` says in a few stable words why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def final_answer(completion: str) -> str:
    r"""The final answer of a completion, LaTeX or plain text, the first there is of these:

    1. what the last ``\boxed{...}`` holds (or ``\fbox{...}``), within the last ``<answer>...</answer>`` where there is
       one;
    2. the text of the last ``<answer>...</answer>``;
    3. what follows the last ``####`` (GSM8K), or "answer is", "answer:" on its line;
    4. a completion of one short line is its own answer.

    What is thought before ``</think>`` is not looked at.

    Raises:
        NoAnswer: ``"unfinished thinking"``, ``"unclosed answer"``, ``"empty"``, ``"too long"`` or ``"no answer"``.
    """
    start = completion.rfind("</think>")
    if start < 0 and "<think>" in completion:
        raise NoAnswer("unfinished thinking")
    said = completion[start + len("</think>") :] if start >= 0 else completion
    tagged = _tagged(said)
    inside = said if tagged is None else tagged
    boxed = last_box(inside)
    if boxed is not None:
        return _checked(boxed)
    if tagged is not None:
        return _checked(_trimmed(tagged))
    if "\\boxed{" in said or "<answer>" in said:
        raise NoAnswer("unclosed answer")
    return _checked(_in_words(said.strip()))


def _tagged(text: str) -> str | None:
    """What the last ``<answer>`` that is closed holds."""
    start = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if start < 0:
        return None
    start += len("<answer>")
    return text[start : text.find("</answer>", start)]


_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def last_box(text: str) -> str | None:
    """What the last box that is closed holds. Of boxes within boxes that is the outermost.

    Braces are matched from each box onwards, and the next box is looked for behind the end of the last: every character
    is read at most twice. A box that is not closed ends the search.
    """
    found = None
    place = 0
    while (opening := _BOX.search(text, place)) is not None:
        depth = 1
        for brace in _BRACE.finditer(text, opening.end()):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                found, place = text[opening.end() : brace.start()], brace.end()
                break
        if depth:
            break
    return found


_SAID = re.compile(r"(?:answer\s*(?:is|:|=)|####)[ \t:*]*([^\n]*)", re.IGNORECASE)


def _in_words(text: str) -> str:
    """What follows the last "answer is" on its line; or the text, where it is one short line."""
    if not text:
        raise NoAnswer("empty")
    found = None
    for found in _SAID.finditer(text[-_TAIL:]):  # noqa: B007 - the last one
        pass
    if found is not None:
        return _trimmed(found[1])
    if len(text) > _LINE or "\n" in text:
        raise NoAnswer("no answer")
    return _trimmed(text)


_VALUE_AND_WORDS = re.compile(r"(\$[^$]+\$|[-+]?\d[\d,]*(?:\.\d+)?%?)(?=[\s,;:.])[^\d$\\]*")


def _trimmed(text: str) -> str:
    """Without the emphasis, the dollars and the full stop around it, and the words after a value."""
    text = text.strip().strip("*").strip()
    text = text.removesuffix(".").strip().strip("*").strip()
    if (match := _VALUE_AND_WORDS.fullmatch(text)) is not None:
        text = match[1].rstrip(",")
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inside = text[len(opening) : -len(closing)]
        if len(text) > 2 * len(opening) and text == f"{opening}{inside}{closing}" and opening not in inside:
            return inside.strip().removesuffix(".")
    return text


def _checked(text: str) -> str:
    text = text.strip()
    if not text:
        raise NoAnswer("empty")
    if len(text) > MAX_CHARS:
        raise NoAnswer("too long")
    return text


_SPELLINGS = (
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!)(?=\d{3})"), ""),
    (re.compile(r"\\(?:left|right|displaystyle|textstyle|limits|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])"), ""),
    (re.compile(r"\\[!,;: ]|~|\\q?quad(?![A-Za-z])|\$|\\\$"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*(?=\{)"), ""),
    (re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|°"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\(?:le|leqslant)(?![A-Za-z])"), r"\\leq"),
    (re.compile(r"\\(?:ge|geqslant)(?![A-Za-z])"), r"\\geq"),
    (re.compile(r"\s+"), ""),
)
_WORD = re.compile(r"[A-Za-z]{3,}(?:[-.']?[A-Za-z0-9]+)*")


def normalise(text: str) -> str:
    r"""A spelling for comparison as text: no white space, no sizes of brackets, no fonts, one name for each command.

    ``\left( \dfrac12,\ 3 \right)`` and ``(\frac{1}{2},3)`` become the same. Words become lower case.
    """
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    while len(text) > 1 and text[0] == "{" and text[-1] == "}" and "{" not in text[1:-1] and "}" not in text[1:-1]:
        text = text[1:-1]
    text = text.removesuffix(".")
    return text.lower() if _WORD.fullmatch(text) else text


_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<whole>\d{1,30}|\d{1,3}(?:,\d{3}){1,9})(?P<point>\.\d{1,30})?"
    r"|(?P<top>\d{1,30})/(?P<bottom>\d{1,30})|\\frac\{(?P<num>-?\d{1,30})\}\{(?P<den>-?\d{1,30})\})"
)


def _number(text: str) -> tuple[Fraction, bool] | None:
    """A plain number's value and whether it is exact, i.e. no decimal fraction; None for anything else."""
    if (match := _NUMBER.fullmatch(text)) is None:
        return None
    parts = match.groupdict()
    if parts["whole"] is not None:
        value = Fraction(parts["whole"].replace(",", "") + (parts["point"] or ""))
    else:
        over, under = (parts["top"] or parts["num"]), (parts["bottom"] or parts["den"])
        if int(under) == 0:
            return None
        value = Fraction(int(over), int(under))
    return (-value if parts["sign"] == "-" else value), parts["point"] is None


def same_at_sight(gold: str, answer: str) -> bool | None:
    """Whether two answers are the same, where that can be told without computer algebra; None where it cannot.

    True for the same text after `normalise` and for plain numbers of the same value, False for two whole numbers or
    fractions of different values. (A decimal fraction may be rounded: None.)
    """
    gold, answer = normalise(gold), normalise(answer)
    if gold == answer:
        return True
    one, other = _number(gold), _number(answer)
    if one is None or other is None:
        return None
    if one[0] == other[0]:
        return True
    return False if one[1] and other[1] else None
