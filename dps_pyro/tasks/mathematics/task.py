r"""The mathematics task: problems with a final answer, which the grader compares.

`Math()` generates arithmetic and linear equations; `Math.from_records`, `Math.from_files` and `Math.suite` bring real
problems. In English the prompt asks for ``\boxed{}``; the compact form is the language of the embedded policy.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dps_pyro.support.records import read_records
from dps_pyro.tasks.base import Prompt, PromptSet, Reward, split_of
from dps_pyro.tasks.grading.answers import last_box
from dps_pyro.tasks.grading.grader import Grader, shared_grader
from dps_pyro.tasks.mathematics.arithmetic import LEVELS, random_problem

__all__ = ["SUITES", "Math", "Suite"]

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""The sentence that is added to a problem in English."""


class Suite(NamedTuple):
    """The place of an evaluation suite on the hub, and the names of its fields."""

    source: str
    split: str
    problem: str
    answer: str


SUITES: Mapping[str, Suite] = {
    "MATH-500": Suite("HuggingFaceH4/MATH-500", "test", "problem", "answer"),
    "AIME24": Suite("HuggingFaceH4/aime_2024", "train", "problem", "answer"),
    "AMC23": Suite("math-ai/amc23", "test", "question", "answer"),
    "Minerva": Suite("math-ai/minervamath", "test", "question", "answer"),
    "OlympiadBench": Suite("Hothan/OlympiadBench:OE_TO_maths_en_COMP", "train", "question", "final_answer"),
}
"""The usual evaluation suites, by name."""

_PROBLEM = ("problem", "question", "prompt")
_ANSWER = ("answer", "final_answer", "expected_answer", "ground_truth", "solution")
_FEATURES = ("level", "subject", "type", "difficulty", "subfield", "source")
_PROBLEMS = {name.lower(): suite for name, suite in SUITES.items()}


class Math:
    r"""Mathematics with verifiable answers.

    The constructor generates problems of graded difficulty (`arithmetic.random_problem`); for others see
    `from_records`, `from_files` and `suite`.

    Args:
        levels: The levels of the problems, from 1 to 5, in equal shares.
        train_size: The number of training prompts.
        test_size: The number of test prompts. None of them is a training prompt.
        seed: The seed of the problems. The same arguments give the same problems on every platform.
        style: The language of the prompts. ``"compact"`` is that of the embedded policy, ``"3x+5=20:"``;
            ``"instruct"`` is English.
        grader: The grader of the answers. The default is the one that all tasks share.

    Raises:
        ValueError: An argument is out of its range, or there are too few distinct problems.
    """

    name = "math"
    groups = "level"
    """The feature that tells most about a prompt's difficulty."""
    presets = ("from_files", "suite")
    """Constructors that a configuration may name."""

    def __init__(
        self,
        *,
        levels: Any = (1, 2, 3, 4, 5),
        train_size: int = 1024,
        test_size: int = 256,
        seed: int = 0,
        style: Literal["compact", "instruct"] = "compact",
        grader: Grader | None = None,
    ) -> None:
        if style not in ("compact", "instruct"):
            raise ValueError(f"expected style 'compact' or 'instruct', got {style!r}")
        listed = isinstance(levels, Sequence) and not isinstance(levels, str) and len(levels) > 0
        if not listed or any(type(level) is not int or level not in LEVELS for level in levels):
            raise ValueError(f"expected levels among {', '.join(map(str, LEVELS))}, got {levels!r}")
        for name, whole, least in (("train_size", train_size, 0), ("test_size", test_size, 0), ("seed", seed, None)):
            if type(whole) is not int or (least is not None and whole < least):
                expected = "a whole number" if least is None else f"a whole number of at least {least}"
                raise ValueError(f"expected {name} to be {expected}, got {whole!r}")
        seen: set[str] = set()
        # The test split is drawn first: a larger training set leaves it as it was.
        test = _draw("test", sorted(set(levels)), test_size, seed, style, seen)
        train = _draw("train", sorted(set(levels)), train_size, seed, style, seen)
        self._fill({"train": train, "test": test}, grader, number=True)

    def _fill(
        self, splits: Mapping[str, PromptSet], grader: Grader | None, tolerance: float = 0.0, *, number: bool = False
    ) -> None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"expected tolerance in [0, 1), got {tolerance}")
        self._splits = dict(splits)
        self._grader = grader
        self._tolerance = tolerance
        self._number = number

    @classmethod
    def from_records(
        cls,
        train: Iterable[Mapping[str, Any]],
        test: Iterable[Mapping[str, Any]] | None = None,
        *,
        problem: str | None = None,
        answer: str | None = None,
        test_size: int = 256,
        seed: int = 0,
        grader: Grader | None = None,
        tolerance: float = 0.0,
    ) -> Math:
        r"""Make the task from problems with their answers, as MATH has them.

        A record is a dictionary: ``{"problem": ..., "answer": ..., "level": 3, "type": "Algebra"}``.

        Args:
            train: The records. If a record has no answer, the last ``\boxed{}`` of its ``solution`` is the answer.
            test: The held-out records. A record of `train` with the same problem is left out of `train`. If `test` is
                left out, `test_size` records of `train` (at most half) are held out, drawn by `seed`.
            problem: The field with the problem; ``problem``, ``question`` or ``prompt``, if left out.
            answer: The field with the answer; ``answer``, ``final_answer`` and the like, if left out.
            test_size: The number of records that are held out, where `test` is left out.
            seed: The seed that decides which ones are held out.
            grader: The grader of the answers. The default is the one that all tasks share.
            tolerance: The relative error that a numeric answer may have, in [0, 1); 0.01 for data sets of measured
                quantities, such as Minerva.

        Repeated problems are kept once. ``level``, ``subject``, ``type`` and the like become features.

        Raises:
            ValueError: A record has no problem or no answer, or there are no records.
        """
        known = _prompts(train, problem, answer)
        if test is not None:
            held_out = _prompts(test, problem, answer)
        else:
            order = sorted(known)
            random.Random(f"math/{seed}").shuffle(order)
            held_out = {name: known[name] for name in order[: min(test_size, len(known) // 2)]}
        rest = [prompt for name, prompt in known.items() if name not in held_out]
        if not rest and test is None:
            raise ValueError("expected at least one record, got none")
        made = cls.__new__(cls)
        made._fill({"train": PromptSet(rest), "test": PromptSet(held_out.values())}, grader, tolerance)
        return made

    @classmethod
    def from_files(
        cls,
        train: str | Path,
        test: str | Path | None = None,
        *,
        problem: str | None = None,
        answer: str | None = None,
        test_size: int = 256,
        seed: int = 0,
        tolerance: float = 0.0,
    ) -> Math:
        """Make the task as `from_records` does, from files, folders or data sets (see `read_records`), or suites.

        A suite is given by its name in `SUITES`.

        Raises:
            ValueError: A source cannot be read, or its records are no problems.
        """
        held_out = None if test is None else _source(test, "test")
        return cls.from_records(
            _source(train, "train"),
            held_out,
            problem=problem,
            answer=answer,
            test_size=test_size,
            seed=seed,
            tolerance=tolerance,
        )

    @classmethod
    def suite(cls, name: str, source: str | Path | None = None) -> Math:
        """Make an evaluation suite by its name in `SUITES`. All its problems belong to the test split.

        Args:
            name: The suite: ``"MATH-500"``, ``"AIME24"``, ``"AMC23"``, ``"Minerva"`` or ``"OlympiadBench"``.
            source: A file with its records, for a machine without a network.

        Raises:
            ValueError: There is no such suite, or it cannot be read.
        """
        if (suite := _PROBLEMS.get(name.lower())) is None:
            raise ValueError(f"expected a suite among {', '.join(SUITES)}, got {name!r}")
        records = read_records(suite.source, suite.split) if source is None else read_records(source)
        own = suite if all(suite.problem in record and suite.answer in record for record in records) else None
        problem, answer = (None, None) if own is None else (own.problem, own.answer)
        return cls.from_records([], records, problem=problem, answer=answer)

    def prompts(self, split: str) -> PromptSet:
        """The prompts of ``"train"`` or ``"test"``.

        Raises:
            ValueError: There is no such split.
        """
        return split_of(self._splits, split)

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """1.0 where the completion's final answer equals the prompt's, else 0.0, with the reason as `Grader` says it.

        For a generated problem only a plain number is right: an expression that is worth as much earns nothing.
        """
        return self.rewards([prompt], [completion])[0]

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward]:
        """The reward of each completion of its prompt, graded side by side."""
        grader = shared_grader() if self._grader is None else self._grader
        golds = [prompt.answer for prompt in prompts]
        return grader.grade_all(golds, completions, tolerance=self._tolerance, number=self._number)


def _draw(split: str, levels: Sequence[int], size: int, seed: int, style: str, seen: set[str]) -> PromptSet:
    """Draw a split's problems, none of them in `seen`, where they are put."""
    rng = random.Random(f"math/{split}/{seed}")
    prompts: list[Prompt] = []
    misses = 0
    while len(prompts) < size:
        problem = random_problem(rng, levels[len(prompts) % len(levels)])
        name = f"math:{problem.text}"
        if name in seen:
            if (misses := misses + 1) > 10_000:
                raise ValueError(
                    f"expected enough distinct problems for both splits, got {size - len(prompts)} too few"
                )
            continue
        seen.add(name)
        misses = 0
        if style == "compact":
            text = f"{problem.text}:"
        else:
            task = "Compute" if problem.kind == "arithmetic" else "Solve for x:"
            text = f"{task} ${problem.text}$. {INSTRUCTION}".replace("*", " \\cdot ")
        features: dict[str, float | str] = {"level": problem.level, "kind": problem.kind, "length": len(problem.text)}
        prompts.append(Prompt(name, text, problem.answer, features))
    rng.shuffle(prompts)
    return PromptSet(prompts)


def _source(source: str | Path, split: str) -> list[dict[str, Any]]:
    """The records of a suite by name, of a file, or of a split of a folder or a data set."""
    if (suite := _PROBLEMS.get(str(source).lower())) is not None:
        return read_records(suite.source, suite.split)
    return read_records(source, None if Path(source).is_file() else split)


def _prompts(records: Iterable[Mapping[str, Any]], problem: str | None, answer: str | None) -> dict[str, Prompt]:
    """Make the prompts, each problem once, by their ids."""
    prompts: dict[str, Prompt] = {}
    for place, record in enumerate(records):
        text = _field(record, (problem,) if problem else _PROBLEM, "a problem", place).strip()
        gold = _gold(record, (answer,) if answer else _ANSWER, place)
        name = f"math:{hashlib.sha256(' '.join(text.split()).encode()).hexdigest()[:16]}"
        features: dict[str, float | str] = {"length": len(text)}
        for key in _FEATURES:
            if isinstance(value := record.get(key), int | float | str) and value != "":
                features["subject" if key == "type" else key] = value
        prompts.setdefault(name, Prompt(name, f"{text}\n\n{INSTRUCTION}", gold, features))
    return prompts


def _field(record: Mapping[str, Any], names: Sequence[str], what: str, place: int) -> str:
    """The first of some fields that a record has, as text. The parts of a list (OlympiadBench) are joined."""
    for name in names:
        value = record.get(name)
        if isinstance(value, list | tuple) and value:
            value = ", ".join(map(str, value))
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, str | int | float) and str(value).strip():
            return str(value)
    raise ValueError(f"expected {what} ({', '.join(names)}) in record {place}, got {', '.join(record) or 'nothing'}")


def _gold(record: Mapping[str, Any], names: Sequence[str], place: int) -> str:
    """The gold answer: the content of its last box, if there is one, without dollar signs around it."""
    text = _field(record, names, "an answer", place).strip()
    inside = last_box(text)
    text = text if inside is None else inside.strip()
    whole = len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1]
    return text[1:-1].strip() if whole else text
