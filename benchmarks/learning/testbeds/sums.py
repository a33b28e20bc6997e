"""Long sums whose running totals are written down: mathematics in which harder problems are longer.

    dps-pyro train --task benchmarks/learning/testbeds/sums.py:Sums --model runs/policies/mathematics

A prompt is "7-12+5:", and its completion "-5;0": the running totals, of which the last is the answer. A policy that can
add two numbers can learn ever longer sums, as one that can move a block can learn ever longer plans.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from dps_pyro.tasks import Prompt, PromptSet, Reward

__all__ = ["LARGEST", "Sums", "problem", "totals"]

LARGEST = 19
"""The largest number that is added or taken away."""


class Sums:
    """Sums and differences of several numbers from 1 to `LARGEST`.

    Args:
        terms: the smallest and the largest number of terms, which are equally frequent.
        train_size: the number of training prompts.
        test_size: the number of test prompts. None of them is a training prompt.
        seed: the seed of the problems.

    Raises:
        ValueError: the numbers of terms are out of order, or below 2.
    """

    name = "sums"
    groups = "terms"

    def __init__(
        self, *, terms: Sequence[int] = (3, 8), train_size: int = 1024, test_size: int = 256, seed: int = 0
    ) -> None:
        least, most = terms
        if not 2 <= least <= most:
            raise ValueError(f"terms: expected a smallest number of at least 2 and a largest, got {terms!r}")
        seen: set[str] = set()
        self._splits = {}
        for split, size in (("test", test_size), ("train", train_size)):
            rng = random.Random(f"sums/{split}/{seed}")
            prompts: list[Prompt] = []
            while len(prompts) < size:
                numbers = problem(rng, least + len(prompts) % (most - least + 1))
                if (text := written(numbers)) not in seen:
                    seen.add(text)
                    prompts.append(Prompt(f"sums:{text}", f"{text}:", str(sum(numbers)), {"terms": len(numbers)}))
            rng.shuffle(prompts)
            self._splits[split] = PromptSet(prompts)

    def prompts(self, split: str) -> PromptSet:
        """The prompts of "train" or "test"."""
        return self._splits[split]

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """1.0 if what follows the last semicolon is the answer, else 0.0."""
        last = completion[-16:].rpartition(";")[2]
        if re.fullmatch(r"-?\d{1,9}", last) is None:
            return Reward(0.0, "not a number")
        right = int(last) == int(str(prompt.answer))
        return Reward(float(right), "correct" if right else "wrong")


def problem(rng: random.Random, terms: int) -> list[int]:
    """So many numbers to add up; the first is positive."""
    return [rng.randint(1, LARGEST) * (1 if place == 0 else rng.choice((-1, 1))) for place in range(terms)]


def written(numbers: Sequence[int]) -> str:
    """The sum as it is asked for, such as "7-12+5"."""
    return f"{numbers[0]}" + "".join(f"{number:+d}" for number in numbers[1:])


def totals(numbers: Sequence[int]) -> list[int]:
    """The running totals from the second number on; the last is the answer."""
    return [sum(numbers[: place + 1]) for place in range(1, len(numbers))]
