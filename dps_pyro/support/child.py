"""Programs of ours in processes of their own, which can be killed when they hang.

`Child` starts one and holds its pipes; what goes through them is for its user to say. `Killable` asks one line of JSON
at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from typing import IO, Any

__all__ = ["Child", "DiedError", "Killable", "end_with_parent"]


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


class Child:
    """A Python process of ours, which is killed when this object is gone, or when this process ends.

    Args:
        *arguments: The arguments of Python: `-m`, a module and its arguments, or a file and its arguments.
        keeps_complaints: Whether what it says on standard error is kept for `complaints`; otherwise it goes to the
            standard error of this process.
        own_group: Whether it leads a process group, and is killed with all processes of that group.
        environment: Variables in addition to those of this process.

    Attributes:
        pid: The id of the process.
        input, output: The unbuffered pipes to it and from it.
    """

    def __init__(
        self,
        *arguments: str,
        keeps_complaints: bool = True,
        own_group: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._complaints = tempfile.TemporaryFile() if keeps_complaints else None  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            bufsize=0,
            env={**os.environ, **(environment or {})},
            process_group=0 if own_group else None,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self.pid, self.input, self.output = self._process.pid, self._process.stdin, self._process.stdout
        self._own_group = own_group
        self._end = weakref.finalize(self, _end, self._process, own_group, self._complaints, os.getpid())

    def send(self, content: bytes) -> None:
        """Write everything; an unbuffered pipe may take a part at a time.

        Raises:
            BrokenPipeError: The process has ended, which the end of its output says, too.
        """
        view = memoryview(content)
        while view:
            view = view[self.input.write(view) :]

    def kill(self) -> None:
        """Kill the process, and its group if it leads one. `close` is still to be called."""
        _kill(self._process, self._own_group)

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit status, which is negative for a signal."""
        return self._process.wait()

    def complaints(self, last: int) -> str:
        """The last characters that it said on standard error; nothing after `close`."""
        if self._complaints is None or self._complaints.closed:
            return ""
        self._complaints.seek(0)
        return self._complaints.read()[-last:].decode(errors="replace").strip()

    def close(self) -> None:
        """Kill the process if it runs, and close the pipes."""
        self._end()


class Killable(Child):
    """`python -m module arguments...`, which answers one line of JSON to each that it is sent.

    Its standard output is for answers alone; what it says on standard error is kept for the message of `DiedError`.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        super().__init__("-m", module, *arguments)

    def ask(self, question: Any, seconds: float) -> dict[str, Any] | None:
        """The answer; None after `seconds`, when the process has been killed. Without a question (None), what it says
        next by itself.

        Raises:
            DiedError: it ended.
        """
        if question is not None:
            with contextlib.suppress(BrokenPipeError):  # it is dead, which will be seen
                self.send(json.dumps(question).encode() + b"\n")
        deadline, heard = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.output, selectors.EVENT_READ)
            while not heard.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    self.close()
                    return None
                part = os.read(self.output.fileno(), 65536)
                if not part:
                    raise DiedError(self._last_words())
                heard += part
        answer: dict[str, Any] = json.loads(heard)
        return answer

    def _last_words(self) -> str:
        code, said = self.wait(), self.complaints(300).rpartition("\n")[2]
        self.close()
        return f"exit status {code}" + (f", {said}" if said else "")


def _kill(process: subprocess.Popen[bytes], group: bool) -> None:
    if not group:
        process.kill()
        return
    if process.returncode is not None:  # its end has been seen, and its number may be another's by now
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], group: bool, complaints: IO[bytes] | None, owner: int) -> None:
    if owner != os.getpid():  # a fork of the process that started it
        return
    if process.poll() is None:
        _kill(process, group)
    process.wait()
    for pipe in (process.stdin, process.stdout, complaints):
        if pipe is not None:
            pipe.close()
