"""Result files with a row for each model and each of a few ways, such as guides: written as the rows are made."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results

__all__ = ["Rows"]


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
            "date": results.today(),
            "machine": results.machine(),
            **self.settings,
            "rows": self.rows,
        }
        results.write(self.path, result)
