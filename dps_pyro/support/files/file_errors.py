"""What an error of the file system means to a user: a sentence with the file and the way out."""

from __future__ import annotations

import errno
import os

__all__ = ["said_of"]

_WAYS = {
    errno.EISDIR: "is a folder, where a file belongs; move it away, and give the command again",
    errno.ENOTDIR: "has a file in its path, where a folder belongs; move that file away, and give the command again",
    errno.EEXIST: "is there already, as something else; move it away, and give the command again",
    errno.EACCES: "may not be read or written by this user; change its permissions or its owner",
    errno.EPERM: "may not be changed by this user; change its permissions or its owner",
    errno.ENOENT: "is not there",
    errno.EFBIG: "is larger than this user's limit for a file (ulimit -f), or than the file system takes",
    errno.ELOOP: "is a link that leads to itself; remove it, and give the command again",
    errno.EROFS: "lies on a file system that can only be read; choose another place",
}
"""What is wrong with a file, and what to do, by the number of the system's error."""


def said_of(error: OSError) -> str:
    """Say an error in a sentence that names the file and the way out.

    An error without a file, or of another kind, is said as it is.
    """
    file = error.filename if error.filename2 is None else error.filename2  # a file is renamed to the second one
    if file is None or error.errno is None:
        return str(error)
    name = os.fsdecode(file) if isinstance(file, str | bytes) else str(file)
    way = _WAYS.get(error.errno)
    return f"{name} {way}" if way is not None else f"{name}: {error.strerror}"
