"""reasoning-gym's procedural tasks: `--task reasoning-gym:spell_backward` (github.com/open-thought/reasoning-gym).

Over a hundred generators of problems with graded difficulty, an oracle's answer and a scorer each, that others wrote:
fair testbeds. Those whose scorers were read and are safe on untrusted text are offered (`safe.py`); all of them are
judged in the reward process, which may be killed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dps_pyro.support import checks
from dps_pyro.tasks.base import Prompt, PromptSet, Reward, split_of
from dps_pyro.tasks.gym.safe import REFUSED, SAFE, VERSION

__all__ = ["PREFIX", "ReasoningGym"]

PREFIX = "reasoning-gym:"
"""What the names of these tasks begin with."""

INSTRUCTION = "Think first if you need to. Then write your final answer between <answer> and </answer>."


class ReasoningGym:
    """Problems of one of reasoning-gym's generators.

    Args:
        dataset: its name, such as "spell_backward".
        train_size, test_size: how many different problems each split has.
        seed: the random seed of the training problems. Held-out problems use the next seed.
        config: settings of the generator, such as {"min_word_len": 3, "max_word_len": 6}.
        partial: give the scorer's partial credit as it is, for models of graded rewards (`DenseReward`); otherwise a
            reward is 1 for a full score and 0 for any other.
        style: "instruct" asks for the answer between <answer> and </answer>; "compact" shows the question alone, and
            the whole completion is the answer, for small policies that were made for it.

    A problem's features are what the generator calls its difficulty, as far as it is one number a problem, and the
    length of the question in characters.

    Raises:
        ValueError: there is no such generator, or none that may judge completions here; its settings are wrong; or it
            has too few different problems.
        ImportError: reasoning-gym is not installed.
    """

    def __init__(
        self,
        dataset: str,
        train_size: int = 1024,
        test_size: int = 128,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        *,
        partial: bool = False,
        style: Literal["instruct", "compact"] = "instruct",
    ) -> None:
        if dataset not in SAFE:
            why = REFUSED.get(dataset, f"it is none, or its scorer was not read (of version {VERSION})")
            raise ValueError(f"task: expected one of {', '.join(sorted(SAFE))} after {PREFIX}, got {dataset}: {why}")
        if style not in ("instruct", "compact"):
            raise ValueError(f"style: expected instruct or compact, got {style!r}")
        self.name, self.partial, self.style = f"{PREFIX}{dataset}", partial, style
        self._dataset, self._config = dataset, dict(config or {})
        self._entries: dict[str, dict[str, Any]] = {}
        self._generator = self._made(seed, 1)
        train = self._problems(checks.count("train_size", train_size, 1), seed)
        test = self._problems(checks.count("test_size", test_size, 1), seed + 1)
        self._splits = {"train": PromptSet(train), "test": PromptSet(test)}

    def prompts(self, split: str) -> PromptSet:
        """The problems of `split`, "train" or "test": no problem is in both.

        Raises:
            ValueError: there is no such split.
        """
        return split_of(self._splits, split)

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """What the task's own scorer says of the answer in a completion: "correct", "partly correct", "wrong" or "no
        answer".

        Raises:
            ValueError: the scorer said something else than a number in 0..1.
        """
        answer = self._answer(completion)
        if answer is None:
            return Reward(0.0, "no answer")
        score = float(self._generator.score_answer(answer=answer, entry=self._entries[prompt.id]))
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise ValueError(f"{self.name}: expected a score in 0..1, got {score}")
        if score >= 1:
            return Reward(1.0, "correct")
        return Reward(score if self.partial else 0.0, "partly correct" if score > 0 else "wrong")

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward]:
        """Many at once: one question to the reward process, in place of one each."""
        return [self.reward(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

    def _answer(self, completion: str) -> str | None:
        """The last answer between the tags, or the whole completion; None if there is none."""
        if self.style == "compact":
            return completion.strip() or None
        end = completion.rfind("</answer>")
        start = completion.rfind("<answer>", 0, max(end, 0))
        return None if min(start, end) < 0 else completion[start + len("<answer>") : end].strip() or None

    def _made(self, seed: int, size: int) -> Any:
        try:
            import reasoning_gym
        except ImportError as error:
            raise ImportError("expected reasoning-gym: pip install 'dps_pyro[gym]'") from error
        try:
            return reasoning_gym.create_dataset(self._dataset, seed=seed, size=size, **self._config)
        except (TypeError, AssertionError, ValueError) as error:
            raise ValueError(f"task_args: expected settings that {self._dataset} takes, got {error}") from error

    def _problems(self, number: int, seed: int) -> list[Prompt]:
        """`number` problems that no split has yet."""
        found: list[Prompt] = []
        tried, limit = 0, 20 * number + 200
        generator = self._made(seed, limit)
        while len(found) < number:
            if tried == limit:
                raise ValueError(
                    f"train_size, test_size: expected at most as many as {self._dataset} has different problems with "
                    f"these settings: of {limit} only {len(found)} were new, {number} are wanted"
                )
            entry = generator[tried]
            tried += 1
            question, answer = str(entry["question"]), entry["answer"]
            content = f"{self.name}\n{question}\n{answer}".encode()
            one = f"{self._dataset}-{hashlib.sha256(content).hexdigest()[:16]}"
            if one in self._entries:
                continue
            self._entries[one] = entry
            text = question if self.style == "compact" else f"{question.strip()}\n\n{INSTRUCTION}"
            found.append(Prompt(one, text, answer, _features(entry)))
        return found


def _features(entry: Mapping[str, Any]) -> dict[str, float | str]:
    told = entry["metadata"]
    named = {name: told.get(name) for name in told.get("difficulty", {})}
    numbers = {
        name: float(value)
        for name, value in named.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return {**numbers, "length": float(len(str(entry["question"])))}
