"""Geometry with a picture: rendered diagrams, and Geometry3k from the hub or from files.

The value asked for can only be found from the picture: the text beside a rendered diagram holds none of its numbers.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from dps_pyro.support.files.records import read_records
from dps_pyro.tasks.base import Prompt, PromptSet, Reward, split_of
from dps_pyro.tasks.geometry.bitmap import draw
from dps_pyro.tasks.geometry.diagrams import KINDS, LEVELS, Problem, random_problem
from dps_pyro.tasks.grading.grader import shared_grader

__all__ = ["Geometry", "side_of"]

_INSTRUCT = "\nReason step by step, and put the final answer within \\boxed{}."

Style = Literal["compact", "instruct"]


def side_of(problem: Problem) -> str:
    """The split that a rendered problem belongs to, ``"train"`` or ``"test"`` (one in five): decided by its kind and
    the numbers it shows, in any order and layout, so that no test problem is a training problem drawn another way."""
    key = f"{problem.kind}:{','.join(map(str, sorted(problem.marks)))}"
    return "train" if hashlib.sha256(key.encode()).digest()[0] % 5 else "test"


class Geometry:
    r"""The geometry task, on rendered diagrams. `Geometry.geometry3k` and `Geometry.from_records` make real ones.

    Args:
        kinds: The kinds of problems, by their names in `dps_pyro.tasks.geometry.diagrams.KINDS`, in equal shares; all
            kinds, if left out.
        levels: The sizes of the numbers: 1 (angles in tens, lengths of a digit), 2 and 3 (any whole number).
        train_size: The number of training prompts.
        test_size: The number of test prompts.
        seed: The seed of the problems. The same arguments give the same problems on every platform.
        style: The language of the prompts. ``"compact"`` is that of the embedded policy, which answers
            ``180-50-60=70``. ``"instruct"`` asks for reasoning and an answer within ``\boxed{}``.

    Raises:
        ValueError: An argument is out of its range, or there are too few distinct problems of that kind.
    """

    name = "geometry"
    groups = "kind"
    """The feature that tells most about a prompt's difficulty."""
    presets = ("geometry3k",)

    def __init__(
        self,
        *,
        kinds: Sequence[str] | None = None,
        levels: Sequence[int] = LEVELS,
        train_size: int = 1024,
        test_size: int = 256,
        seed: int = 0,
        style: Style = "compact",
    ) -> None:
        chosen = list(KINDS) if kinds is None else list(kinds)
        if isinstance(kinds, str) or not chosen or any(kind not in KINDS for kind in chosen):
            raise ValueError(f"expected kinds among {', '.join(KINDS)}, got {kinds!r}")
        if not levels or any(level not in LEVELS for level in levels):
            raise ValueError(f"expected levels among 1, 2 and 3, got {levels!r}")
        for name, whole, least in (("train_size", train_size, 0), ("test_size", test_size, 0), ("seed", seed, None)):
            if type(whole) is not int or (least is not None and whole < least):
                expected = "a whole number" if least is None else f"a whole number of at least {least}"
                raise ValueError(f"expected {name} to be {expected}, got {whole!r}")
        self.style = _style(style)
        self._workings: dict[str, str] = {}
        # The test split is drawn first: a larger training set leaves it as it was.
        test = self._draw("test", test_size, seed, chosen, list(levels))
        self._splits = {"train": self._draw("train", train_size, seed, chosen, list(levels)), "test": test}

    @classmethod
    def from_records(
        cls,
        train: Sequence[Mapping[str, Any]],
        test: Sequence[Mapping[str, Any]],
        *,
        folder: str | Path = ".",
        style: Style = "instruct",
    ) -> Geometry:
        """Make the task from records with ``images``, ``problem`` (``<image>`` where one is shown) and ``answer``.

        Args:
            train: The records of the training split. A problem that is given twice counts once. An image is a PIL
                image, a dictionary with ``bytes`` or ``path``, or a path.
            test: The records of the test split. A problem of both splits is a test problem.
            folder: The folder where relative paths of images begin.
            style: The language of the prompts, as for the class.

        Raises:
            ValueError: A record lacks a field, or one of its images cannot be read.
        """
        task = cls(train_size=0, test_size=0, style=style)
        held_out = {prompt.id: prompt for prompt in (_real(record, Path(folder), style) for record in test)}
        learnt = {prompt.id: prompt for prompt in (_real(record, Path(folder), style) for record in train)}
        rest = [prompt for key, prompt in learnt.items() if key not in held_out]
        task._splits = {"train": PromptSet(rest), "test": PromptSet(held_out.values())}
        return task

    @classmethod
    def geometry3k(
        cls, source: str | Path = "hiyouga/geometry3k", *, test_share: float = 0.2, style: Style = "instruct"
    ) -> Geometry:
        """Geometry3k (arXiv 2105.04165) as published on the hub, or files in its format.

        Args:
            source: A data set's id on the hub, a folder with a file a split, or one file (JSONL with images beside it,
                Parquet). See `dps_pyro.tasks.read_records`.
            test_share: The share of the problems that is held out from one file without splits, always the same ones.
            style: The language of the prompts, as for the class.

        Raises:
            ValueError: There is no such source, or it holds something else.
        """
        path = Path(source)
        folder = path if path.is_dir() else path.parent
        if not path.is_file():
            return cls.from_records(
                read_records(source, "train"), read_records(source, "test"), folder=folder, style=style
            )
        if not 0 < test_share < 1:
            raise ValueError(f"expected test_share between 0 and 1, got {test_share}")
        records = read_records(path)
        order = sorted(records, key=lambda record: hashlib.sha256(_stamp(record).encode()).digest())
        held_out = max(1, round(test_share * len(order)))
        return cls.from_records(order[held_out:], order[:held_out], folder=folder, style=style)

    def prompts(self, split: str) -> PromptSet:
        """The prompts of ``"train"`` or ``"test"``.

        Raises:
            ValueError: There is no such split.
        """
        return split_of(self._splits, split)

    def solution(self, prompt: Prompt) -> str:
        """Return the working of a rendered problem of either split, for tests and supervised warm starts.

        Raises:
            KeyError: The prompt belongs to neither split, or it is no rendered problem.
        """
        return self._workings[prompt.id]

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        r"""1.0 for the right value, else 0.0.

        In the compact style the answer is what follows the last ``=``; it is ``"correct"``, a ``"wrong value"``,
        ``"empty"`` or ``"not a number"``. In the other, `dps_pyro.tasks.grading.grader.Grader` finds and compares it.
        """
        return self.rewards([prompt], [completion])[0]

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward]:
        """Judge many completions at once."""
        if self.style == "instruct":
            return self._graded(prompts, completions)
        return [_compact(prompt.answer, text) for prompt, text in zip(prompts, completions, strict=True)]

    def _graded(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward]:
        """Grade by the final answer. The answer of a rendered problem is a number, and only a plain one is right."""
        rendered = [prompt.id.startswith("geometry:") for prompt in prompts]
        found: dict[int, Reward] = {}
        for number in (True, False):
            places = [place for place, one in enumerate(rendered) if one == number]
            golds = [str(prompts[place].answer) for place in places]
            rewards = shared_grader().grade_all(golds, [completions[place] for place in places], number=number)
            found |= zip(places, rewards, strict=True)
        return [found[place] for place in range(len(prompts))]

    def _draw(self, split: str, size: int, seed: int, kinds: list[str], levels: list[int]) -> PromptSet:
        rng = random.Random(f"geometry/{split}/{seed}")
        prompts: list[Prompt] = []
        misses = 0
        while len(prompts) < size:
            level = rng.choice(levels)
            problem = random_problem(rng, kinds[len(prompts) % len(kinds)], level)
            prompt = _rendered(problem, level, self.style)
            if side_of(problem) == split and prompt.id not in self._workings:
                self._workings[prompt.id] = problem.working
                prompts.append(prompt)
                misses = 0
            elif (misses := misses + 1) > 10_000:
                raise ValueError(
                    f"expected enough distinct problems for the {split} split, got {len(prompts)} of {size}"
                )
        rng.shuffle(prompts)
        return PromptSet(prompts)


def _rendered(problem: Problem, level: int, style: Style) -> Prompt:
    """Make the prompt of a rendered problem. Its id is made of what determines the picture."""
    marks, layout = (",".join(map(str, numbers)) for numbers in (problem.marks, problem.layout))
    return Prompt(
        id=f"geometry:{problem.kind}:{marks}:{layout}",
        text=f"<image>{problem.question}" + (_INSTRUCT if style == "instruct" else ""),
        answer=str(problem.answer),
        features={
            "family": problem.kind.partition("/")[0],
            "kind": problem.kind,
            "level": level,
            "steps": problem.steps,
            "largest": max(*problem.marks, problem.answer),
        },
        images=(draw(problem.figure),),
    )


def _style(style: Any) -> Style:
    if style not in ("compact", "instruct"):
        raise ValueError(f"expected style 'compact' or 'instruct', got {style!r}")
    return style  # type: ignore[no-any-return]


def _compact(answer: str, completion: str) -> Reward:
    said = completion[-1000:].rpartition("=")[2].strip()
    if not said:
        return Reward(0.0, "empty")
    if not (said.isascii() and said.isdecimal() and len(said) <= 9):
        return Reward(0.0, "not a number")
    return Reward(1.0, "correct") if int(said) == int(answer) else Reward(0.0, "wrong value")


def _stamp(record: Mapping[str, Any]) -> str:
    return f"{record.get('id', '')}|{record.get('problem')}|{record.get('answer')}"


def _real(record: Mapping[str, Any], folder: Path, style: Style) -> Prompt:
    """Make the prompt of a record."""
    for field, kind in (("images", Sequence), ("problem", str), ("answer", str | int | float)):
        if not isinstance(record.get(field), kind) or (field == "images" and isinstance(record[field], str)):
            raise ValueError(
                f"expected records with images (a list), problem and answer, got {field} in {record!r:.200}"
            )
    images = tuple(_image(image, folder) for image in record["images"])
    digest = hashlib.sha256(f"{record['problem']}|{record['answer']}".encode())
    for image in images:
        digest.update(repr(image.size).encode() + image.tobytes())
    given = {"goal": record.get("goal"), "graph": record.get("graph")}
    named = {name: "+".join(map(str, value)) for name, value in given.items() if isinstance(value, list) and value}
    return Prompt(
        id=f"geometry3k:{digest.hexdigest()[:16]}",
        text=record["problem"] + (_INSTRUCT if style == "instruct" else ""),
        answer=str(record["answer"]),
        features={"characters": len(record["problem"]), "images": len(images), **named},
        images=images,
    )


def _image(image: Any, folder: Path) -> Image.Image:
    """An image of a record, as RGB."""
    try:
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        if isinstance(image, Mapping) and image.get("bytes") is not None:
            with Image.open(io.BytesIO(image["bytes"])) as opened:
                return opened.convert("RGB")
        with Image.open(folder / (image["path"] if isinstance(image, Mapping) else image)) as opened:
            return opened.convert("RGB")
    except (OSError, KeyError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"expected an image, its bytes or a path below {str(folder)!r}, got {image!r:.80}") from error
