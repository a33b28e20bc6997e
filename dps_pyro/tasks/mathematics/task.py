r"""The mathematics task: problems with a final answer, which the grader compares.

`Math()` generates arithmetic and linear equations; `Math.from_records`, `Math.from_files` and `Math.suite` bring real
problems. In English the prompt asks for ``\boxed{}``; the compact form is the language of the embedded policy.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dps_pyro.support.files.records import read_records
from dps_pyro.tasks.base import Prompt, PromptSet, Reward, split_of
from dps_pyro.tasks.grading.grader import Grader, shared_grader
from dps_pyro.tasks.mathematics.arithmetic import LEVELS, random_problem
from dps_pyro.tasks.mathematics.problems import INSTRUCTION, prompts_of

__all__ = ["SUITES", "Math", "Suite"]


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
    notes: tuple[str, ...] = ()
    """Sentences about the records that were left out, for a trainer to print."""

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
        instruction: str | bool | None = None,
        test_size: int = 256,
        seed: int = 0,
        grader: Grader | None = None,
        tolerance: float = 0.0,
    ) -> Math:
        r"""Make the task from problems with their answers, as published data sets have them.

        A record is a dictionary: ``{"problem": ..., "answer": ..., "level": 3, "type": "Algebra"}``. The problem may be
        a conversation (a list of messages), whose last message is the user's.

        Args:
            train: The records. The answer is what follows the last ``####``, or else the last ``\boxed{}``, if the
                field has one of them. A record without a problem or an answer is left out, and `notes` counts it.
            test: The held-out records. A record of `train` with the same problem is left out of `train`. If `test` is
                left out, `test_size` records of `train` (at most half) are held out, drawn by `seed`.
            problem: The field with the problem, or a path to it; one of `dps_pyro.tasks.fields.PROBLEM`, if left out.
            answer: The field with the answer, or a path to it, such as ``reward_model.ground_truth``; one of
                `dps_pyro.tasks.fields.ANSWER`, if left out.
            instruction: The sentence that is added to every problem, to say where the answer goes. False adds none.
                If it is left out, a sentence that asks for ``\boxed{}`` is added to the problems that do not say it.
            test_size: The number of records that are held out, where `test` is left out.
            seed: The seed that decides which ones are held out.
            grader: The grader of the answers. The default is the one that all tasks share.
            tolerance: The relative error that a numeric answer may have, in [0, 1); 0.01 for data sets of measured
                quantities, such as Minerva.

        Repeated problems are kept once. The other columns become features (`dps_pyro.tasks.fields.known_of`).

        Raises:
            ValueError: There are no records, or none has a problem and an answer.
        """
        notes: list[str] = []
        known = prompts_of(train, problem, answer, instruction, notes)
        if test is not None:
            held_out = prompts_of(test, problem, answer, instruction, notes)
        else:
            order = sorted(known)
            random.Random(f"math/{seed}").shuffle(order)
            held_out = {name: known[name] for name in order[: min(test_size, len(known) // 2)]}
        rest = [prompt for name, prompt in known.items() if name not in held_out]
        if not rest and test is None:
            raise ValueError("expected at least one record, got none")
        made = cls.__new__(cls)
        made._fill({"train": PromptSet(rest), "test": PromptSet(held_out.values())}, grader, tolerance)
        made.notes = tuple(notes)
        return made

    @classmethod
    def from_files(
        cls,
        train: str | Path,
        test: str | Path | None = None,
        *,
        split: str | None = None,
        test_split: str | None = None,
        problem: str | None = None,
        answer: str | None = None,
        instruction: str | bool | None = None,
        test_size: int = 256,
        seed: int = 0,
        tolerance: float = 0.0,
    ) -> Math:
        """Make the task as `from_records` does, from files, folders or data sets (see `read_records`), or suites.

        A suite is given by its name in `SUITES`. `split` and `test_split` name the parts of the sources; of a folder or
        a data set they are ``train`` and ``test``, if left out. A `test_split` without `test` is a part of `train`.

        Raises:
            ValueError: A source cannot be read, or its records are no problems.
        """
        if test is None and test_split is not None:
            test = train
        held_out = None if test is None else _source(test, test_split, "test")
        return cls.from_records(
            _source(train, split, "train"),
            held_out,
            problem=problem,
            answer=answer,
            instruction=instruction,
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
        # Of several answers that are all right (Skywork) the best verdict counts.
        golds = [one.answer if isinstance(one.answer, tuple) else (one.answer,) for one in prompts]
        pairs = [(gold, said) for answers, said in zip(golds, completions, strict=True) for gold in answers]
        verdicts = iter(
            grader.grade_all(
                [gold for gold, _ in pairs],
                [said for _, said in pairs],
                tolerance=self._tolerance,
                number=self._number,
            )
        )
        return [max((next(verdicts) for _ in answers), key=lambda reward: reward.value) for answers in golds]


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


def _source(source: str | Path, split: str | None, usual: str) -> list[dict[str, Any]]:
    """The records of a suite by name, of a file, or of a split of a folder or a data set, `usual` if it is not said."""
    if (suite := _PROBLEMS.get(str(source).lower())) is not None:
        return read_records(suite.source, suite.split)
    return read_records(source, split if split or Path(source).expanduser().is_file() else usual)
