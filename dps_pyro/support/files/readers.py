"""Records from one file: CSV, JSON, JSON lines, Parquet, or a table of Arrow's.

The files come from elsewhere. Whatever is wrong with one is a `ValueError` that names the file, also nesting that is
too deep for the parser.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

__all__ = ["ENDINGS", "LONGEST_FIELD", "Record", "column_names", "read_file", "read_json"]

Record = dict[str, Any]

LONGEST_FIELD = 2**26
"""The longest field of a CSV file, in characters."""

_BATCH = 1024
"""The number of rows of a Parquet file that are in memory at a time."""


def read_file(path: Path) -> Iterator[Record]:
    """Yield a file's records, in their order, one dictionary per record.

    A conversation that stands alone in the place of a record (Open-Reasoner-Zero) becomes a record with that
    conversation as its only field, ``conversations``.

    Args:
        path: A file whose name ends in one of `ENDINGS`. A ``.json`` file may hold a list of records, a table of
            Weights & Biases (``{"columns": [...], "data": [[...], ...]}``), or one record per line.

    Raises:
        ValueError: The file has another ending, is damaged, or holds something else than records.
        OSError: The file cannot be read.
    """
    if path.suffix not in _READERS:
        raise ValueError(f"expected a file that ends in {', '.join(_READERS)}, got {str(path)!r}")
    for place, record in enumerate(_READERS[path.suffix](path)):
        yield _record(record, place, path)


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        ValueError: The file is no Parquet file.
        OSError: The file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:  # an error of Python's names the file
            return list(pq.read_schema(file).names)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: expected a Parquet file, got {_short(error)}") from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; that of a file with one value per line as the list of these values.

    Raises:
        ValueError: The file holds no JSON, or JSON that is nested too deeply.
        OSError: The file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if not str(error).startswith("Extra data"):  # what follows a whole value: there may be one per line
            raise ValueError(f"{path}: expected JSON, got {_short(error)}") from error
    return list(_json_lines(path))


def _record(found: Any, place: int, path: Path) -> Record:
    if isinstance(found, dict) and found and all(name.isdigit() for name in found):
        found = [found[name] for name in sorted(found, key=int) if found[name] is not None]  # the hub's form of a list
    if isinstance(found, list) and found and all(isinstance(message, dict) for message in found):
        return {"conversations": found}
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected records, as {{name: value}}, got {found!r:.60} at place {place}")
    return found


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column_names(path)  # says whether it is a Parquet file
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a whole Parquet file, got {_short(error)}") from error


def _arrow(path: Path) -> Iterator[Any]:
    """A table as `datasets` keeps it (a stream), or a file of Arrow's (Feather)."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                batches: Any = pa.ipc.open_stream(source)
            except pa.ArrowInvalid:
                source.seek(0)
                whole = pa.ipc.open_file(source)
                batches = (whole.get_batch(number) for number in range(whole.num_record_batches))
            for batch in batches:
                yield from batch.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a table of Arrow's, got {_short(error)}") from error


def _json_lines(path: Path) -> Iterator[Any]:
    """One value per line; empty lines are passed over."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError) as error:
                    raise ValueError(
                        f"{path}: expected JSON on every line, got {_short(error)} on line {number}"
                    ) from error


def _json(path: Path) -> Iterator[Any]:
    content = read_json(path)
    if isinstance(content, dict) and {"columns", "data"} <= content.keys():
        names, rows = content["columns"], content["data"]
        if not isinstance(names, list) or not isinstance(rows, list):
            raise ValueError(f"{path}: expected a table with lists of columns and data, got others")
        for row in rows:
            if not isinstance(row, list) or len(row) != len(names):
                raise ValueError(f"{path}: expected rows of {len(names)} values, got {row!r:.60}")
            yield dict(zip(map(str, names), row, strict=True))
    elif isinstance(content, list):
        yield from content
    elif isinstance(content, dict) and not any(isinstance(value, list) for value in content.values()):
        yield content  # one line of JSON lines
    else:
        raise ValueError(
            f"{path}: expected a list of records, a table with columns and data, or a record per line, got "
            f"{type(content).__name__}{' (give a split)' if isinstance(content, dict) else ''}"
        )


def _csv(path: Path) -> Iterator[Any]:
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:  # Excel writes a mark before the first name
            for number, row in enumerate(csv.DictReader(lines, delimiter=_delimiter(lines)), 2):
                if None in row:
                    raise ValueError(f"{path}: expected as many values as names, got more in record {number - 2}")
                yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected CSV in UTF-8, got {_short(error)}") from error
    finally:
        csv.field_size_limit(before)


def _delimiter(lines: TextIO) -> str:
    """What separates the names of a table: a comma, or what Excel writes where the comma is the decimal point."""
    names = lines.readline(LONGEST_FIELD)
    lines.seek(0)
    return next((mark for mark in (",", ";", "\t") if mark in names), ",")


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


_READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".arrow": _arrow,
}

ENDINGS = tuple(_READERS)
"""How the names of the files end that `read_file` reads."""
