r"""Formulas to be solved for x: mathematics in which harder problems are longer, and many answers are right.

    dps-pyro train --task benchmarks/learning/testbeds/formulas.py:Formulas \
        --model benchmarks/learning/testbeds/formulas_policy

A prompt is "(x+a)*b=c:", and one of its right answers is "(c/b)-a". Every formula that has the same value as x is
right. It is tried on numbers in place of the letters, exactly. A policy that can undo one operation can learn to undo
many. `scripts.make_testbed_policy` makes a policy to start from.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from dps_pyro.tasks import Prompt, PromptSet, Reward
from dps_pyro.tasks.planning.expression import Evaluated, ExpressionError, evaluate

__all__ = ["LETTERS", "Formulas", "Operation", "problem", "question", "solution"]

LETTERS = "abcdefghij"
"""What is known in a formula, by name."""

_LARGEST = 60
"""The longest answer that is read, in characters."""

_VALUES = (
    (31, 7, 53, 11, 43, 17, 59, 5, 37, 23),
    (13, 47, 3, 61, 19, 29, 41, 67, 2, 71),
)
"""Values of the letters with which an answer is tried."""


class Operation(NamedTuple):
    """One step from x to the other side of a formula."""

    sign: str
    """One of + - * /."""
    letter: str
    """The known number."""
    first: bool
    """Whether the known number stands before the sign, as in a-x and a/x."""


class Formulas:
    """Formulas with x, to which one operation after the other was applied.

    Args:
        operations: the smallest and the largest number of operations, which are equally frequent.
        train_size: the number of training prompts.
        test_size: the number of test prompts. None of them is a training prompt.
        seed: the seed of the problems.

    Raises:
        ValueError: the numbers of operations are out of order or out of range.
    """

    name = "formulas"
    groups = "operations"

    def __init__(
        self, *, operations: Sequence[int] = (3, 8), train_size: int = 1024, test_size: int = 256, seed: int = 0
    ) -> None:
        least, most = operations
        if not 1 <= least <= most < len(LETTERS):
            expected = f"a smallest number of at least 1 and a largest of at most {len(LETTERS) - 1}"
            raise ValueError(f"operations: expected {expected}, got {operations!r}")
        self.operations = (least, most)
        seen: set[str] = set()
        self._splits = {}
        for split, size in (("test", test_size), ("train", train_size)):
            rng = random.Random(f"formulas/{split}/{seed}")
            prompts: list[Prompt] = []
            while len(prompts) < size:
                made = problem(rng, least + len(prompts) % (most - least + 1))
                if (text := question(*made)) not in seen:
                    seen.add(text)
                    prompts.append(_prompt(text, *made))
            rng.shuffle(prompts)
            self._splits[split] = PromptSet(prompts)

    def prompts(self, split: str) -> PromptSet:
        """The prompts of "train" or "test"."""
        return self._splits[split]

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """1.0 for a formula without x that has the value of x, else 0.0."""
        text = "".join(completion[: 4 * _LARGEST].split())
        if len(text) > _LARGEST or re.fullmatch(r"[a-j+*/()-]+", text) is None:
            return Reward(0.0, "not a formula of the known letters")
        gold = str(prompt.answer)
        try:
            right = all(_value(text, values) == _value(gold, values) for values in _VALUES)
        except ExpressionError as error:
            return Reward(0.0, error.reason)
        return Reward(float(right), "correct" if right else "wrong")


def problem(rng: random.Random, operations: int) -> tuple[list[Operation], str]:
    """So many operations from x on, and the letter of the result."""
    letters = rng.sample(LETTERS, operations + 1)
    found = [
        Operation(sign, letter, sign in "-/" and rng.random() < 1 / 3)
        for sign, letter in zip(rng.choices("+-*/", k=operations), letters[:-1], strict=True)
    ]
    return found, letters[-1]


def question(operations: Sequence[Operation], result: str) -> str:
    """The formula, such as "(x+a)*b=c"."""
    return f"{_chain('x', operations)}={result}"


def solution(operations: Sequence[Operation], result: str) -> str:
    """What x is, such as "(c/b)-a": the operations undone, from the last to the first."""
    undone = {"+": "-", "-": "+", "*": "/", "/": "*"}
    steps = [step if step.first else step._replace(sign=undone[step.sign]) for step in reversed(operations)]
    return _chain(result, steps)


def _chain(start: str, operations: Sequence[Operation]) -> str:
    text = start
    for place, (sign, letter, first) in enumerate(operations):
        inside = f"({text})" if place else text
        text = f"{letter}{sign}{inside}" if first else f"{inside}{sign}{letter}"
    return text


def _value(text: str, values: Sequence[int]) -> Fraction:
    numbers: Mapping[str, int] = dict(zip(LETTERS, values, strict=True))
    found: Evaluated = evaluate("".join(f" {numbers[sign]} " if sign in numbers else sign for sign in text))
    return found.value


def _prompt(text: str, operations: Sequence[Operation], result: str) -> Prompt:
    features: dict[str, Any] = {"operations": len(operations), "reversed": sum(step.first for step in operations)}
    return Prompt(f"formulas:{text}", f"{text}:", solution(operations, result), features)
