"""A few processes that compare answers, each of which may be killed at any time."""

from __future__ import annotations

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
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

__all__ = ["Pool", "Query"]

_SCRIPT = Path(__file__).with_name("grader_worker.py")
_START = 120.0
"""Seconds for a worker to start: it imports a computer algebra system."""


class Query(NamedTuple):
    """Is `answer` the same as `gold`?"""

    gold: str
    answer: str


class Pool:
    """Workers that start when they are first needed, and again after they were killed.

    Args:
        size: the most workers at work at once, >= 1.
        seconds: processor time for a query; a query that also waits in a system call is killed after as much again,
            and two seconds, of wall-clock time.
        memory: a worker's address space, in bytes.

    A pool may be used from any thread, one at a time, and after a fork (the child starts workers of its own).
    """

    def __init__(self, size: int, seconds: float, memory: int) -> None:
        self.size = size
        self.seconds = seconds
        self.wall_seconds = 2 * seconds + 2
        self.memory = memory
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._forget()

    def _forget(self) -> None:
        """Start without workers: those of a parent process are the parent's."""
        self._lock = threading.Lock()
        self._workers = []
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _close, self._workers, self._owner)

    def run(self, queries: Sequence[Query]) -> list[str]:
        """A verdict for each query, as `grader_worker` says it; also ``"timed out"`` and ``"failed: <how>"`` for those
        whose worker was killed or died.

        Raises:
            RuntimeError: a worker does not start.
        """
        if self._owner != os.getpid():
            self._forget()
        with self._lock:
            try:
                return self._run(queries)
            except BaseException:
                _close(self._workers, self._owner)  # what they are at is of no interest any more
                raise

    def close(self) -> None:
        """End all workers. They start again when they are needed."""
        with self._lock:
            _close(self._workers, self._owner)

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [worker.process.pid for worker in self._workers]

    def _run(self, queries: Sequence[Query]) -> list[str]:
        verdicts: dict[int, str] = {}
        waiting = deque(range(len(queries)))
        again: set[int] = set()
        while len(verdicts) < len(queries):
            idle = [worker for worker in self._workers if worker.ready and worker.at is None]
            starting = sum(not worker.ready for worker in self._workers)
            for worker in idle[: len(waiting)]:
                place = waiting.popleft()
                worker.ask(place, queries[place], time.monotonic() + self.wall_seconds + 1)
            while len(self._workers) < self.size and len(waiting) > starting:
                self._workers.append(_Worker(self.seconds, self.wall_seconds, self.memory))
                starting += 1
            for worker in self._heard():
                asked = worker.at
                reply = worker.reply()
                if reply is None:
                    self._workers.remove(worker)
                    how = worker.end()
                    if asked is None:
                        raise RuntimeError(f"expected the grader's worker to start ({_SCRIPT.name}), got: {how}")
                    if how == "timed out" or asked in again:
                        verdicts[asked] = how
                    else:  # it may have died of something else, while it was idle
                        again.add(asked)
                        waiting.append(asked)
                elif asked is not None and reply != "":
                    verdicts[asked] = reply
        return [verdicts[place] for place in range(len(queries))]

    def _heard(self) -> list[_Worker]:
        """The workers that have something to say, are dead, or are out of time."""
        now = time.monotonic()
        busy = [worker for worker in self._workers if worker.at is not None or not worker.ready]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            patience = max(min((worker.deadline for worker in busy), default=now) - now, 0)
            heard = [key.data for key, _ in selector.select(patience)]
        late = [worker for worker in busy if worker.deadline <= time.monotonic() and worker not in heard]
        for worker in late:
            worker.process.send_signal(signal.SIGALRM if worker.ready else signal.SIGKILL)
        return heard + late


class _Worker:
    """A process, and what it is at."""

    def __init__(self, seconds: float, wall_seconds: float, memory: int) -> None:
        self.complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self.process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-P", str(_SCRIPT), str(seconds), str(wall_seconds), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            bufsize=0,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.ready = False
        self.at: int | None = None
        self.deadline = time.monotonic() + _START
        self._heard = b""

    def ask(self, place: int, query: Query, deadline: float) -> None:
        """Hand it a query."""
        self.at, self.deadline = place, deadline
        with suppress(BrokenPipeError):  # it died while it was idle: its output has ended, too, which will be seen
            self.input.write(json.dumps(query).encode() + b"\n")

    def reply(self) -> str | None:
        """What it says; "" for nothing yet, None where it is dead."""
        try:
            part = os.read(self.output.fileno(), 65536)
        except OSError:
            part = b""
        if not part:
            return None
        self._heard += part
        if not self._heard.endswith(b"\n"):
            return ""
        text: str = json.loads(self._heard)
        self._heard, self.at = b"", None
        if not self.ready:
            self.ready = True
            return ""
        return text

    def end(self) -> str:
        """End it; in words how it ended."""
        for pipe in (self.input, self.output):
            pipe.close()
        if self.process.poll() is None and self.at is None:
            self.process.kill()
        code = self.process.wait()
        self.complaints.seek(0)
        said = self.complaints.read()[-500:].decode(errors="replace").strip()
        self.complaints.close()
        if code == -signal.SIGALRM:
            return "timed out"
        return f"failed: exit status {code}" + (f", {said}" if said else "")


def _close(workers: list[_Worker], owner: int) -> None:
    """Kill workers; those of another process are left alone."""
    if owner != os.getpid():
        return
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.at = None
        worker.end()
    workers.clear()
