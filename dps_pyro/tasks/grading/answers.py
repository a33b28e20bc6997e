r"""The final answer of a mathematical completion: where it stands, and the text that it is.

A completion is untrusted text. Every pattern here takes time that is linear in the text's length
(`tests/tasks/grading/test_linear.py` sees to that), and all of this runs in a worker that can be killed
(`grader_worker`).
"""

from __future__ import annotations

import re

__all__ = ["MAX_CHARS", "NoAnswer", "final_answer", "last_box", "said_after_thinking", "tagged"]

MAX_CHARS = 1000
"""The longest answer that is compared, in characters."""

_LINE = 256
"""The longest completion or last line, in characters, that may be an answer without any mark."""

_TAIL = 4000
"""The distance from a completion's end, in characters, within which an answer in words may begin."""


class NoAnswer(ValueError):  # noqa: N818 - what is missing is no error of the program
    """A completion has no final answer. Its `reason` says in a few stable words why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def final_answer(completion: str) -> str:
    r"""Find the final answer of a completion. It is LaTeX or plain text, and the first of these that exists:

    1. the content of the last ``\boxed{...}`` (also ``\fbox``, ``\framebox``) within the last ``<answer>...</answer>``,
       or within the whole text where nothing is tagged. Boxes that only commas, "and" or "or" separate are one list;
    2. the text of the last ``<answer>...</answer>``;
    3. what follows the last ``####`` (GSM8K), or else the last "answer is", "answer:" and the like that a value
       follows, on its line or on the next one;
    4. a completion of one short line, or what its last line prints in bold.

    Text before ``</think>`` is not read, and neither is a special token at the end, such as ``<|im_end|>``.

    Raises:
        NoAnswer: The reason is ``"unfinished thinking"``, ``"unclosed answer"`` (the last box or tag is open),
            ``"empty"``, ``"too long"`` or ``"no answer"``.
    """
    said = said_after_thinking(completion)
    if said is None:
        raise NoAnswer("unfinished thinking")
    inside, is_open = tagged(said)
    text = said if inside is None else inside
    boxed, box_is_open = _boxes(text)
    if box_is_open:
        raise NoAnswer("unclosed answer")
    if boxed is None and (bare := _BARE_BOX.findall(text)):
        boxed = bare[-1].rstrip(".,")
    if boxed is not None:
        return _checked(boxed)
    if inside is not None:
        return _checked(_of_tag(inside.strip()))
    if is_open:
        raise NoAnswer("unclosed answer")
    return _checked(_in_words(said.strip()))


_TOKEN = re.compile(r"(?:<\|[a-z_]{1,30}\|>|</s>|\s){1,50}\Z")


def said_after_thinking(completion: str) -> str | None:
    """The text after the last ``</think>``, without special tokens at its end; None if the thinking has no end."""
    end = completion.rfind("</think>")
    if end < 0 and "<think>" in completion:
        return None
    said = completion[end + len("</think>") :] if end >= 0 else completion
    tail = max(len(said) - 200, 0)
    return said[:tail] + _TOKEN.sub("", said[tail:], count=1)


def tagged(text: str) -> tuple[str | None, bool]:
    """The content of the last closed ``<answer>...</answer>``, and whether a tag is open where none is closed.

    The content reaches from the last ``<answer>`` that has a ``</answer>`` after it to the first of those. It is found
    in a few searches, each linear in the text's length. ``<Answer>`` and ``<ANSWER>`` count as well.
    """
    if "<A" in text or "</A" in text:
        for tag in ("Answer", "ANSWER"):
            text = text.replace(f"<{tag}>", "<answer>").replace(f"</{tag}>", "</answer>")
    start = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if start < 0:
        return None, "<answer>" in text
    start += len("<answer>")
    return text[start : text.find("</answer>", start)], False


_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?:[ \t]{0,9})\{")
_BARE_BOX = re.compile(r"\\boxed[ \t]{1,9}([-+]?\d[\d.,/]{0,40})")
"""A number that stands behind a box without braces, as Minerva's prompts have it."""
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN = re.compile(r"(?:[\s,;.$]|\\[()\[\],; ]|\\q?quad|and|or|[A-Za-z]\s?=){0,40}", re.IGNORECASE)


def last_box(text: str) -> str | None:
    """The content of the last closed box; of boxes within boxes the outermost. None where there is no closed box."""
    return (_closed_boxes(text)[0] or [(None, 0, 0)])[-1][0]


def _closed_boxes(text: str) -> tuple[list[tuple[str | None, int, int]], bool]:
    """All closed boxes with their starts and ends, and whether a box after the last of them is open.

    Braces are matched from each box onwards, and the search goes on behind its end: no character is read more than
    twice. An open box ends the search.
    """
    found: list[tuple[str | None, int, int]] = []
    place = 0
    while (opening := _BOX.search(text, place)) is not None:
        depth = 1
        for brace in _BRACE.finditer(text, opening.end()):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                found.append((text[opening.end() : brace.start()], opening.start(), brace.end()))
                place = brace.end()
                break
        if depth:
            return found, True
    return found, False


def _boxes(text: str) -> tuple[str | None, bool]:
    """The content of the last box, or of the last boxes as a list; and whether the last box is open."""
    boxes, is_open = _closed_boxes(text)
    if not boxes or is_open:
        return None, is_open
    contents = [boxes[-1][0] or ""]
    for (content, _, end), (_, start, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=False):
        between = text[end:start] if start - end <= 40 else "no"
        if len(contents) > 50 or not between.strip("$ \t\n\\()[]") or _BETWEEN.fullmatch(between) is None:
            break
        contents.append(content or "")
    listed = ", ".join(contents[::-1])
    inner = last_box(listed) if len(contents) == 1 else None
    whole = inner is not None and listed.strip().endswith("}") and _BOX.match(listed.strip()) is not None
    return (inner if whole else listed), False


_SAID = re.compile(
    r"(?:\b(?:answers?|result|solutions?|option|choice|value)\b"
    r"(?:[^\n.:=$\\<>]{0,40}?(?:\bis\b|\bare\b|[:=])|[*_ \t]{0,9}(?=\n))"
    r"|答案(?:是|为|：|:)?)",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"(?:\b(?:option|choice|answer)\s\(?((?-i:[A-J]))\)?\s(?:is|must be|would be)\s(?:the\s)?"
    r"(?:correct|right|true|best)\b"
    r"|(?<![\w'])\(?((?-i:[A-J]))\)?\sis\s(?:the\s)?(?:correct|right|best)\s(?:answer|option|choice)\b)",
    re.IGNORECASE,
)
_MARK = re.compile(r"####[ \t*:]{0,9}([^\n]*)")
_LOOKS_LIKE_A_VALUE = re.compile(
    r"(?:[-+(\[{|\d.$\\√½¼¾π∞−±≤≥]|[A-Za-zθ](?![A-Za-z]{1,9}(?:[ ,.!?]|\Z))|[A-Z]{1,5}(?:[ ,.!?)]|\Z))"
)
_AROUND = " \t\n*_:`=："


def _in_words(text: str) -> str:
    """The answer of a text without box and tag."""
    if not text:
        raise NoAnswer("empty")
    tail = text[-_TAIL:]
    marks = _MARK.findall(text)
    if marks:
        return _trimmed(marks[-1])
    in_words: str | None = None
    for said in list(_SAID.finditer(tail))[::-1]:
        after = _after(tail[said.end() :])
        if _LOOKS_LIKE_A_VALUE.match(after):
            return _trimmed(after)
        in_words = after if in_words is None else in_words
    if chosen := _CHOSEN.findall(tail):
        return "".join(chosen[-1]).upper()
    if in_words is not None:
        return _trimmed(in_words)
    last = text[text.rfind("\n") + 1 :]
    if len(last) <= _LINE and (bold := _BOLD.findall(last)):
        return _trimmed(bold[-1])
    if len(text) > _LINE or "\n" in text:
        raise NoAnswer("no answer")
    return _of_line(text)


def _after(text: str) -> str:
    """The line, or the displayed formula, that follows "answer is"."""
    text = text[: MAX_CHARS + 100].lstrip(_AROUND)
    for opening, closing in (("\\[", "\\]"), ("$$", "$$")):
        if text.startswith(opening) and (end := text.find(closing, 2)) >= 0:
            return text[: end + 2]
    return text.partition("\n")[0]


_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_DOLLARS = re.compile(r"(?<![\\$])\$([^$\n]{1,200})\$")
_PROSE = re.compile(r"[A-Za-z]{2,20} [a-z]{1,20} |\b(?:So|Thus|Hence|Therefore|is|are)\b")
_ENDS = re.compile(r"\b(?:is|are|equals|get|have|obtain|find)\s([^\n]{1,100})\Z")


def _of_tag(text: str) -> str:
    """The answer within ``<answer>``: what follows "answer is" there, or the text itself, without prose around it."""
    if not _PROSE.search(text):
        return _trimmed(text)
    return _in_words(text) if _SAID.search(text) or len(text) > _LINE or "\n" in text else _of_line(text)


def _of_line(text: str) -> str:
    """The answer of one short line, which may have words around it."""
    if _PROSE.search(text):
        for pattern in (_BOLD, _DOLLARS, _ENDS):
            if found := pattern.findall(text):
                return _trimmed(found[-1])
    return _trimmed(text)


_VALUE_AND_WORDS = re.compile(
    r"(\$[^$]{1,200}\$|\\\([^()]{1,200}\\\)|\\?\$?[-+]?\d[\d,]{0,40}(?:\.\d{1,40})?%?)(?=[\s,;:.!])"
    r"(?![\s,]{1,3}(?:and|or|not|to|if|unless|plus|minus|times|over)\b)[^\d$\\=<>+*/^]*"
)
_ASIDE = re.compile(r"\s\(?(?:since|because|as|where|for)\b")
_LEAD = re.compile(
    r"\A(?:So|Thus|Hence|Therefore|Then|Finally|we|get|have|obtain|find|that|[,\s]){1,20}(?![A-Za-z])", re.IGNORECASE
)
_SENTENCE = re.compile(r"[.!?](?=\s|\Z)")


def _trimmed(text: str) -> str:
    """The answer without emphasis, dollars and full stop around it, and without the words after a value."""
    text = text.strip().strip("*_`").strip().rstrip(".").strip("*_`").strip()
    text = _LEAD.sub("", text, count=1)
    if (aside := _ASIDE.search(text)) is not None and any(c.isalnum() for c in text[: aside.start()]):
        text = text[: aside.start()].rstrip(" ,;")
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and (end := text.find(closing, len(opening))) > 0:
            inside, rest = text[len(opening) : end].strip().removesuffix("."), text[end + len(closing) :]
            if not rest.strip(" .*`!") or (_SENTENCE.match(rest) and not _DOLLARS.search(rest)):
                return inside
    if (sentence := _SENTENCE.search(text)) is not None and sentence.end() < len(text):
        text = text[: sentence.start()]
    text = text.strip().strip("*_`").strip()
    if (match := _VALUE_AND_WORDS.fullmatch(text)) is not None:
        text = match[1].rstrip(",").strip("$")
        text = text[2:-2].strip() if text.startswith("\\(") else text
    return text


def _checked(text: str) -> str:
    text = text.strip()
    if not text:
        raise NoAnswer("empty")
    if len(text) > MAX_CHARS:
        raise NoAnswer("too long")
    return text
