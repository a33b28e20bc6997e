"""No pattern that reads a completion takes more than linear time, and neither does what is made of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from time import process_time
from types import ModuleType
from typing import Any

import pytest

from dps_pyro.tasks.grading import answers, comparison, grader_worker, regions, spelling, structure, values, words
from dps_pyro.tasks.planning import blocks, expression, reading

MODULES = (
    answers, spelling, words, structure, regions, values, comparison, grader_worker, reading, blocks, expression,
)  # fmt: skip
LENGTH = 100_000
PIECES = [
    "a", "A", "1", " ", "\n", ".", ",", "{", "}", "\\", "$", "*", "|", "-", "√", "²", "=", "1,", "1,234,", "1 ",
    "1 000 ", "a ",
    "a-", "a.", "aa ", "ab/", "1.", ".1", "1e", "x=", "(x", "f(", "<", "<|a|>", "</s> ", "the", "to", "on", "onto",
    "block", "and",
    "or ", "from the ", "answer", "answer ", "answer is ", "is ", "So ", "#### ", "<answer>", "</answer>", "\\boxed{",
    "\\boxed ",
    "\\text{", "\\text{a", "\\text{a}", "\\text{ a }^2", "\\mathrm{", "\\mathrm{m^{2}", "\\frac{", "\\frac1",
    "\\frac{a}", "\\frac{a}{",
    "\\sqrt(", "\\sqrt", "\\overline{1", "0.\\overline{", "^{", "^{\\circ", "_{1", "\\pmod{", "a\\equiv ",
    "\\in\\mathbb{Z}", "\\begin{matrix}",
    "\\\\ ", "\\quad", "\\hspace{", "10:30 ", "3 km", "**a", "$a", "{,}", "\\color{",
    "\\boxed 1", "option A is ", "A is the ", "july ", "4 july ", "1\\mathrm{~m}", "1 \\text{m}^2", "1\\frac{1}{2}",
    "|x-1|", "the 4th of ", "１",
]  # fmt: skip


def _patterns(value: Any) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _patterns(part)


def _all_patterns(module: ModuleType) -> list[re.Pattern[str]]:
    return list(dict.fromkeys(found for value in vars(module).values() for found in _patterns(value)))


def _repeated(piece: str, length: int) -> str:
    return (piece * (length // len(piece) + 1))[: length - 1] + "!"


def _seconds(work: Callable[[], object]) -> float:
    """The processor time that something takes, whether it raises or not."""
    start = process_time()
    with suppress(ValueError):
        work()
    return process_time() - start


def _read_all(pattern: re.Pattern[str], text: str) -> None:
    pattern.fullmatch(text)
    for _ in pattern.finditer(text):
        pass


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_pattern_reads_hostile_text_in_linear_time(module: ModuleType) -> None:
    """The pieces that cost a pattern most, repeated a little, are repeated to 100,000 characters.

    A quadratic pattern would take minutes then, and an exponential one for ever.
    """
    for pattern in _all_patterns(module):
        costs = {piece: _seconds(partial(_read_all, pattern, _repeated(piece, 1500))) for piece in PIECES}
        for piece in sorted(PIECES, key=costs.__getitem__)[-2:]:
            taken = _seconds(partial(_read_all, pattern, _repeated(piece, LENGTH)))
            assert taken < 4.0, (pattern.pattern, piece, taken)


def test_the_patterns_are_found() -> None:
    """All places that grade are among the modules: a new pattern is not overlooked."""
    assert {module.__name__ for module in MODULES if _all_patterns(module)} == {module.__name__ for module in MODULES}


READERS: list[Callable[[str], object]] = [
    answers.final_answer,
    answers.last_box,
    answers.tagged,
    spelling.normalise,
    lambda text: spelling.same_at_sight(text, text + "1"),
    lambda text: structure.read(text[: answers.MAX_CHARS]),
    lambda text: reading.arithmetic(reading.answer_of(text), 24),
    blocks._read,
    lambda text: grader_worker._read(text, text, number_only=False),
    lambda text: grader_worker._read(text, text, number_only=True),
]


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_is_linear(reader: Callable[[str], object]) -> None:
    starts = [(begin, piece) for begin in ("", "\\boxed{", "The answer is ") for piece in PIECES]
    costs = {pair: _seconds(partial(reader, pair[0] + _repeated(pair[1], 3000))) for pair in starts}
    for begin, piece in sorted(starts, key=costs.__getitem__)[-3:]:
        taken = _seconds(partial(reader, begin + _repeated(piece, LENGTH)))
        assert taken < 4.0, (begin, piece, taken)


@pytest.mark.parametrize("text", ["a" * 40 + "=", "a" * LENGTH + "=", "ab." * 30 + "=", "a-" * 20_000 + "!"])
def test_words_take_linear_time(text: str) -> None:
    assert _seconds(lambda: spelling.normalise(text)) < 2.0
