"""Result files: the one writer of machine, date and numbers."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dps_pyro.storage import atomic_path, strict_json

__all__ = ["SELECTION", "machine", "spread", "table", "today", "write"]

SELECTION: Mapping[str, Any] = {"dynamics": "SolvingProgress", "worth": "useful", "sharpness": 4.0}
"""How prompts were selected in results that were made before `Siblings` became the default."""


def machine() -> str:
    """The kind of machine and the versions that the numbers were made with."""
    python = f"{platform.machine()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} CPU cores, {python}, torch {torch.__version__}"


def today() -> str:
    """The date in UTC, as 2026-11-24."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON. The file is whole or not there; numbers that are not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        aside.write_text(strict_json(dict(result), indent=1) + "\n", encoding="utf-8")


def spread(values: Mapping[str, Any], digits: int = 3) -> str:
    """A mean and, if there are several values, their standard deviation, as 0.250 ± 0.012."""
    deviation = "" if values["sd"] is None else f" ± {values['sd']:.{digits}f}"
    return f"{values['mean']:.{digits}f}{deviation}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> str:
    """A Markdown table of cells below their headings, and a note below it."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), "", note])
