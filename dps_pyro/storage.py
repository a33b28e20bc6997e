"""Files that are whole or not there: write aside, flush to disk, rename. Nothing is pickled.

An error of the file system always names the file that it is about, because the user has to do something about it: a
full disk is reported by the system without one.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = [
    "atomic_path",
    "checksum",
    "checksums",
    "load_state",
    "naming",
    "not_as_written",
    "parse_json",
    "save_state",
    "strict_json",
]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the file system inside the block name `path`, where they name no file of their own.

    The libraries that write tensors and tables raise exceptions of their own for a full disk; those become an
    `OSError` too.

    Raises:
        OSError: a file cannot be read or written; its message names one.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, _reason(error.errno), str(path)) from error
    except Exception as error:
        number = next((one for one in _FULL if os.strerror(one) in str(error) or f"os error {one}" in str(error)), None)
        if number is None:
            raise
        raise OSError(number, _reason(number), str(path)) from error


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def _reason(number: int) -> str:
    """What the system says, and the way out where the disk is full."""
    way = "; free some space, then resume" if number in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{os.strerror(number)}{way}"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder to; it takes the name `path` when the block ends well.

    A reader sees the old content or the new, never a part: the new is flushed to disk before the rename, and the
    rename after it. When the block raises, what was written aside is removed and `path` is not changed. (Only a
    folder in place of a folder, where the system cannot exchange two names in one go, is missing for a moment.)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(aside)
    try:
        with naming(path):
            yield aside
            _flush(aside)
            if path.is_dir() and aside.is_dir():  # a folder cannot be renamed over a folder that is not empty
                _swap(aside, path)
            else:
                aside.replace(path)
            _sync(path.parent)
    finally:
        _remove(aside)


def checksum(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """The checksum of each of these files, by its name relative to `folder`, in the order of the names."""
    return {str(file.relative_to(folder)): checksum(file) for file in sorted(files)}


def parse_json(text: str | bytes) -> Any:
    """What a text in JSON holds.

    Raises:
        ValueError: it is no JSON, or is nested too deeply for the parser.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def not_as_written(folder: Path, sums: Mapping[str, str]) -> str | None:
    """The first file of `sums` in `folder` that is missing, cannot be read or has another checksum; None if all are as
    they were written. A name that leads out of the folder counts as missing.

    Raises:
        PermissionError: a file may not be read, so that nobody can tell whether it is whole.
    """
    for name, expected in sums.items():
        path = folder / name
        try:
            whole = ".." not in path.parts and not Path(name).is_absolute() and checksum(path) == expected
        except PermissionError:
            raise
        except OSError:
            whole = False
        if not whole:
            return name
    return None


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
    state: dict[str, Any] = _whole(folder / "state.json", lambda path: parse_json(path.read_text(encoding="utf-8")))
    for name, tensor in _whole(folder / "state.safetensors", load_file).items():
        *parents, leaf = (part.replace("~1", "/").replace("~0", "~") for part in name.split("/")[1:])
        place = state
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"{folder / 'state.json'}: expected a dictionary at {parent}, got {place!r:.40}")
        place[leaf] = tensor
    return state


def _whole(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        found = read(path)
        if not isinstance(found, dict):
            raise ValueError(f"{type(found).__name__} in the place of a dictionary")
        return found
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
