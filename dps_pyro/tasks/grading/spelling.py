r"""One spelling for answers that mean the same: Unicode, plain text, fonts, spaces, units and decimal points.

Nothing here computes. Every pattern takes time that is linear in the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from dps_pyro.tasks.grading.words import other_half_of_day, plain_phrase, plain_words

__all__ = ["WORDS", "normalise", "number", "same_at_sight"]

_UNICODE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "—": "-",
        "‐": "-",
        "﹣": "-",
        "×": r"\times ",
        "✕": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "∙": r"\cdot ",
        "•": r"\cdot ",
        "÷": r"\div ",
        "∕": "/",
        "⁄": "/",
        "±": r"\pm ",
        "∓": r"\mp ",
        "≤": r"\leq ",
        "≥": r"\geq ",
        "≦": r"\leq ",
        "≧": r"\geq ",
        "⩽": r"\leq ",
        "⩾": r"\geq ",
        "≠": r"\neq ",
        "≈": r"\approx ",
        "≡": r"\equiv ",
        "∞": r"\infty ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "∉": r"\notin ",
        "∅": r"\emptyset ",
        "∀": r"\forall ",
        "∖": r"\setminus ",
        "→": r"\to ",
        "∑": r"\sum ",
        "∏": r"\prod ",
        "∫": r"\int ",
        "∠": r"\angle ",
        "△": r"\triangle ",
        "π": r"\pi ",
        "α": r"\alpha ",
        "β": r"\beta ",
        "γ": r"\gamma ",
        "δ": r"\delta ",
        "ε": r"\epsilon ",
        "θ": r"\theta ",
        "λ": r"\lambda ",
        "μ": r"\mu ",
        "ρ": r"\rho ",
        "σ": r"\sigma ",
        "τ": r"\tau ",
        "φ": r"\phi ",
        "ϕ": r"\phi ",
        "ψ": r"\psi ",
        "ω": r"\omega ",
        "Δ": r"\Delta ",
        "Ω": r"\Omega ",
        "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}",
        "ℚ": r"\mathbb{Q}",
        "ℂ": r"\mathbb{C}",
        "½": r" \frac{1}{2}",
        "⅓": r" \frac{1}{3}",
        "⅔": r" \frac{2}{3}",
        "¼": r" \frac{1}{4}",
        "¾": r" \frac{3}{4}",
        "⅕": r" \frac{1}{5}",
        "⅛": r" \frac{1}{8}",
        "⅜": r" \frac{3}{8}",
        "⅝": r" \frac{5}{8}",
        "⅞": r" \frac{7}{8}",
        "⅙": r" \frac{1}{6}",
        "⅖": r" \frac{2}{5}",
        "⅗": r" \frac{3}{5}",
        "⅘": r" \frac{4}{5}",
        "⅚": r" \frac{5}{6}",
        "…": r"\ldots ",
        "⋯": r"\ldots ",
        "⟨": r"\langle ",
        "⟩": r"\rangle ",
        "⌊": r"\lfloor ",
        "⌋": r"\rfloor ",
        "⌈": r"\lceil ",
        "⌉": r"\rceil ",
        "∣": "|",
        "′": "'",
        "º": "°",
        "。": ".",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
        "\u200b": "",
        "\u2061": "",
        "\u2062": "",
        "\ufeff": "",
        "€": "",
        "£": "",
        "¥": "",
    }
    | {chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7F)}  # full-width forms
    | {chr(0x1D7CE + place): str(place % 10) for place in range(50)}  # digits in bold, double-struck and the like
)
_HIGH = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_LOW = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n", strict=True))

_Spelling = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
_FONTS = "mathrm|mathbf|mathit|mathsf|mathtt|mathcal|mathfrak|bm|boldsymbol|operatorname|rm|bf|boxed|fbox|underline"
_TEXTS = "text|textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|emph"
_FUNCTIONS = (
    "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|lg|exp|gcd|lcm|max|min|sqrt|pi|infinity|inf"
)

_FIRST: tuple[_Spelling, ...] = (
    (re.compile("[" + "".join(_HIGH) + "]{1,20}"), lambda m: "^{" + "".join(_HIGH[c] for c in m[0]) + "}"),
    (re.compile("[" + "".join(_LOW) + "]{1,20}"), lambda m: "_{" + "".join(_LOW[c] for c in m[0]) + "}"),
    (re.compile(r"([√∛∜])\s{0,3}(?:(\d{1,30}|[A-Za-z])|(?=[({\\]))"),
        lambda m: _ROOTS[m[1]] + (f"{{{m[2]}}}" if m[2] else "")),
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!)(?=\s{0,3}\d{3})\s?"), ""),
    (re.compile(r"(?<=\d)\{\.\}(?=\d)"), "."),
    (re.compile(r"\\(?:left|right|displaystyle|textstyle|limits|[bB]igg?[lr]?)(?![A-Za-z])\.?"), ""),
    (re.compile(r"\\(?:color|textcolor)\{[^{}]{0,30}\}"), ""),
    (re.compile(r"(?<!\\)\\!"), ""),
    (re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])|\\(?:h|v)space\{[^{}]{0,20}\}"), " "),
    (re.compile(r"\\?\$"), ""),
    (re.compile(r"(?:\\\\\s{0,9}){1,9}\Z"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s{0,9}(\d)\s{0,9}(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s{0,9}(\d)\s{0,9}(?:(?=\{)|([A-Za-z]))"), lambda m: _half(*m.groups())),
    (re.compile(r"\\frac\s{0,9}(\{[^{}]{0,200}\})\s{0,9}([0-9A-Za-z])"), r"\\frac\1{\2}"),
    (re.compile(r"\\sqrt\s{0,9}([0-9A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(rf"(?<=[\d}}])\s{{0,3}}\\(?:{_FONTS}|text)\s?\{{[^{{}}]{{0,40}}(?:\^\{{-?\d\}}[^{{}}]{{0,40}})"
                r"{1,4}\}\s{0,9}\Z"), ""),
    (re.compile(rf"\\(?:{_FONTS})\s{{0,9}}\{{([^{{}}]{{0,200}})\}}"), lambda m: m[1] if len(m[1].strip()) < 2 or not
        m[1].strip().isalpha() else rf"\text{{{m[1]}}}"),
    (re.compile(r"\\(?:le|leqslant)(?![A-Za-z])|<="), r"\\leq "),
    (re.compile(r"\\(?:ge|geqslant)(?![A-Za-z])|>="), r"\\geq "),
    (re.compile(r"\\(?:lt)(?![A-Za-z])"), "<"),
    (re.compile(r"\\(?:gt)(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:ne)(?![A-Za-z])|!="), r"\\neq "),
    (re.compile(r"\\(?:dots|cdots|dotsc|dotsb)(?![A-Za-z])|\.\.\."), r"\\ldots "),
    (re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s{0,9}\\\}"), r"\\emptyset "),
    (re.compile(r"(?<![\\A-Za-z{])(?:or|and)(?![A-Za-z}])"), ","),
    (re.compile(r"\\mathbf\{?([RZNQC])\}?"), r"\\mathbb{\1}"),
    (re.compile(r"\\lvert|\\rvert|\\vert|\\mid(?![A-Za-z])"), "|"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*"), r"\\cdot "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\(?:colon)(?![A-Za-z])"), ":"),
    (re.compile(r"(?<=\d)[eE]([-+]?\d{1,9})(?![\dA-Za-z.])"), lambda m: rf"\cdot 10^{{{m[1].lstrip('+')}}}"),
    (re.compile(r"(?<![\d.])(\d{0,30})\.(\d{0,30})\\(?:overline|dot|bar)\{?(\d{1,30})\}?"),
        lambda m: _repeating(*m.groups())),
    (re.compile(r"\^\s{0,9}\{?\s{0,9}\\(?:text|mathrm)\s{0,9}\{\s{0,9}(?:st|nd|rd|th)\s{0,9}\}\s{0,9}\}?"), ""),
    (re.compile(r"(?<=\d)(?:st|nd|rd|th)(?![A-Za-z])"), ""),
    (re.compile(r"\^\s{0,9}\{?\s{0,9}\\circ\s{0,9}\}?|\\degree(?![A-Za-z])|\\circ(?=\s{0,9}\Z)"), "°"),
    (re.compile(rf"(?<![\\A-Za-z])(?:{_FUNCTIONS})(?![A-Za-z])"),
        lambda m: "\\infty " if m[0].startswith("inf") else f"\\{m[0]} "),
)  # fmt: skip
_TEXT = re.compile(rf"\\(?:{_TEXTS})\s{{0,9}}\{{([^{{}}]{{0,300}})\}}(\^\s{{0,3}}\{{?[-\d]{{1,3}}\}}?)?")
_BARE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,40}(?:[ '\-.,/]{1,3}[A-Za-z]{2,40}){0,20}(?![A-Za-z])")
_MATH_OPENS = re.compile(r"\\(?:begin|end|pmod|bmod|mathbb)\{?[A-Za-z]{0,20}\}?\*?")
_JOINS = re.compile(r"[\s,]{0,9}(?:and|or|as well as|,|;|&)[\s,]{0,9}", re.IGNORECASE)
_ASIDE = re.compile(r"[\s(,]{0,9}(?:since|because|for|where|when|if|with|as|so|but|note)\b", re.IGNORECASE)
_LEADS = re.compile(
    r"(?:[A-Za-z' ]{0,40}\b(?:is|are|equals|be)\b|[A-Za-z' ]{0,40}:|(?:all|any|every|the|real|positive|natural"
    r"|non-?negative|negative(?= (?:real|integers?|numbers?|values?|solutions?)\b)|numbers?|integers?|values?"
    r"|solutions?|ordered|pair|triple|point|interval|set|vector|matrix|of|for|such|that|only|about|approximately"
    r"| ){0,12})[\s:]{0,9}",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"(?:all|any|every|the|real|numbers?|integers?|values?|of|for|such|that|only|exactly|[\s,])*", re.IGNORECASE
)
_NO_UNIT = re.compile(
    r"\b(?:even|odd|is|are|not|no|prime|primes|multiple|multiples|mod|modulo|factor|divides|choose|each|remainder|percent"
    r"|thousand|million|billion|trillion|hundred|dozen|more|less|than|least|most|per cent|base|times|over|plus|minus|or"
    r"|and|to|per|of|if|any|all|below|under|false|wrong|incorrect|negative|positive|root|factorial)\b"
    r"|\A(?:squared|cubed|tens|half|halves|thirds?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?"
    r"|hundredths?|thousandths?)\b",
    re.IGNORECASE,
)
_MINUS = re.compile(r"(?:negative|minus)", re.IGNORECASE)
_PART_OF = re.compile(r"of (?:the|a|an|his|her|its|their|all)\b[A-Za-z ]{0,60}", re.IGNORECASE)
_PER = re.compile(r"\b[A-Za-z]{1,20}\s(?:per|of|to)\s[A-Za-z]{1,20}", re.IGNORECASE)
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALED = re.compile(r"\s{0,9}\b(hundred|thousand|million|billion|trillion|dozen)s?\b", re.IGNORECASE)
_SHORT_UNIT = re.compile(
    r"(?<=[\d}])\s{0,3}(?:mm|cm|km|kg|mg|ft|mph|km/h|m/s|cm/s|ft/s|Hz|Pa|kPa|Mpc|eV|keV|MeV|erg)"
    r"(?:\^\{?-?[1-9]\}?|/[a-z]{1,3}\^?\d?){0,2}\s{0,9}\Z"
)
_PLAIN = re.compile(r"[-+(]?\d[\d,./]{0,60}\)?%?|\(?[A-Za-z]\)?[.)]?|[-+]?\d{0,5}[a-z](?:\^\d)?")
_HALF = r"(?:[ap]\.\s?m\.|(?:am|pm|AM|PM)\b\.?)"
_CLOCK = re.compile(rf"(\d{{1,2}}:\d\d)\s{{0,9}}(?:\\text\s{{0,3}}\{{\s{{0,9}}{_HALF}\s{{0,9}}\}}|{_HALF})?")
WORDS = re.compile(r"\\text\{([^{}]{0,300})\}")
"""Words that are part of an answer, as `normalise` leaves them."""

_LAST: tuple[_Spelling, ...] = (
    (re.compile(r"(?<![\d.,])(\d{1,3}),(\d{3})((?:,\d{3}){0,9})(?![\d,])"),
        lambda m: m[1] + m[2] + m[3].replace(",", "")),
    (re.compile(r"(?<![\d.,\s])(?<!\d\s)(\d{1,3})((?:\s\d{3}){1,9})(?![\d,])(?!\s\d)"),
        lambda m: "".join(m[0].split())),
    (re.compile(r"(?<![\d.])(\d{1,20})\s{1,9}(\d{1,20})\s?/\s?(\d{1,20})(?![\d.])"), r"\1\\frac{\2}{\3}"),
    (re.compile(r"(?<![\d.])(\d{1,20})\s{1,9}(?=\\frac\{\d{1,20}\}\{\d{1,20}\})"), r"\1"),
    (re.compile(r"(\\[A-Za-z]{1,30})\s{1,9}(?=[A-Za-z])"), "\\1\0"),
    (re.compile(r"_(\d)\s{1,9}(?=\d)"), r"_{\1}"),
    (re.compile(r"(?<=\d)\s{1,9}(?=\d)"), "\1"),
    (re.compile(r"\s{1,99}"), ""),
    (re.compile("\0"), " "),
    (re.compile("\1"), "\\ "),
    (re.compile(r"([_^])(\d{1,30})"), r"\1{\2}"),
    (re.compile(r"\A\\text\{([a-z]{3,30})\}(\d{1,9})\Z"), r"\\text{\1\2}"),
)  # fmt: skip


def _half(top: str, bottom: str | None) -> str:
    r"""The beginning of ``\frac1{...}``, or the whole of ``\frac1b``, with its braces."""
    return rf"\frac{{{top}}}" + (f"{{{bottom}}}" if bottom else "")


def _repeating(whole: str, fixed: str, repeated: str) -> str:
    r"""``0.1\overline{6}`` as a fraction."""
    value = Fraction(int((whole or "0") + fixed + repeated) - int((whole or "0") + fixed))
    value /= 10 ** len(fixed) * (10 ** len(repeated) - 1)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def normalise(text: str) -> str:
    r"""Spell an answer for comparison: no white space, no sizes of brackets, no fonts, one name for each command.

    ``\left( \dfrac12,\ 3 \right)`` and ``(\frac{1}{2},3)`` become the same, as do ``½`` and ``\frac{1}{2}``. Units
    after a number, articles, asides such as "(since n > 0)", and "all real numbers" before a condition are left out.
    Words that remain stand in ``\text{...}`` in lower case. "and" and "or" become commas.
    """
    text = plain_phrase(text.translate(_UNICODE))
    for pattern, spelling in _FIRST:
        text = pattern.sub(spelling, text)
    text = _CLOCK.sub(r"\1", text)
    text = _words(_SHORT_UNIT.sub("", _in_text(text)))
    for pattern, spelling in _LAST:
        text = pattern.sub(spelling, text)
    text = text.rstrip(".,;:\\")
    if "°" in text and not any(f"\\{name}" in text for name in ("sin", "cos", "tan", "cot", "sec", "csc")):
        text = text.replace("°", "")
    return _bare(text)


def _bare(text: str) -> str:
    """Without braces around the whole text."""
    while len(text) > 1 and text[0] == "{" and text[-1] == "}" and "{" not in text[1:-1] and "}" not in text[1:-1]:
        text = text[1:-1]
    return text


def _in_text(text: str) -> str:
    r"""Put bare words of three letters and more into ``\text{}``, so that no word is read as a product of letters."""
    spans = sorted((k.start(), k.end()) for k in [*_MATH_OPENS.finditer(text), *_TEXT.finditer(text)])
    out: list[str] = []
    place = 0
    for start, end in [*spans, (len(text), len(text))]:
        if start < place:
            continue
        out += [_BARE.sub(lambda m: rf"\text{{{m[0]}}}", text[place:start]), text[start:end]]
        place = end
    return "".join(out)


def _words(text: str) -> str:
    r"""Decide of each ``\text{...}`` what it is: a join, a unit, an aside, a lead, plain mathematics, or words."""
    out: list[str] = []
    place = 0
    tail, begun = "", False  # the last characters so far, and whether there are any
    for found in _TEXT.finditer(text):
        between, place = text[place : found.start()], found.end()
        out.append(between)
        tail, begun = (tail + between)[-60:], begun or bool(between.strip())
        content = " ".join(found[1].split())
        kept = _word(content, found[2] or "", tail, first=not begun, after=text[place : place + 60])
        if kept is None:
            return "".join(out).rstrip().rstrip("(,").rstrip()
        out.append(kept)
        tail, begun = (tail + kept)[-60:], begun or bool(kept)
        if not begun and (colon := text[place : place + 9].lstrip()).startswith(":"):
            place += text[place : place + 9].index(colon) + 1
    return "".join(out) + text[place:]


def _word(content: str, power: str, before: str, *, first: bool, after: str) -> str | None:
    r"""What the words of one ``\text{...}`` become; None if an aside follows them."""
    number_before = bool(_QUANTITY.search(before))
    unit_before = number_before and before.rstrip()[-1:] not in ",;(=<>"
    if not content:
        return ""
    if _JOINS.fullmatch(content):
        return ","
    if number_before and _ASIDE.match(content):
        return None
    if _PLAIN.fullmatch(content):
        return content + power
    if first and after.strip(" .") and (_LEADS.fullmatch(content) or after.lstrip().startswith(":")):
        return ""
    if _MINUS.fullmatch(content):
        return "-"
    if _FILLER.fullmatch(content):
        return ""
    if unit_before and (scaled := _SCALED.match(content)) is not None:
        return rf"\cdot {_SCALES[scaled[1].lower()]}"
    if unit_before and content.lower() in ("percent", "per cent"):
        return "%"
    if unit_before and _PART_OF.fullmatch(content):
        return ""
    if unit_before and len(content.split()) <= 5 and (not _NO_UNIT.search(content) or _PER.search(content)):
        return ""
    return rf"\text{{{plain_words(content)}}}"


_QUANTITY = re.compile(r"\d|\\pi")
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<whole>\d{0,30})(?P<point>\.\d{1,30})|(?P<integer>\d{1,30})"
    r"|(?P<top>\d{1,30})/(?P<bottom>\d{1,30})|\\frac\{(?P<num>-?\d{1,30})\}\{(?P<den>-?\d{1,30})\})"
)


def number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a plain number and whether it is exact, i.e. no decimal fraction; None for any other text."""
    if (match := _NUMBER.fullmatch(text)) is None or not text.isascii():
        return None
    parts = match.groupdict()
    if parts["point"] is not None:
        value = Fraction((parts["whole"] or "0") + parts["point"])
    elif parts["integer"] is not None:
        value = Fraction(parts["integer"])
    else:
        over, under = (parts["top"] or parts["num"]), (parts["bottom"] or parts["den"])
        if int(under) == 0:
            return None
        value = Fraction(int(over), int(under))
    return (-value if parts["sign"] == "-" else value), parts["point"] is None


def same_at_sight(gold: str, answer: str) -> bool | None:
    """Whether two answers are the same, if that is clear without computer algebra; None if it is not.

    The result is True for the same text after `normalise` and for plain numbers of the same value, and False for two
    whole numbers or fractions of different values. A decimal fraction may be rounded, so that it gives None.
    """
    if other_half_of_day(gold, answer):
        return False
    gold, answer = normalise(gold), normalise(answer)
    if gold == answer:
        return True
    one, other = number(gold), number(answer)
    if one is None or other is None:
        return None
    if one[0] == other[0]:
        return True
    return False if one[1] and other[1] else None
