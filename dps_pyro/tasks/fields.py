"""The fields of records: the problem, its answer, and what else is known of it, under the names that data sets use.

A name may be a path: ``reward_model.ground_truth`` is the field ``ground_truth`` of the field ``reward_model``, and
``conversations.-1.value`` is the field ``value`` of the last entry of ``conversations``.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dps_pyro.tasks.chats import Chat, chat_of

__all__ = ["ANSWER", "PROBLEM", "BadRecord", "Leftovers", "answer_in", "at", "known_of", "problem_in", "text_of"]

PROBLEM = (
    *("problem", "question", "prompt", "messages", "conversations", "context_messages", "input", "query"),
    *("instruction", "extra_info.question"),
)
"""The fields that hold a problem, the likeliest first."""

ANSWER = (
    *("answer", "final_answer", "expected_answer", "ground_truth", "gold", "gold_answer", "target", "label"),
    *("reward_model.ground_truth", "reward_spec.ground_truth", "extra_info.answer"),
    *("conversations.-1.ground_truth.value", "solution"),
)
"""The fields that hold an answer, the likeliest first."""

_ANSWERED = ("messages", "conversations", "context_messages")
"""The conversations whose last message may be the answer."""

_NO_ANSWER = ("", "nan", "none", "null", "n/a", "proof", "proof.")
_NAMES = ("id", "idx", "index", "uid", "uuid", "qid", "problem_id", "question_id", "prompt_id", "unique_id")
_LONGEST = 100
_RATIO = re.compile(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*")


class BadRecord(ValueError):  # noqa: N818 - it is counted, and an error only where all records are bad
    """A record that is no problem. Its `reason` says why in a few words that are the same for all such records."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Leftovers:
    """Counts the records that are left out, and remembers the first."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.first: BadRecord | None = None

    def add(self, error: BadRecord) -> None:
        """Count one more record."""
        self.reasons[error.reason] += 1
        self.first = self.first or error

    def note(self, records: int) -> list[str]:
        """Say what was left out of `records` records; nothing if none was."""
        if self.first is None:
            return []
        why = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
        number = self.reasons.total()
        return [f"{number:,} of {records:,} records are left out: {why}. The first: {self.first}."]


def at(record: Any, path: str) -> Any:
    """Return the value at a path, None where there is none. A field whose own name has dots goes first, and a field
    whose name is the same but for capitals (``Problem``) is taken where none has the very name."""
    if isinstance(record, Mapping) and path in record:
        return record[path]
    here, _, rest = path.partition(".")
    if isinstance(record, str) and record[:1] in ("{", "["):  # a column of JSON, as CSV has it
        record = _json(record)
    if isinstance(record, Mapping):
        if here not in record:
            here = next((name for name in record if str(name).lower() == here.lower()), here)
        if here in record:
            return at(record[here], rest) if rest else record[here]
    if isinstance(record, Sequence) and not isinstance(record, str | bytes) and re.fullmatch(r"-?\d{1,6}", here):
        place = int(here)
        if -len(record) <= place < len(record):
            return at(record[place], rest) if rest else record[place]
    return None


def text_of(value: Any) -> str | None:
    """Return a value as text: a text, a finite number, or a list of these, joined by commas. None of anything else."""
    if isinstance(value, list | tuple):
        parts = [text_of(part) for part in value]
        return ", ".join(map(str, parts)) if parts and None not in parts else None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = int(value) if value.is_integer() else value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None


def problem_in(record: Mapping[str, Any], names: Sequence[str], place: int) -> tuple[Chat, str]:
    """Return the problem of a record, and the name of its field: the first of `names` that holds one.

    Raises:
        BadRecord: There is none, or it is a conversation that cannot be used.
    """
    for name in names:
        value = at(record, name)
        try:
            chat = chat_of(value, answered=name in _ANSWERED)
        except ValueError as error:
            raise BadRecord(f"{error} in {name!r} of record {place}", "whose conversation cannot be used") from error
        if chat is not None and chat.text.strip():
            return Chat(chat.before, chat.text.strip()), name
        if (text := text_of(value)) is not None:
            return Chat((), text), name
    raise _missing("a problem", names, record, place)


def answer_in(record: Mapping[str, Any], names: Sequence[str], place: int) -> tuple[str, str]:
    """Return the answer of a record as text, and the name of its field: the first of `names` that holds one.

    Raises:
        BadRecord: There is none, or it is a word that stands for no answer, such as ``proof`` or ``nan``.
    """
    for name in names:
        if (text := text_of(at(record, name))) is None:
            continue
        if text.lower() in _NO_ANSWER:
            reason = "whose answer is a proof" if text.lower().startswith("proof") else "without an answer"
            raise BadRecord(f"expected an answer in {name!r} of record {place}, got {text!r}", reason)
        if text.startswith("{") and isinstance(_json(text), dict):
            got = f"expected an answer in {name!r} of record {place}, got settings of a checker: {text:.60}"
            raise BadRecord(got, "whose answer is no text")
        return text, name
    raise _missing("an answer", names, record, place)


def _missing(what: str, names: Sequence[str], record: Mapping[str, Any], place: int) -> BadRecord:
    there = ", ".join(map(str, record)) or "nothing"
    return BadRecord(f"expected {what} ({', '.join(names)}) in record {place}, got {there}", f"without {what}")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def known_of(records: Sequence[Mapping[str, Any]], used: Sequence[str] = ()) -> list[dict[str, float | str]]:
    """Return what is known of each problem beside the problem and its answer: the records' other columns.

    Numbers, short texts, and such values within dictionaries (their names joined by dots) count. A column of texts that
    are all numbers, or ratios such as "3/8", is one of numbers. A column that fewer than half of the records have is
    left out; otherwise a missing number is the mean of the others and a missing text is "unknown". Names of records
    (``id``, ``index``) and texts that differ from nearly every record to the next say nothing and are left out.

    Args:
        records: The records.
        used: The fields that hold the problem and the answer, and any other that is not to be a feature.
    """
    flat = [dict(_flat(record)) for record in records]
    columns: dict[str, None] = {}
    for one in flat:
        columns |= dict.fromkeys(one)
    known: list[dict[str, float | str]] = [{} for _ in records]
    taken = {name.lower() for name in (*used, *PROBLEM, *ANSWER)}
    within = tuple(f"{name.lower()}." for name in used)
    for name in columns:
        lower = name.lower()
        if lower in taken or lower.split(".")[-1] in _NAMES or lower.startswith(within):
            continue
        values = _column([one.get(name) for one in flat])
        for one, value in zip(known, values or (), strict=False):
            one[name] = value
    return known


def _flat(record: Mapping[str, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, float | str]]:
    """The scalar values of a record, those of dictionaries in it too, by their paths."""
    found: list[tuple[str, float | str]] = []
    for name, value in record.items():
        if isinstance(value, Mapping) and depth < 3:
            found += _flat(value, f"{prefix}{name}.", depth + 1)
        elif isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
        elif (isinstance(value, int | float) and abs(value) < 1e300) or (  # not NaN
            isinstance(value, str) and 0 < len(value) <= _LONGEST
        ):
            found.append((f"{prefix}{name}", value))
    return found


def _column(values: Sequence[float | str | None]) -> list[float | str] | None:
    """A column without gaps, or None where it is of no use."""
    there = [value for value in values if value is not None]
    if not there or 2 * len(there) < len(values):
        return None
    numbers = [_number(value) for value in there]
    if None not in numbers:
        mean = math.fsum(float(number or 0) for number in numbers) / len(numbers)
        return [mean if value is None else _number(value) or 0 for value in values]
    labels = {str(value) for value in there}
    if len(there) >= 20 and 2 * len(labels) > len(there):
        return None
    return ["unknown" if value is None else str(value) for value in values]


def _number(value: float | str) -> float | None:
    if not isinstance(value, str):
        return value
    if (ratio := _RATIO.fullmatch(value)) and int(ratio[2]):
        return int(ratio[1]) / int(ratio[2])
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
