"""Logged completions, for people to read: `pandas.read_parquet("runs/mine/completions")` is one table of them all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from dps_pyro.storage import atomic_path
from dps_pyro.tasks import Prompt
from dps_pyro.trainers.step.groups import Groups

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["log_completions"]

THUMBNAIL = 160
"""The longest side of a logged picture, in pixels: enough to see what was asked."""


def log_completions(folder: Path, step: int, prompts: Sequence[Prompt], groups: Groups, values: Tensor) -> Path:
    """Write a step's completions to `completions/step-<step>.parquet`, one per row.

    Args:
        folder: the run's.
        step: the training step, from 0 on.
        prompts: G, those of the groups.
        groups: the G groups.
        values: float [G, n], their advantages; 0 where the update left the group out.

    If prompts have pictures there is a column `images`, with small PNGs beside the first completion of each prompt.
    """
    import pyarrow as pa
    from pyarrow import parquet

    sizes, there = groups.sizes.tolist(), groups.there
    owners = [prompt for prompt, size in zip(prompts, sizes, strict=True) for _ in range(size)]
    columns = {
        "step": pa.array([step] * len(owners), pa.int64()),
        "prompt_id": [prompt.id for prompt in owners],
        "prompt": list(map(_writable, (prompt.text for prompt in owners))),
        "completion": list(map(_writable, groups.rollouts.texts)),
        "reward": groups.rewards[there].tolist(),
        "reason": groups.reasons,
        "advantage": values[there].tolist(),
        "tokens": pa.array(groups.rollouts.completion_mask.sum(1).tolist(), pa.int64()),
        "finish": groups.rollouts.finish,
    }
    if any(prompt.images for prompt in prompts):
        small = [[thumbnail(image) for image in prompt.images] for prompt in prompts]
        shown = [
            pictures if place == 0 else [] for pictures, size in zip(small, sizes, strict=True) for place in range(size)
        ]
        columns["images"] = pa.array(shown, pa.list_(pa.binary()))
    table = pa.table(columns)
    path = folder / "completions" / f"step-{step:06d}.parquet"
    with atomic_path(path) as aside:
        parquet.write_table(table, aside)
    return path


def _writable(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def thumbnail(image: Image) -> bytes:
    """A PNG of a picture, at most `THUMBNAIL` pixels a side; a small one as it is."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
