"""Records from data files and data sets: one dictionary a problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["read_records"]


def read_records(source: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """Read records, one per problem, in the order of their source.

    Args:
        source: a file (`.jsonl`, `.json`, `.parquet`), a folder of files named after their splits (`train.jsonl`,
            `train-00000-of-00002.parquet`, also below `data/`, as data sets on the hub are laid out), or a data set's
            id on the hub, ``"owner/name"`` or, with a configuration, ``"owner/name:configuration"``. What is there as
            a file or a folder is read as one.
        split: which part of a folder, of a data set, or of a JSON file that maps splits to lists of records. For a
            folder or a data set, None means ``"train"``. A file without splits is one part, and expects None.

    Returns:
        Values are as the source has them: of JSON as Python reads them; of Parquet as Python's own numbers, strings,
        lists and dictionaries (an image is a dictionary with ``bytes``); of a data set as `datasets` decodes them (an
        image is a PIL image).

    Raises:
        ValueError: there is no such source or split, it cannot be reached, or it holds something else than records.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path, split or "train")
    if path.is_file():
        return _file(path, split)
    if path.suffix in _READERS or path.is_absolute() or str(source).startswith((".", "~")):
        raise ValueError(
            f"expected a data file, a folder of them or a data set's id, got {str(source)!r}: no such file"
        )
    return _data_set(str(source), split or "train")


def _folder(folder: Path, split: str) -> list[dict[str, Any]]:
    """The records of a folder's split, its files in the order of their names."""
    for place in (folder, folder / "data"):
        named = {f"{split}{suffix}" for suffix in _READERS}
        found = sorted(
            file
            for file in (place.iterdir() if place.is_dir() else ())
            if file.name in named or (file.name.startswith(f"{split}-") and file.suffix in _READERS)
        )
        if found:
            return [record for file in found for record in _file(file, None)]
    expected = ", ".join(f"{split}{suffix}" for suffix in _READERS)
    raise ValueError(f"expected {expected} or {split}-*.parquet in {str(folder)!r}, got none of them")


def _file(path: Path, split: str | None) -> list[dict[str, Any]]:
    """The records of a file."""
    if path.suffix not in _READERS:
        raise ValueError(f"expected a file that ends in {', '.join(_READERS)}, got {str(path)!r}")
    records = _READERS[path.suffix](path)
    if isinstance(records, dict) and split is not None:
        if split not in records:
            raise ValueError(f"{path}: expected a split among {', '.join(map(repr, records))}, got {split!r}")
        records, split = records[split], None
    if split is not None:
        raise ValueError(f"{path}: expected no split of a file of records, got {split!r}")
    if not isinstance(records, list):
        hint = " (give a split)" if isinstance(records, dict) else ""
        raise ValueError(f"{path}: expected a list of records{hint}, got {type(records).__name__}")
    for place, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: expected records, as {{name: value}}, got {record!r:.60} at place {place}")
    return records


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from error


def _jsonl(path: Path) -> Any:
    """A record a line; empty lines are passed over."""
    records = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                records += [json.loads(line)] if line.strip() else []
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise ValueError(f"{path}: expected JSON on every line, got {error} on line {number}") from error
    return records


def _parquet(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: expected Parquet, got {error}") from error


_READERS: dict[str, Callable[[Path], Any]] = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}


def _data_set(name: str, split: str) -> list[dict[str, Any]]:
    """The records of a data set on the hub, or in `datasets`' cache."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{name!r} is no file here; to read it as a data set from the hub: pip install 'dps_pyro[hub]'"
        ) from error
    owner_and_name, _, configuration = name.partition(":")
    try:
        return list(datasets.load_dataset(owner_and_name, configuration or None, split=split))
    # `datasets` lets through what its parts raise: errors of the network, of the hub and of the data files.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"expected a data file, or the id of a data set that can be read (split {split!r}), got {name!r}: {reason}."
            " Without a network, download it where there is one, and give the files"
        ) from error
