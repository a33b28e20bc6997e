"""Which row of verl's dataset a prompt is: stable names, made of what verl carries along with a rollout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["Rows", "features"]

CARRIED = ("data_source", "reward_model", "extra_info")
"""The columns of the dataset that verl 0.5 to 0.7 keep beside a rollout, to judge it."""


class Rows:
    """A stable name for each row: its `extra_info.index` where that tells the rows apart, else data source and index,
    else a digest of everything that verl carries along; the row's number where two rows are alike in all that.

    Args:
        dataset: verl's `RLHFDataset`, or any sequence of mappings with its columns.

    Attributes:
        ids: N distinct names.
        alike: Two rows that no carried column tells apart; None if there are none.
    """

    def __init__(self, dataset: Any) -> None:
        columns = list(_table(dataset, CARRIED))
        self._known = {key for row in columns for key in row["extra_info"] or {}}
        self.alike: tuple[int, int] | None = None
        for self._name in (_index, _source_and_index, _digest):
            names = [self._name(row) for row in columns]
            self.alike = _repeated(names)
            if self.alike is None and None not in names:
                self.ids = [str(name) for name in names]
                break
        else:
            self.ids = [str(row) for row in range(len(columns))]
        self._row = {name: row for row, name in enumerate(self.ids)}

    def require_distinct(self) -> None:
        """
        Raises:
            ValueError: two rows cannot be told apart by what verl carries along.
        """
        if self.alike is not None:
            one, other = self.alike
            raise ValueError(
                f"data.train_files: expected rows that differ in {', '.join(CARRIED)}, as verl carries nothing else "
                f"along with a rollout, but rows {one} and {other} are alike; give each its own extra_info.index"
            )

    def row_of(self, columns: Mapping[str, Any]) -> int:
        """The row that a rollout is of, by the dataset's columns that came with it.

        Raises:
            ValueError: the dataset has no such row.
        """
        carried = {column: columns.get(column) for column in CARRIED}
        # Reward managers write into extra_info.
        carried["extra_info"] = {k: v for k, v in (carried["extra_info"] or {}).items() if k in self._known}
        name = self._name(carried)
        if name not in self._row:
            raise ValueError(f"batch: expected rollouts of the dataset's prompts, got one of {name!r}")
        return self._row[name]


def features(dataset: Any, names: Sequence[str]) -> dict[str, list[float] | list[str]]:
    """Columns of what is known of each prompt: the dataset's own columns, or entries of its `extra_info`.

    Raises:
        ValueError: a row lacks one, or it is neither a number nor a string.
    """
    if not names:
        return {}
    table = list(_table(dataset, (*names, "extra_info")))
    return {name: _feature(table, name) for name in names}


def _feature(table: Sequence[Mapping[str, Any]], name: str) -> list[float] | list[str]:
    values = []
    for number, row in enumerate(table):
        own = row.get(name)
        value = (row.get("extra_info") or {}).get(name) if own is None else own
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            expected = "a number or a string in every row, as a column or in extra_info"
            raise ValueError(f"data.dps_pyro.features: expected {expected}, got {value!r} as {name!r} in row {number}")
        values.append(value)
    if any(isinstance(value, str) for value in values):
        return [str(value) for value in values]
    return [float(value) for value in values]


def _table(dataset: Any, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Some columns of each row; where the dataset has them in a table, without loading the prompts and images."""
    frame = getattr(dataset, "dataframe", None)
    if frame is not None and hasattr(frame, "select_columns"):
        there = [column for column in columns if column in frame.column_names]
        rows: Any = frame.select_columns(there) if there else [{}] * len(dataset)
    else:
        rows = (dataset[row] for row in range(len(dataset)))
    for row in rows:
        yield {column: row.get(column) for column in columns}


def _index(row: Mapping[str, Any]) -> str | None:
    index = (row["extra_info"] or {}).get("index")
    return None if index is None else str(index)


def _source_and_index(row: Mapping[str, Any]) -> str | None:
    index = _index(row)
    return None if index is None else f"{row['data_source']}/{index}"


def _digest(row: Mapping[str, Any]) -> str | None:
    kept = [row[column] or None for column in CARRIED]  # verl makes {} of an extra_info that is not there
    text = json.dumps(kept, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Arrays as lists, anything else as it prints."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _repeated(names: Sequence[str | None]) -> tuple[int, int] | None:
    first: dict[str | None, int] = {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            return first[name], row
    return None
