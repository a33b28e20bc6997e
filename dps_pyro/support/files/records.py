"""Records from data files and data sets: one dictionary per problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dps_pyro.support.files.readers import ENDINGS, read_file, read_json

__all__ = ["read_records"]

_PLACES = (".", "data", "main", "default")
"""The folders below a data set's folder in which its files may lie, as on the hub."""


def read_records(source: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """Read records, one per problem, in the order of their source.

    Args:
        source: A file (`.jsonl`, `.json`, `.parquet`, `.csv`, `.arrow`), a folder of files named after their splits
            (`train.jsonl`, `train-00000-of-00002.parquet`, also below `data/`, as data sets on the hub are laid out)
            or with a single file, a folder that `datasets.save_to_disk` wrote, or a data set's id on the hub,
            ``"owner/name"`` or, with a configuration, ``"owner/name:configuration"``. What is there as a file or a
            folder is read as one; ``~`` is the home folder.
        split: Which part of a folder, of a data set, or of a JSON file that maps splits to lists of records. For a
            folder or a data set, None means ``"train"``. A file without splits is one part, and expects None.

    Returns:
        Values are as the source has them: of JSON as Python reads them; of CSV as text; of Parquet and Arrow as
        Python's own numbers, strings, lists and dictionaries (an image is a dictionary with ``bytes``); of a data set
        as `datasets` decodes them (an image is a PIL image).

    Raises:
        ValueError: There is no such source or split, it cannot be reached, or it holds something else than records.
        OSError: A file cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, split or "train")
    if path.is_file():
        return _file(path, split)
    if path.suffix in ENDINGS or path.is_absolute() or str(source).startswith((".", "~")):
        raise ValueError(
            f"expected a data file, a folder of them or a data set's id, got {str(source)!r}: no such file"
        )
    return _data_set(str(source), split or "train")


def _folder(folder: Path, split: str) -> list[dict[str, Any]]:
    """The records of a folder's split, its files in the order of their names."""
    if (folder / "dataset_dict.json").is_file() and (folder / split).is_dir():
        return _folder(folder / split, "train")
    if split == "train" and (folder / "state.json").is_file():  # of datasets.save_to_disk, one split
        saved = sorted(folder.glob("data-*.arrow"))
        return [record for file in saved for record in read_file(file)]
    single: list[Path] = []
    for place in (folder / name for name in _PLACES):
        files = sorted(place.iterdir()) if place.is_dir() else []
        files = [file for file in files if file.suffix in ENDINGS and file.is_file()]
        found = [file for file in files if _is_of(file, split)]
        if found:
            return [record for file in found for record in read_file(file)]
        single += files
    if split == "train" and len(single) == 1:
        return _file(single[0], None)
    expected = ", ".join(f"{split}{suffix}" for suffix in ENDINGS)
    there = ", ".join(file.name for file in single[:5]) or "none of them"
    raise ValueError(f"expected {expected} or {split}-*.parquet in {str(folder)!r}, got {there}")


def _is_of(file: Path, split: str) -> bool:
    """Whether a file's name says that it is of the split: ``train.json``, ``train-00000-of-00002.parquet``, or as
    `datasets` keeps it, ``gsm8k-train.arrow``."""
    return file.stem == split or file.name.startswith(f"{split}-") or file.stem.endswith(f"-{split}")


def _file(path: Path, split: str | None) -> list[dict[str, Any]]:
    """The records of a file."""
    if split is None:
        return list(read_file(path))
    parts = read_json(path) if path.suffix == ".json" else None
    if not isinstance(parts, dict) or not all(isinstance(part, list) for part in parts.values()):
        raise ValueError(f"{path}: expected no split of a file of records, got {split!r}")
    if split not in parts:
        raise ValueError(f"{path}: expected a split among {', '.join(map(repr, parts))}, got {split!r}")
    for place, record in enumerate(parts[split]):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: expected records, as {{name: value}}, got {record!r:.60} at place {place}")
    return list(parts[split])


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
