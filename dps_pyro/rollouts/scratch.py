"""Folders that live as long as the process that made them, however it ends.

A process that is killed outright removes nothing. It holds a lock on a file in each of its folders, though, and the
kernel drops the lock with the process. The next engine to start removes the folders whose lock nobody holds.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

__all__ = ["is_stale", "memory", "remove", "remove_stale", "scratch_folder"]

_PREFIX = "dps-pyro-"
_LOCK = ".lock"
_YOUNG = 3600.0  # seconds in which a folder without a lock may be about to get it

_held: dict[Path, BaseFileLock] = {}


def scratch_folder(kind: str, parent: Path | None = None) -> Path:
    """Make a new folder that nobody else can read, in the system's folder for temporary files or in `parent`.

    Args:
        kind: lower-case letters that say what the folder is for.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-", dir=parent))
    lock = FileLock(folder / _LOCK, timeout=0, thread_local=False)
    lock.acquire()
    _held[folder] = lock
    return folder


def remove(folder: Path) -> None:
    """Remove a folder of this process. Files that cannot be removed stay."""
    shutil.rmtree(folder, ignore_errors=True)
    if (lock := _held.pop(folder, None)) is not None:
        lock.release()


def remove_stale() -> list[Path]:
    """Remove this user's folders of processes that are gone, from the folders that `scratch_folder` and `memory` use.

    Returns:
        The folders that were removed.
    """
    removed = []
    for parent in {Path(tempfile.gettempdir()), memory() or Path(tempfile.gettempdir())}:
        for folder in parent.glob(f"{_PREFIX}*"):
            if is_stale(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def memory() -> Path | None:
    """A folder in memory, if there is one that this process can write to."""
    shared = Path("/dev/shm")  # noqa: S108 - new folders of our own in it
    return shared if sys.platform == "linux" and os.access(shared, os.W_OK) else None


def is_stale(folder: Path) -> bool:
    """Whether a folder was made by `scratch_folder`, by this user, in a process that is gone."""
    try:
        about = folder.lstat()
        if about.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
            return False
        if not (folder / _LOCK).is_file():  # killed before it had the lock, or somebody else's
            return not any(folder.iterdir()) and time.time() - about.st_mtime > _YOUNG
        lock = FileLock(folder / _LOCK, timeout=0, thread_local=False)
        lock.acquire()
    except Timeout:
        return False
    except OSError:  # another engine that starts was faster
        return False
    lock.release()
    return True
