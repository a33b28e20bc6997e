"""Records from files of several formats."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["LONGEST_FIELD", "Record"]

Record = dict[str, Any]

LONGEST_FIELD = 2**26
"""Characters of one field of a CSV file."""


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except pa.ArrowInvalid as error:
        raise ValueError(f"history: expected a Parquet file, got {path}: {error}") from error


def _records(path: Path) -> Iterator[Record]:
    if path.suffix not in _READERS:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(_READERS)}")
    for record in _READERS[path.suffix](path):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: expected records, got {str(record)[:80]!r}")
        yield record


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    _parquet_columns(path)  # says whether it is one
    yield from pq.read_table(path).to_pylist()


def _jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}: expected JSON in line {number}: {error}") from error


def _json(path: Path) -> Iterator[Any]:
    """A table of W&B's, `{"columns": [...], "data": [[...], ...]}`, or a list of records."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON: {error}") from error
    if isinstance(content, dict) and {"columns", "data"} <= content.keys():
        yield from (dict(zip(content["columns"], row, strict=True)) for row in content["data"])
    elif isinstance(content, list):
        yield from content
    else:
        raise ValueError(f"{path}: expected a table with columns and data, or a list of records")


def _csv(path: Path) -> Iterator[Any]:
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            yield from csv.DictReader(lines)
    except csv.Error as error:
        raise ValueError(f"{path}: expected CSV: {error}") from error
    finally:
        csv.field_size_limit(before)


_READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
}
