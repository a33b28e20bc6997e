"""Files that are whole or not there: write aside, fsync, rename. No pickle anywhere."""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["atomic_path", "load_state", "save_state", "strict_json"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder to; it takes the name `path` when the block ends well.

    A reader sees the old content or the new, never a part: the new is flushed to disk before the rename, and the
    rename after it. When the block raises, what was written aside is removed and `path` stays as it was. (Only a
    folder in place of a folder, where the system cannot exchange two names in one go, is missing for a moment.)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(aside)
    try:
        yield aside
        _flush(aside)
        if path.is_dir() and aside.is_dir():  # a folder cannot be renamed over a folder that is not empty
            _swap(aside, path)
        else:
            aside.replace(path)
        _sync(path.parent)
    finally:
        _remove(aside)


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a nested dictionary into an existing folder: tensors to `state.safetensors`, the rest to `state.json`.

    Args:
        folder: an existing folder; make it whole with `atomic_path`.
        state: dictionaries (string keys) of tensors, and of values that JSON keeps exactly.

    A tensor is named by its JSON pointer (RFC 6901), such as `/tracker/filter/belief`.
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
    state: dict[str, Any] = _whole(folder / "state.json", lambda path: json.loads(path.read_text(encoding="utf-8")))
    for name, tensor in _whole(folder / "state.safetensors", load_file).items():
        *parents, leaf = (part.replace("~1", "/").replace("~0", "~") for part in name.split("/")[1:])
        place = state
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = tensor
    return state


def _whole(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except Exception as error:  # safetensors, json and the file system each raise their own
        raise ValueError(f"{path}: expected a whole saved state, got {type(error).__name__}: {error}") from error


def _split(state: dict[str, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for key, value in state.items():
        pointer = f"{prefix}/{key.replace('~', '~0').replace('/', '~1')}"
        if isinstance(value, Tensor):
            # clone: safetensors refuses tensors that share memory, which views of one buffer do
            tensors[pointer] = value.detach().cpu().contiguous().clone()
        elif isinstance(value, dict):
            rest[key] = _split(value, pointer, tensors)
        else:
            rest[key] = value
    return rest


def _swap(aside: Path, path: Path) -> None:
    """Exchange two folders' names, on Linux in one go."""
    if sys.platform == "linux":
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        rename = getattr(ctypes.CDLL(None), "renameat2", None)  # not in every C library
        if rename is not None and rename(here, os.fsencode(aside), here, os.fsencode(path), exchange) == 0:
            return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    _remove(old)
    path.replace(old)
    aside.replace(path)
    old.replace(aside)


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


def strict_json(value: Any, indent: int | None = None) -> str:
    """JSON as the standard has it: a number that is not finite becomes null, where Python would write NaN."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
