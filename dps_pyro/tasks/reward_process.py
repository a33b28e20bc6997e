"""A user's reward function in a process of its own, which may be killed: it can raise, hang, print or crash there."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import IO, Any

from dps_pyro.tasks.base import Reward

__all__ = ["RewardError", "RewardProcess"]

_START = 120.0
"""Seconds for the process to start: the function's file may import much."""


class RewardError(Exception):
    """A completion could not be judged: its reward raised, ran out of time, died, or was no reward."""


class RewardProcess:
    """Calls `function(completion, record)` elsewhere, within a time limit.

    The function returns a number in 0..1 (a bool will do), or such a number and a reason of a few words.

    Args:
        function: path/to/file.py:name.
        seconds: the time that a call may take, > 0. The process is then killed, and another started for the next call.

    Raises:
        ValueError: the file has no such function, or cannot be imported.
    """

    def __init__(self, function: str, seconds: float) -> None:
        path, _, name = function.rpartition(":")
        if not Path(path).is_file() or not name:
            raise ValueError(f"reward: expected path/to/file.py:function, got {function!r}")
        if not seconds > 0:
            raise ValueError(f"reward_timeout: expected more than 0 seconds, got {seconds}")
        self.function = f"{Path(path).resolve()}:{name}"
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] | None = None
        self._start()

    def __call__(self, completion: str, record: Any) -> Reward:
        """Judge one completion; `record` is anything that JSON holds.

        Raises:
            RewardError: it could not be judged; the message says why, and how the function raised.
        """
        if self._process is None:
            self._start()
        answer = self._ask({"completion": completion, "record": record}, self.seconds)
        if answer is None:
            raise RewardError(f"reward took more than {self.seconds:g} s")
        if "raised" in answer:
            raise RewardError(f"reward raised {answer['raised']}")
        return Reward(float(answer["value"]), str(answer["reason"]))

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._process is not None and self._complaints is not None:
            _end(self._process, self._complaints)
            self._process = self._complaints = None

    def _start(self) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(  # noqa: S603 - our own module, which loads the function that the user named
            [sys.executable, "-m", "dps_pyro.tasks.reward_worker", self.function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            bufsize=0,
        )
        weakref.finalize(self, _end, self._process, self._complaints)
        try:
            answer = self._ask(None, _START)
        except RewardError as error:
            raise ValueError(f"reward: expected {self.function} to start, got: {error}") from error
        if answer is None or "raised" in answer:
            self.close()
            reason = f"more than {_START:g} s to start" if answer is None else answer["raised"]
            raise ValueError(f"reward: expected a function, path/to/file.py:function, got {self.function!r}: {reason}")

    def _ask(self, question: Any, seconds: float) -> dict[str, Any] | None:
        """The answer, a line of JSON; None after `seconds`, when the process has been killed."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
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
                    raise RewardError(f"reward's process died: {self._last_words()}")
                heard += part
        answer: dict[str, Any] = json.loads(heard)
        return answer

    def _last_words(self) -> str:
        assert self._process is not None and self._complaints is not None
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
