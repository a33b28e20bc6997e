"""The completions on the page: the best and the worst of a few prompts, at the first and the last step kept."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Sample", "Step", "read_samples"]

_PROMPTS = 4
_COLUMNS = ("prompt_id", "prompt", "completion", "reward", "reason")


_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = 200_000
"""The largest size of a picture in bytes. The trainer's thumbnails are far smaller."""


class Sample(NamedTuple):
    """One completion. All texts are untrusted. `pictures` holds the images of the prompt as ``data:`` addresses, beside
    the first completion of the prompt that is shown."""

    prompt: str
    completion: str
    reward: float
    reason: str
    pictures: tuple[str, ...] = ()


class Step(NamedTuple):
    """The completions of one training step that are shown; steps count from 0."""

    step: int
    samples: list[Sample]


def read_samples(folder: Path, notes: list[str]) -> list[Step]:
    """Choose what is shown of a run's `completions/`: two steps, one, or none.

    Args:
        folder: the run folder.
        notes: gets a note about each file that could not be read.
    """
    steps = {
        int(file.stem[5:]): file for file in (folder / "completions").glob("step-*.parquet") if file.stem[5:].isdigit()
    }
    found = [(step, _read(steps[step], notes)) for step in sorted({min(steps), max(steps)})] if steps else []
    tables = [(step, rows) for step, rows in found if rows]
    shared = set.intersection(*({row["prompt_id"] for row in rows} for _, rows in tables)) if tables else set()
    return [Step(step, _chosen(rows, shared)) for step, rows in tables]


def _read(file: Path, notes: list[str]) -> list[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        pictured = "images" in parquet.read_schema(file).names
        table = parquet.read_table(file, columns=[*_COLUMNS, "images"] if pictured else list(_COLUMNS))
        if missing := set(_COLUMNS) - set(table.column_names):
            raise ValueError(f"expected columns {', '.join(_COLUMNS)}, got none named {', '.join(sorted(missing))}")
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        notes.append(f"{file.name} could not be read ({type(error).__name__}) and was left out.")
        return []
    return rows


def _chosen(rows: Sequence[Mapping[str, Any]], shared: set[str]) -> list[Sample]:
    """Choose the best and the worst completion of a few prompts: first of prompts that both steps have, then of prompts
    whose rewards differ, then of the others."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)

    def rank(name: str) -> tuple[bool, bool]:
        rewards = [row["reward"] for row in groups[name]]
        return name not in shared, max(rewards) == min(rewards)

    samples = []
    for name in sorted(groups, key=rank)[:_PROMPTS]:
        ordered = sorted(groups[name], key=lambda row: -row["reward"])
        shown = [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered
        pictures = _addresses([image for row in groups[name] for image in row.get("images") or ()])
        for row in shown:
            samples.append(Sample(row["prompt"], row["completion"], float(row["reward"]), row["reason"], pictures))
            pictures = ()
    return samples


def _addresses(images: Sequence[Any]) -> tuple[str, ...]:
    """Make addresses for the page from a few PNGs; other content is left out."""
    pngs = [image for image in images if isinstance(image, bytes) and image.startswith(_PNG) and len(image) < _LARGEST]
    return tuple("data:image/png;base64," + base64.b64encode(png).decode("ascii") for png in pngs[:4])
