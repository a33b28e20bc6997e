"""Sums, differences and products of graded difficulty, of which a small language model solves some.

    dps-pyro train --task benchmarks/learning/arithmetic.py:Arithmetic --model FOLDER_OF_SMOLLM2 --max-new-tokens 16

A level is written as the numbers of digits around the operation: "2+1" is a number of two digits plus one of one digit.
"""

from __future__ import annotations

import itertools
import operator
import random
import re
from collections.abc import Callable, Sequence
from typing import Literal

from dps_pyro.tasks import Prompt, PromptSet, Reward

__all__ = ["LEVELS", "Arithmetic"]

LEVELS = ("1+1", "2+1", "2+2", "1*1", "2*1", "2*2")
"""The levels that are used if none are given, from the easiest to the hardest of each operation."""
MOST = 10_000
"""The most problems of a level."""
_OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_LEVEL = re.compile(r"([1-3])([-+*])([1-3])")
_READ = 1000
"""How many characters of a completion are read."""


class Arithmetic:
    """Arithmetic whose difficulty is a setting. The answer is the last whole number of the reply.

    Args:
        levels: The levels of the problems. Each level gets the same share, as long as it has problems left.
        train_size: The number of training prompts.
        test_size: The number of test prompts. None of them is a training prompt.
        seed: The seed of the problems.
        style: The language of the prompts: ``"instruct"`` is English, and ``"compact"`` is that of the embedded
            mathematics policy, ``"12+7:"``.

    Raises:
        ValueError: A level is unknown, or the levels have too few problems.
    """

    name = "arithmetic"
    groups = "level"
    """The feature that tells most about a prompt's difficulty."""

    def __init__(
        self,
        levels: Sequence[str] = LEVELS,
        train_size: int = 512,
        test_size: int = 96,
        seed: int = 0,
        style: Literal["instruct", "compact"] = "instruct",
    ) -> None:
        if style not in ("instruct", "compact"):
            raise ValueError(f"style: expected 'instruct' or 'compact', got {style!r}")
        if isinstance(levels, str) or not levels or not all(_LEVEL.fullmatch(str(level)) for level in levels):
            raise ValueError(f"levels: expected levels such as {', '.join(LEVELS)}, got {levels!r}")
        left = {level: _drawn(level, seed) for level in dict.fromkeys(levels)}
        if train_size + test_size > (most := sum(map(len, left.values()))):
            raise ValueError(f"train_size, test_size: expected at most {most} problems in all, as there are, got more")
        # The test split is drawn first: a larger training set leaves it as it was.
        sizes = {"test": test_size, "train": train_size}
        self._splits = {split: PromptSet(_take(left, size, style)) for split, size in sizes.items()}

    def prompts(self, split: str) -> PromptSet:
        """The problems of ``"train"`` or ``"test"``."""
        return self._splits[split]

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """1 if the last whole number of the completion is the answer, else 0."""
        numbers = re.findall(r"-?[0-9]+", completion[:_READ])
        if not numbers:
            return Reward(0.0, "no number")
        right = int(numbers[-1]) == prompt.answer
        return Reward(float(right), "correct" if right else "wrong number")

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward]:
        """The reward of each completion of its prompt, all judged in one call."""
        return [self.reward(prompt, said) for prompt, said in zip(prompts, completions, strict=True)]


def _drawn(level: str, seed: int) -> list[tuple[int, int]]:
    """Pairs of numbers of a level, at most `MOST` of them, in an order that the seed decides."""
    first, second = (range(10 ** (int(digits) - 1), 10 ** int(digits)) for digits in (level[0], level[2]))
    pairs = len(first) * len(second)
    places = random.Random(f"arithmetic/{level}/{seed}").sample(range(pairs), min(pairs, MOST))
    return [(first[place // len(second)], second[place % len(second)]) for place in places]


def _take(left: dict[str, list[tuple[int, int]]], size: int, style: str) -> list[Prompt]:
    """Take `size` problems from the levels in turn, and pass over levels that have none left."""
    taken: list[Prompt] = []
    for level in itertools.cycle(left):
        if len(taken) == size:
            break
        if left[level]:
            taken.append(_prompt(level, *left[level].pop(), style))
    return taken


def _prompt(level: str, a: int, b: int, style: str) -> Prompt:
    sign = level[1]
    shown = "×" if sign == "*" else sign
    text = f"{a}{sign}{b}:" if style == "compact" else f"What is {a} {shown} {b}? Reply with the number only."
    return Prompt(f"{a}{sign}{b}", text, _OPERATIONS[sign](a, b), {"level": level})
