"""Sums of small numbers in plain words, which a model of a hundred million parameters gets partly right.

dps-pyro train --task examples/addition.py:Addition --model FOLDER_OF_SMOLLM2 --engine vllm --max-new-tokens 16
"""

from __future__ import annotations

import random
import re

from dps_pyro.tasks import Prompt, PromptSet, Reward


class Addition:
    """Additions of numbers of one and two digits; the answer is the last number of the reply.

    Args:
        train_size, test_size: how many different sums.
        largest: of the numbers added.
        seed: of the sums.
    """

    name = "addition"

    def __init__(self, train_size: int = 256, test_size: int = 64, largest: int = 99, seed: int = 0) -> None:
        pairs = [(a, b) for a in range(1, largest + 1) for b in range(1, largest + 1)]
        random.Random(seed).shuffle(pairs)
        if len(pairs) < train_size + test_size:
            raise ValueError(f"largest: expected at least {train_size + test_size} sums, got {len(pairs)}")
        cut = pairs[:train_size], pairs[train_size : train_size + test_size]
        self._splits = dict(zip(("train", "test"), cut, strict=True))

    def prompts(self, split: str) -> PromptSet:
        """The sums of "train" or "test"."""
        return PromptSet(
            Prompt(f"{a}+{b}", f"What is {a} + {b}? Reply with the number only.", a + b, {"largest": float(max(a, b))})
            for a, b in self._splits[split]
        )

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """1 for the sum, else 0."""
        numbers = re.findall(r"\d{1,9}", completion[:1000])
        if not numbers:
            return Reward(0.0, "no number")
        right = int(numbers[-1]) == prompt.answer
        return Reward(float(right), "correct" if right else "wrong number")
