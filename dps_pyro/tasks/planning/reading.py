"""The answers of planning tasks in a completion: where they stand, and arithmetic as people's models write it."""

from __future__ import annotations

import re

from dps_pyro.tasks.grading.answers import last_box, said_after_thinking, tagged

__all__ = ["OpenError", "answer_of", "arithmetic"]

_LONGEST = 600
"""The longest answer, in characters, of which an expression is made."""

_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "∙": "*", "✕": "*", "÷": "/", "∕": "/", "⁄": "/", "−": "-",
"–": "-",
                        "—": "-", "＋": "+", "（": "(", "）": ")", "［": "(", "］": ")", "[": "(", "]": ")", "＝": "=",
                        "$": " ", "`": " ", "\u00a0": " ", "\u2009": " "})  # fmt: skip
_COMMANDS = (
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\[dt]?frac\s{0,3}\{([^{}]{1,200})\}\s{0,3}\{([^{}]{1,200})\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])"), ""),
    (re.compile(r"\\[()\[\],;:! ]|\\q?quad(?![A-Za-z])|\*\*"), " "),
    (re.compile(r"(?<=[\d)\s])[xX](?=[\d(\s])"), "*"),
)


class OpenError(ValueError):
    """A completion ends before its answer does. Its `reason` is ``"unfinished thinking"`` or ``"unclosed answer"``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def answer_of(completion: str) -> str:
    """The text of the answer: of the last closed ``<answer>``, or all that is said behind ``</think>``.

    Raises:
        OpenError: The thinking or the only ``<answer>`` has no end.
    """
    said = said_after_thinking(completion)
    if said is None:
        raise OpenError("unfinished thinking")
    inside, is_open = tagged(said)
    if is_open:
        raise OpenError("unclosed answer")
    return said if inside is None else inside


def arithmetic(text: str, target: int) -> str:
    """An answer as `evaluate` reads it: the content of the last box, signs and commands in plain characters, and
    without "= target".

    Raises:
        OpenError: The only box is open.
    """
    if "\\boxed" in text or "\\fbox" in text:
        boxed = last_box(text)
        if boxed is None:
            raise OpenError("unclosed answer")
        text = boxed
    text = text.strip()
    if len(text) > _LONGEST:
        return text
    text = text.translate(_SIGNS)
    for pattern, spelling in _COMMANDS:
        text = pattern.sub(spelling, text)
    text = text.replace("{", "(").replace("}", ")").strip().rstrip(".").strip()
    left, equals, right = text.partition("=")
    if equals and right.strip() == str(target):
        return left
    return right if equals and left.strip() == str(target) else text
