"""From records to mathematical prompts: the problem, the gold answer, the sentence that asks for it, the features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from dps_pyro.tasks.base import Prompt
from dps_pyro.tasks.chats import Chat
from dps_pyro.tasks.fields import ANSWER, PROBLEM, BadRecord, Leftovers, answer_in, known_of, problem_in
from dps_pyro.tasks.grading.answers import last_box

__all__ = ["INSTRUCTION", "prompts_of"]

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""The sentence that is added to a problem in English."""

_ASKED = ("\\boxed", "####", "<answer>", "answer:")
"""What a prompt that says where its answer goes has in it, in small letters."""


def prompts_of(
    records: Iterable[Mapping[str, Any]],
    problem: str | None = None,
    answer: str | None = None,
    instruction: str | bool | None = None,
    notes: list[str] | None = None,
) -> dict[str, Prompt]:
    """Make prompts from records, each problem once, by their ids.

    Args:
        records: The records.
        problem: The field with the problem, or a path to it (`dps_pyro.tasks.fields`).
        answer: The field with the answer, or a path to it.
        instruction: The sentence that is added to every problem; False adds none; None adds `INSTRUCTION` to those
            that do not say yet where the answer goes.
        notes: A list to which a sentence is added about the records that are left out, if any are.

    Raises:
        ValueError: There are records, and none of them is a problem with an answer.
    """
    found: dict[str, tuple[Chat, str | tuple[str, ...], Mapping[str, Any]]] = {}
    left, used, number = Leftovers(), {problem, answer} - {None}, 0
    for number, record in enumerate(records, 1):
        try:
            chat, asked = problem_in(record, (problem,) if problem else PROBLEM, number - 1)
            gold, told = answer_in(record, (answer,) if answer else ANSWER, number - 1)
        except BadRecord as error:
            left.add(error)
            continue
        used |= {asked, told}
        found.setdefault(_id(chat), (chat, _gold(gold), record))
    if left.first is not None and not found:
        raise ValueError(str(left.first)) from left.first
    if notes is not None:
        notes += left.note(number)
    known = known_of([record for _, _, record in found.values()], sorted(map(str, used)))
    return {
        name: Prompt(name, _asking(chat, instruction), gold, _features(chat, columns), before=chat.before)
        for (name, (chat, gold, _)), columns in zip(found.items(), known, strict=True)
    }


def _id(chat: Chat) -> str:
    said = " ".join(chat.text.split())
    if chat.before:
        said = json.dumps([*(dict(message) for message in chat.before), said], sort_keys=True)
    return f"math:{hashlib.sha256(said.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _asking(chat: Chat, instruction: str | bool | None) -> str:
    """The problem's text with the sentence that asks for the answer."""
    if instruction is None:
        said = " ".join([chat.text, *(message["content"] for message in chat.before)]).lower()
        instruction = not any(mark in said for mark in _ASKED)
    sentence = INSTRUCTION if instruction is True else instruction or ""
    return f"{chat.text}\n\n{sentence}" if sentence else chat.text


def _features(chat: Chat, columns: Mapping[str, float | str]) -> dict[str, float | str]:
    named = {"subject" if name == "type" else name: value for name, value in columns.items()}
    return {"length": len(chat.text), **named}


def _gold(text: str) -> str | tuple[str, ...]:
    """The gold answer: what follows the last ``####`` (GSM8K), the content of the last box, a text without dollar signs
    around it; or of a list in JSON (Skywork), whose entries are all right, each of them."""
    if text.startswith("["):
        try:
            listed = json.loads(text)
        except (ValueError, RecursionError):
            listed = None  # an interval
        if isinstance(listed, list) and listed and all(isinstance(one, str) and one.strip() for one in listed):
            golds = tuple(dict.fromkeys(_plain(one.strip()) for one in listed))
            return golds[0] if len(golds) == 1 else golds
    return _plain(text)


def _plain(text: str) -> str:
    if "####" in text:
        text = text.rpartition("####")[2].strip() or text
    inside = last_box(text)
    text = text if inside is None else inside.strip()
    whole = len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1]
    return text[1:-1].strip() if whole else text
