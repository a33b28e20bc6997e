"""A module of ours in a process of its own, asked one line of JSON at a time, which can be killed when it hangs."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from typing import IO, Any

__all__ = ["DiedError", "Killable", "end_with_parent"]


class DiedError(Exception):
    """The process ended by itself; the message says how."""


def end_with_parent(parent: int | None = None) -> None:
    """Start a thread that ends this process when the one that started it is gone, however that ended.

    Args:
        parent: the process id of the one that started it, where it may be gone already; if left out, it is there now.
    """
    expected = os.getppid() if parent is None else parent

    def follow() -> None:
        while os.getppid() == expected:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class Killable:
    """`python -m module arguments...`, which answers one line of JSON to each that it is sent.

    Its standard output is for answers alone; what it says on standard error is kept for the message of `DiedError`.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            bufsize=0,
        )
        self._end = weakref.finalize(self, _end, self._process, self._complaints)

    def ask(self, question: Any, seconds: float) -> dict[str, Any] | None:
        """The answer; None after `seconds`, when the process has been killed. Without a question (None), what it says
        next by itself.

        Raises:
            DiedError: it ended.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        if question is not None:
            with contextlib.suppress(BrokenPipeError):  # it is dead, which will be seen
                _write(process.stdin, json.dumps(question).encode() + b"\n")
        deadline, heard = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not heard.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    self.close()
                    return None
                part = os.read(process.stdout.fileno(), 65536)
                if not part:
                    raise DiedError(self._last_words())
                heard += part
        answer: dict[str, Any] = json.loads(heard)
        return answer

    def close(self) -> None:
        """End it; it is not to be asked again."""
        self._end()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._complaints.seek(0)
        said = self._complaints.read()[-300:].decode(errors="replace").strip().rpartition("\n")[2]
        self.close()
        return f"exit status {code}" + (f", {said}" if said else "")


def _write(pipe: IO[bytes], content: bytes) -> None:
    """All of it: an unbuffered pipe may take a part."""
    view = memoryview(content)
    while view:
        view = view[pipe.write(view) :]


def _end(process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, complaints):
        if pipe is not None:
            pipe.close()
