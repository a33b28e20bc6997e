r"""Words in answers that are written in more than one way: dates, articles, plurals, and units of a few letters.

Every pattern takes time that is linear in the text's length.
"""

from __future__ import annotations

import re

__all__ = ["other_half_of_day", "plain_phrase", "plain_words", "without_unit"]

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MONTH = r"(" + "|".join(f"{name[:3]}(?:{name[3:]})?" if name != "may" else name for name in _MONTHS) + r"|sept)\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:[\s,]{1,5}(\d{4}))?"
_MONTH_FIRST = re.compile(rf"{_MONTH}\s{{1,5}}{_DAY}{_YEAR}", re.IGNORECASE)
_DAY_FIRST = re.compile(rf"(?:the\s)?{_DAY}\s{{1,5}}(?:of\s{{1,5}})?{_MONTH}{_YEAR}", re.IGNORECASE)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s{0,3}\{([^{}]{0,60})\}")
_PHRASES = (
    (
        re.compile(r"(?:the )?empty set|(?:there (?:is|are) )?no (?:real )?solutions?(?: exists?)?", re.IGNORECASE),
        "\\emptyset",
    ),
    (re.compile(r"(?:(?:the )?set of )?(?:all |the )?(?:all )?(?:real numbers|reals)", re.IGNORECASE), r"\mathbb{R}"),
)
_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_ARTICLE = re.compile(r"(?:an?|the) (?=\w)")
_SYMBOL = r"(?:[kcmMnGμ]?(?:m|g|s|L|l|J|N|W|V|A|K|T)|C|F|h|Hz|Pa|mol|eV|min|hr)"
_SET = r"\\(?:text|textrm|mathrm|mbox|rm|operatorname)\s{0,3}\{[\s~]{0,3}" + _SYMBOL + r"[\s~]{0,3}\}"
_GAP = r"(?:[\s~/]|\\[,;: !]|\\cdot(?![A-Za-z])){0,4}"
_UNIT = re.compile(rf"(?:(?<=[\d}})°])|(?<=\\circ))(?:{_GAP}{_SET}(?:\^\s?\{{?\s?-?\d\s?\}}?)?){{1,4}}[\s.$]{{0,5}}\Z")
_HALF_OF_DAY = re.compile(r"\d\s{0,9}(?:\\text\s{0,3}\{\s{0,9})?([ap])\.?\s?m(?![A-Za-z])", re.IGNORECASE)
_LONGEST = 100  # characters of a date, and of what is searched for a unit


def plain_phrase(text: str) -> str:
    r"""An answer in words as it is written otherwise, and any other answer as it is.

    "4 July 2024" and "July 4th, 2024" become ``\text{july 4 2024}``; "no solution" is the empty set, and "all real
    numbers" are ``\mathbb{R}``. "No" becomes ``\text{no}``, since it is no product of n and o. A
    whole number up to twenty that is written as a word becomes digits.
    """
    if len(text) > _LONGEST:
        return text
    words = " ".join(_WRAPPED.sub(r" \1 ", text).replace("~", " ").replace("\\ ", " ").strip(" $.").split())
    if words.lower() == "no":
        return r"\text{no}"
    if words.lower() in _NUMBERS:
        return str(_NUMBERS.index(words.lower()))
    for pattern, symbol in _PHRASES:
        if pattern.fullmatch(words) is not None:
            return symbol
    if (found := _MONTH_FIRST.fullmatch(words)) is not None:
        month, day, year = found.groups()
    elif (found := _DAY_FIRST.fullmatch(words)) is not None:
        day, month, year = found.groups()
    else:
        return text
    name = next(name for name in _MONTHS if name.startswith(month[:3].lower()))
    return rf"\text{{{name} {int(day)}{f' {year}' if year else ''}}}"


def plain_words(words: str) -> str:
    """Words in lower case, in one number: without the article before them, and without the s of a plural."""
    words = words.lower().rstrip(".")
    if (article := _ARTICLE.match(words)) is not None:
        words = words[article.end() :]
    plural = len(words) > 3 and words[-1] == "s" and words[-2].isalpha() and words[-2] not in "sui"
    return words[:-1] if plural else words


def without_unit(text: str) -> str:
    r"""An answer without a unit of a few letters behind its number: ``25\text{ m}^2`` is 25.

    Only what is set as text is taken for a unit, since ``25m`` may be a product.
    """
    head, tail = text[:-_LONGEST], text[-_LONGEST:]
    return head + _UNIT.sub("", tail, count=1)


def other_half_of_day(gold: str, answer: str) -> bool:
    """Whether two answers name times of different halves of the day: "12:00 PM" is not "12:00 AM"."""
    halves = [sorted(half.lower() for half in _HALF_OF_DAY.findall(text)) for text in (gold, answer)]
    return all(halves) and halves[0] != halves[1]
