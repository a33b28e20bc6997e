"""Result files with a row for each model and each of a few ways, such as guides: written as the rows are made."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dps_pyro.storage import atomic_path

__all__ = ["Rows", "machine"]


class Rows:
    """The rows so far. Those that the file has already stay as they are, unless their models are to be made anew.

    Args:
        path: the file; None: nothing is kept.
        what: what the rows say.
        settings: what they were made with, as it stands in the file: other rows are refused.
        ways: column -> its values, in the order of the file.
        anew: models whose rows in the file are left out.
    """

    def __init__(
        self,
        path: Path | None,
        what: str,
        settings: Mapping[str, Any],
        ways: tuple[str, Sequence[str]],
        anew: Collection[str] = (),
    ) -> None:
        self.path, self.what, self.settings = path, what, dict(settings)
        self.column, self.ways = ways
        self.rows: list[dict[str, Any]] = []
        if path is not None and path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if {name: before.get(name) for name in self.settings} != self.settings:
                raise SystemExit(f"{path}: expected results of {self.settings}, got others; remove it first")
            self.rows = [row for row in before["rows"] if row["model"] not in anew]

    def missing(self, models: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each model and way that has no row yet."""
        known = {(row["model"], row[self.column]) for row in self.rows}
        return ((name, way) for name in models for way in self.ways if (name, way) not in known)

    def add(self, row: dict[str, Any]) -> None:
        """Keep one more."""
        self.rows = sorted([*self.rows, row], key=lambda one: (one["model"], self.ways.index(one[self.column])))
        if self.path is None:
            return
        result = {
            "what": self.what,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            **self.settings,
            "rows": self.rows,
        }
        with atomic_path(self.path) as aside:
            aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """What the numbers were made on."""
    python = f"{platform.machine()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} CPU cores, {python}, torch {torch.__version__}"
