"""What the policy wrote: prompts of the newest step that was logged, with their pictures, and what came of them."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Answer", "Asked", "Sample", "read_sample"]

_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = 200_000  # bytes: what the trainer writes is far below


class Answer(NamedTuple):
    """A completion, and what it earned."""

    text: str
    reward: float
    reason: str
    times: int
    """How many completions of the group were the same."""


class Asked(NamedTuple):
    """A prompt, its pictures as ``data:`` addresses, its mean reward, and its completions from the best down."""

    id: str
    text: str
    pictures: tuple[str, ...]
    mean: float
    answers: tuple[Answer, ...]


class Sample(NamedTuple):
    """Some prompts of a training step."""

    step: int
    prompts: tuple[Asked, ...]


def read_sample(folder: Path, prompts: int = 6, answers: int = 3) -> Sample | None:
    """The newest readable step of a run's `completions/`; None where there is none.

    Args:
        folder: the run's.
        prompts: the most prompts shown: those whose completions earned the most differing rewards first.
        answers: the most differing completions a prompt, the best and the worst among them.
    """
    for path in sorted((folder / "completions").glob("step-*.parquet"), reverse=True):
        if (rows := _rows(path)) is not None:
            groups: dict[str, list[dict[str, Any]]] = {}
            for row in rows:
                groups.setdefault(str(row["prompt_id"]), []).append(row)
            asked = [_asked(name, group, answers) for name, group in groups.items()]
            asked.sort(key=lambda one: (abs(one.mean - 0.5), one.id))  # half right is what taught most
            return Sample(int(rows[0]["step"]), tuple(asked[:prompts]))
    return None


def _rows(path: Path) -> list[dict[str, Any]] | None:
    """A logged step; None where the file is damaged, empty or something else."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError):
        return None
    needed = ("step", "prompt_id", "prompt", "completion", "reward", "reason")
    return rows if rows and all(name in rows[0] for name in needed) else None


def _asked(name: str, group: Sequence[dict[str, Any]], answers: int) -> Asked:
    counted: dict[tuple[str, float, str], int] = {}
    for row in group:
        reward = float(row["reward"]) if row["reward"] is not None else math.nan
        key = (str(row["completion"]), reward, str(row["reason"]))
        counted[key] = counted.get(key, 0) + 1
    ranked = sorted((Answer(*key, times) for key, times in counted.items()), key=lambda one: (-one.reward, -one.times))
    shown = ranked if len(ranked) <= answers else [*ranked[: answers - 1], ranked[-1]]
    known = [float(row["reward"]) for row in group if row["reward"] is not None]
    pictures = [image for row in group for image in row.get("images") or ()]
    return Asked(
        id=name,
        text=str(group[0]["prompt"]),
        pictures=tuple(address for image in pictures[:4] if (address := _address(image))),
        mean=sum(known) / len(known) if known else math.nan,
        answers=tuple(shown),
    )


def _address(image: Any) -> str:
    """A PNG as an address that a page can hold; empty for anything else."""
    if not isinstance(image, bytes) or not image.startswith(_PNG) or len(image) > _LARGEST:
        return ""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
