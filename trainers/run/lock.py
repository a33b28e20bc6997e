"""One process at a time in a run folder: a lock that lasts as long as the run and dies with its process."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dps_pyro.storage import parse_json

__all__ = ["LOCK", "OWNER", "claimed"]

LOCK = ".lock"
"""The file that is locked. It stays in the folder and says nothing: the lock itself is the kernel's."""

OWNER = ".lock-owner.json"
"""Who holds the lock, for the message to everybody else; a killed process leaves it, and the next run replaces it."""


@contextmanager
def claimed(path: Path | None, *, resume: bool = False) -> Iterator[Path]:
    """Hold the run folder at `path` for this process, and make it where it is missing.

    The lock is the kernel's (flock, through `filelock`), so that it ends with the process, however that ends: nothing
    has to be cleaned up after a kill. If the file system has no such locks, `filelock` uses the existence of the
    file and removes it for owners that are gone.

    Args:
        path: the folder; None takes the next free one among runs/001, runs/002, ...
        resume: whether a run in the folder is to go on, for which the folder has to be named.

    Yields:
        The folder. If nothing but the lock is in it at the end, it goes again, with the parents that were made for it.

    Raises:
        ValueError: another run holds the folder, and the message has its process id and its machine; or no folder was
            named.
        OSError: the folder or the lock cannot be made.
    """
    if path is None and resume:
        raise ValueError("resume: expected --out, the folder of the run to go on with")
    if path is None:
        path, made = _next_free()
    else:
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(_refusal(path)) from error
    try:
        own = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        # Not aside first: whoever reads half of it reads it again, and a kill leaves no other file behind.
        (path / OWNER).write_text(json.dumps(own) + "\n", encoding="utf-8")
        yield path
    finally:
        with suppress(OSError):
            (path / OWNER).unlink(missing_ok=True)
            if made:
                _remove_empty(path, made)
        lock.release()


def _next_free() -> tuple[Path, list[Path]]:
    """A new folder below runs/, which nobody else gets, since making a folder is atomic; and the folders that were made
    for it."""
    parent = Path("runs")
    above = [] if parent.exists() else [parent]
    parent.mkdir(exist_ok=True)
    while True:
        taken = [int(entry.name) for entry in parent.glob("*") if entry.name.isdecimal()]
        path = parent / f"{max(taken, default=0) + 1:03d}"
        with suppress(FileExistsError):
            path.mkdir()
            return path, [path, *above]


def _remove_empty(path: Path, made: list[Path]) -> None:
    """Remove a folder in which there is nothing but the lock, and the empty parents that were made for it."""
    if {entry.name for entry in path.iterdir()} <= {LOCK}:
        (path / LOCK).unlink()
        for folder in made:
            folder.rmdir()


def _refusal(path: Path) -> str:
    owner = _owner(path)
    holder = "another process" if owner is None else f"process {owner['pid']} on {owner['host']}"
    since = "" if owner is None else f", since {owner['since']}"
    return (
        f"out: {path} is in use: {holder} is training there{since}. Wait until it has ended, or stop it; for a run of "
        "its own give another --out"
    )


def _owner(path: Path) -> dict[str, object] | None:
    """Who holds the lock. It says so an instant after it has it: until then the file is missing, or of an owner that
    was killed."""
    for _ in range(40):
        with suppress(OSError, ValueError):
            owner = parse_json((path / OWNER).read_text(encoding="utf-8"))
            if isinstance(owner, dict) and {"pid", "host", "since"} <= owner.keys() and _lives(owner):
                return owner
        time.sleep(0.05)
    return None


def _lives(owner: dict[str, object]) -> bool:
    """Whether the owner's process is there, as far as this machine can tell."""
    if owner["host"] == socket.gethostname():
        try:
            os.kill(int(str(owner["pid"])), 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's
            return True
    return True
