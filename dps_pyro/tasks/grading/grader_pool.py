"""A few processes that grade, each of which may be killed at any time."""

from __future__ import annotations

import json
import os
import selectors
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from dps_pyro.support.child import Child

__all__ = ["Pool", "Query", "Reply"]

_SCRIPT = Path(__file__).with_name("grader_worker.py")
_START = 120.0
"""Seconds after which a worker that has not started and uses no processor time is killed."""
_KILLED = f"failed: exit status {-signal.SIGKILL}"
_TRIES = 3
"""How many workers in one call may be killed before they are ready: a machine may be out of memory for a moment."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Query(NamedTuple):
    """A request, as `grader_worker` describes it: what to do, with which gold answer and which text."""

    kind: Literal["read", "number", "compare"]
    gold: str
    text: str
    tolerance: float = 0.0


class Reply(NamedTuple):
    """The verdict on a query, the final answer where it was to be read, and the processor time that was spent, in
    seconds."""

    verdict: str
    answer: str = ""
    seconds: float = 0.0


class Pool:
    """Workers that start when they are first needed, and again after they were killed.

    Args:
        size: The number of workers at work at once, >= 1.
        seconds: The processor time for a query, > 0. A worker that neither answers nor uses the processor for twice as
            long, and two seconds, is killed; one that waits for its turn on a busy machine is not.
        memory: A worker's address space, in bytes.

    A pool may be used from any thread, one at a time, and after a fork, where the child starts workers of its own.
    """

    def __init__(self, size: int, seconds: float, memory: int) -> None:
        self.size = size
        self.seconds = seconds
        self.patience = 2 * seconds + 2
        self.memory = memory
        self._forget()

    def _forget(self) -> None:
        """Start without workers: those of a parent process are the parent's."""
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _close, self._workers, self._owner)

    def run(self, queries: Sequence[Query], seconds: float | None = None) -> list[Reply]:
        """A reply to each query.

        The verdict is ``"timed out"`` or ``"failed: <how>"`` for a query whose worker was killed or died, twice.

        Args:
            queries: What is asked.
            seconds: The processor time for each query, if it is not the pool's.

        Raises:
            RuntimeError: A worker does not start, or it cannot import the computer algebra system.
        """
        if self._owner != os.getpid():
            self._forget()
        with self._lock:
            try:
                return self._run(queries, self.seconds if seconds is None else seconds)
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
        return [worker.pid for worker in self._workers]

    def _run(self, queries: Sequence[Query], seconds: float) -> list[Reply]:
        replies: dict[int, Reply] = {}
        waiting = deque(range(len(queries)))
        again: set[int] = set()
        killed = 0  # workers that something outside killed before they were ready
        while len(replies) < len(queries):
            idle = [worker for worker in self._workers if worker.ready and worker.at is None]
            starting = sum(not worker.ready for worker in self._workers)
            for worker in idle[: len(waiting)]:
                place = waiting.popleft()
                worker.ask(place, queries[place], seconds, self.patience)
            while len(self._workers) < self.size and len(waiting) > starting:
                self._workers.append(_Worker(self.memory))
                starting += 1
            for worker in self._heard():
                asked = worker.at
                reply = worker.reply()
                if reply is None:
                    self._workers.remove(worker)
                    how = worker.end()
                    if asked is None and how == _KILLED and killed < _TRIES:
                        killed += 1
                        continue
                    if asked is None:
                        raise RuntimeError(f"expected the grader's worker to start ({_SCRIPT.name}), got: {how}")
                    if how == "timed out" or asked in again:
                        replies[asked] = Reply(how, "", seconds)
                    else:  # it may have died of something else, or have been stopped
                        again.add(asked)
                        waiting.append(asked)
                elif asked is not None and worker.at is None:
                    if reply.verdict == "no computer algebra":
                        raise RuntimeError(
                            f"expected the grader's worker to start ({_SCRIPT.name}), got: {reply.answer}"
                        )
                    replies[asked] = reply
        return [replies[place] for place in range(len(queries))]

    def _heard(self) -> list[_Worker]:
        """The workers that have something to say, are dead, or stand still."""
        now = time.monotonic()
        busy = [worker for worker in self._workers if worker.at is not None or not worker.ready]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            patience = max(min((worker.deadline for worker in busy), default=now) - now, 0)
            heard = [key.data for key, _ in selector.select(patience)]
        for worker in busy:
            if worker.deadline <= time.monotonic() and worker not in heard and worker.stands_still(self.patience):
                worker.kill()
                heard.append(worker)
        return heard


class _Worker(Child):
    """A process, and what it is at. It is killed with the fork that compares."""

    def __init__(self, memory: int) -> None:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        super().__init__("-P", str(_SCRIPT), str(memory), own_group=True, environment=one_thread)
        self.ready = False
        self.at: int | None = None
        self.deadline = time.monotonic() + _START
        self._spent = 0.0
        self._heard = b""

    def ask(self, place: int, query: Query, seconds: float, patience: float) -> None:
        """Hand it a query."""
        self.at, self.deadline = place, time.monotonic() + patience
        self._spent = self._processor_seconds()
        with suppress(BrokenPipeError):  # it died while it was idle: its output has ended, too, which will be seen
            self.send(json.dumps([*query, seconds]).encode() + b"\n")

    def stands_still(self, patience: float) -> bool:
        """Whether it has used no processor time since this was asked last, or since it was asked at all. If it has, it
        gets more time, for its own limit of processor time holds."""
        spent = self._processor_seconds()
        if spent > self._spent:
            self._spent, self.deadline = spent, time.monotonic() + (patience if self.ready else _START)
            return False
        return True

    def _processor_seconds(self) -> float:
        """The processor time of the worker and of the fork that compares."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
        except OSError:
            children = []
        return sum(_used(one) for one in (str(self.pid), *children))

    def reply(self) -> Reply | None:
        """The worker's reply, which is empty while it is still `at` its query; None if it is dead."""
        try:
            part = os.read(self.output.fileno(), 65536)
        except OSError:
            part = b""
        if not part:
            return None
        self._heard += part
        if not self._heard.endswith(b"\n"):
            return Reply("")
        verdict, answer, seconds = json.loads(self._heard)
        self._heard, self.at, self.ready = b"", None, True
        return Reply(verdict, answer, seconds)

    def end(self) -> str:
        """End it; in words how it ended."""
        for pipe in (self.input, self.output):
            pipe.close()
        if self.at is None:
            self.kill()
        code, said = self.wait(), self.complaints(500)
        self.close()
        if code == -signal.SIGPROF:
            return "timed out"
        return f"failed: exit status {code}" + (f", {said}" if said else "")


def _used(pid: str) -> float:
    """The processor time of a process, in seconds, with that of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


def _close(workers: list[_Worker], owner: int) -> None:
    """Kill workers; those of another process are left alone."""
    if owner != os.getpid():
        return
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.at = None
        worker.end()
    workers.clear()
