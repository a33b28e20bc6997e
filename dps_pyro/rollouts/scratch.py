"""Folders that live as long as the process that made them, however it ends.

A process that is killed outright removes nothing. So the folder's name says whose it is, and the next engine to start
removes those whose owner is gone: `dps-pyro-<kind>-<machine>-<pid>-<start>-<random>`. A process id alone would not do,
since ids are used again: the time the process started at tells two of the same id apart, and the machine (this boot of
it, and the container's own numbering of processes) tells apart those that only share the folder.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import zlib
from functools import cache
from pathlib import Path

__all__ = ["is_stale", "memory", "remove_stale", "scratch_folder", "started"]

_NAME = re.compile(r"dps-pyro-[a-z]+-(?P<machine>[0-9a-f]{8})-(?P<pid>[0-9]+)-(?P<start>[0-9]+)-.*", re.DOTALL)


def scratch_folder(kind: str, parent: Path | None = None) -> Path:
    """A new folder, which nobody else can read, in the system's folder for temporary files or in `parent`.

    Args:
        kind: lower-case letters: what it is for.
    """
    pid = os.getpid()
    prefix = f"dps-pyro-{kind}-{_machine()}-{pid}-{started(pid) or 0}-"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


def remove_stale() -> list[Path]:
    """Remove what processes left behind that are gone by now: this user's, of this machine, in the folders that
    `scratch_folder` and `memory` make them in.

    Returns:
        What was removed.
    """
    removed = []
    for parent in {Path(tempfile.gettempdir()), memory() or Path(tempfile.gettempdir())}:
        for folder in parent.glob("dps-pyro-*"):
            if is_stale(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def memory() -> Path | None:
    """A folder in memory, where there is one that this process can write to."""
    shared = Path("/dev/shm")  # noqa: S108 - new folders of our own in it
    return shared if sys.platform == "linux" and os.access(shared, os.W_OK) else None


def is_stale(folder: Path) -> bool:
    """Whether a folder was made by `scratch_folder`, by this user on this machine, in a process that is gone."""
    named = _NAME.fullmatch(folder.name)
    if named is None or named["machine"] != _machine():
        return False
    try:
        if folder.lstat().st_uid != os.getuid():
            return False
    except OSError:  # another engine that starts was faster
        return False
    start = started(int(named["pid"]))
    return start is None or (start != int(named["start"]) and int(named["start"]) != 0)


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did (0 where the system does not say); None where there
    is no such process."""
    try:
        # The name, in parentheses, may hold anything; the state is the first field after it, the start the 20th.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _answers(pid)
    except OSError:
        return 0
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _answers(pid: int) -> int | None:
    """Without /proc (macOS): 0 where there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return 0
    return 0


@cache
def _machine() -> str:
    """Eight digits for this boot of this machine and this numbering of processes."""
    parts = [sys.platform]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:  # another system than Linux
        parts.append("")
    return f"{zlib.crc32('|'.join(parts).encode()):08x}"
