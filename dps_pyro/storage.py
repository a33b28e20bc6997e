"""Files that are whole or not there: write aside, fsync, rename. No pickle anywhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["atomic_path", "load_state", "save_state"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder to; it takes the name `path` when the block ends well.

    A reader sees the old content or the new, never a part: the new is flushed to disk before the rename, and the
    rename after it. When the block raises, what was written aside is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(aside)
    try:
        yield aside
        _flush(aside)
        if path.is_dir() and aside.is_dir():  # a folder cannot be renamed over a folder that is not empty
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            _remove(old)
            os.replace(path, old)
            os.replace(aside, path)
            _remove(old)
        else:
            os.replace(aside, path)
        _sync(path.parent)
    finally:
        _remove(aside)


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a nested dictionary into an existing folder: tensors to `state.safetensors`, the rest to `state.json`.

    Args:
        folder: an existing folder; make it whole with `atomic_path`.
        state: dictionaries (string keys, no dots) of tensors, and of values that JSON keeps exactly.
    """
    tensors: dict[str, Tensor] = {}
    rest = _split(state, "", tensors)
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(rest), encoding="utf-8")


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "state.safetensors")
    except Exception as error:  # safetensors, json and the file system each raise their own
        raise ValueError(f"{folder}: expected a whole saved state, got {type(error).__name__}: {error}") from error
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        place = state
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = tensor
    return state


def _split(state: dict[str, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for key, value in state.items():
        if "." in key:
            raise ValueError(f"state: expected keys without dots, got {prefix}{key!r}")
        if isinstance(value, Tensor):
            # clone: safetensors refuses tensors that share memory, which views of one buffer do
            tensors[f"{prefix}{key}"] = value.detach().cpu().contiguous().clone()
        elif isinstance(value, dict):
            rest[key] = _split(value, f"{prefix}{key}.", tensors)
        else:
            rest[key] = value
    return rest


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else [path]:
        _sync(file)
    if path.is_dir():
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


