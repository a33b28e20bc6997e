"""A sampler whose changes are on disk before they are answered. Each change is made once, even if requested again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dps_pyro.selection.sampler import PromptSampler
from dps_pyro.storage import atomic_path, load_state, parse_json, save_state

__all__ = ["Durable", "ForgottenError", "shares_beliefs"]

REMEMBERED = 1024
"""The number of rounds of each worker whose answers are kept for repeated requests."""
WORKERS = 256
"""The largest number of workers."""


class ForgottenError(Exception):
    """The round was answered too long ago to be known, or the answer was to a different request."""


def shares_beliefs(folder: Path) -> bool | None:
    """Whether the sampler that was saved in a folder is `pooled`; None if there is no saved state.

    Raises:
        ValueError: the saved state is damaged.
    """
    path = folder / "state" / "state.json"
    if not path.exists():
        return None
    try:
        return "settled" in parse_json(path.read_text(encoding="utf-8"))["sampler"]["tracker"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a whole saved state, got {type(error).__name__}: {error}") from error


class Durable:
    """A sampler with a journal of the changes since its state was last saved, and with the answers that were given.

    A change is made, written to the journal, and answered, in this order. If the process is killed before the change is
    in the journal, the request has not been answered, and the client repeats it. If the process is killed later, it
    makes the change again from the journal when it starts. The journal has the answer, too: selections depend only on
    the state and the request.

    Args:
        sampler: a new sampler, into which a saved state is loaded.
        folder: the folder of the state and the journal.
        every: the number of changes between two saved states.

    Raises:
        ValueError: the saved state belongs to another sampler, or is damaged.
        OSError: the folder cannot be written to.
    """

    def __init__(self, sampler: PromptSampler, folder: Path, *, every: int = 20_000) -> None:
        self.sampler, self.folder, self.every = sampler, folder, every
        self.answers: dict[str, dict[str, Any]] = {}
        self.number = 0
        """The number of changes so far."""
        self._added: list[Any] = []
        self._failed: OSError | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "journal.jsonl"
        if (folder / "state").exists():
            saved = load_state(folder / "state")
            for more in saved["added"]:
                sampler.add(more)
            sampler.load_state_dict(saved["sampler"])
            self.number, self.answers, self._added = int(saved["number"]), saved["answers"], list(saved["added"])
        self._again()
        self._file = self._path.open("ab", buffering=0)
        self._since = 0

    def change(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        """Make a change and write it to the journal, or return its earlier answer. A change that was written survives
        the end of the process; after `flush` it survives a crash of the machine, too.

        Raises:
            OSError: the journal cannot be written. No further change is made, because it would be lost with the
                process: start again from the folder.
            ValueError: the sampler refuses the change; nothing has changed.
            ForgottenError: the round was answered too long ago, or the answer was to a different request.
        """
        if self._failed is not None:
            raise self._failed
        worker, name = request["worker"], f"{request['round']}:{kind}"
        known = self.answers.get(worker, {})
        text = json.dumps(request, sort_keys=True)
        asked = _digest(text)
        if name in known:
            if known[name]["asked"] != asked:
                raise ForgottenError(
                    f"round: expected a new one, got {request['round']}, which had another {kind} request"
                )
            answer: dict[str, Any] = known[name]["answer"]
            return {**answer, "again": True}
        if len(known) >= REMEMBERED and request["round"] < int(next(iter(known)).partition(":")[0]):
            raise ForgottenError(f"round: expected one of the last {REMEMBERED}, got {request['round']}")
        if not known and len(self.answers) >= WORKERS:
            raise ValueError(f"worker: expected one of at most {WORKERS}, got another, {worker!r}")
        answer = self._make(kind, request)
        start = f'{{"number": {self.number + 1}, "kind": "{kind}", "request": {text}, "answer": '
        self._write(f"{start}{json.dumps(answer)}}}\n".encode())
        self._done(worker, name, asked, answer)
        self._since += 1
        if self._since >= self.every:
            self.save()
        return {**answer, "again": False}

    def flush(self) -> None:
        """Wait until all that was written is on the disk. Another thread may go on making changes meanwhile.

        Raises:
            OSError: the disk fails; see `change`.
        """
        try:
            own = os.dup(self._file.fileno())  # `save` may close the journal meanwhile: all is in the state then
            try:
                os.fsync(own)
            finally:
                os.close(own)
        except OSError as error:
            self._failed = error
            raise

    def _write(self, line: bytes) -> None:
        try:
            while line:
                line = line[self._file.write(line) or 0 :]
        except OSError as error:
            self._failed = error
            raise

    def save(self) -> None:
        """Save the state, and begin a new journal.

        Raises:
            OSError: the folder cannot be written to, or a change could not be written before: it must not be saved.
        """
        if self._failed is not None:
            raise self._failed
        state = {"sampler": self.sampler.state_dict(), "number": self.number, "answers": self.answers}
        with atomic_path(self.folder / "state") as aside:
            aside.mkdir()
            save_state(aside, {**state, "added": self._added})
        # The state knows the numbers of the old journal's changes: nothing is lost if the process is killed here.
        self._file.close()
        self._file = self._path.open("wb", buffering=0)
        self._since = 0

    def close(self) -> None:
        """Save the state, unless a change could not be written, and close the journal."""
        if self._failed is None:
            self.save()
        self._file.close()

    def _make(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        """Make the change itself, and return its answer."""
        given = {
            name: value for name, value in request.items() if name not in ("worker", "round") and value is not None
        }
        makers: dict[str, Callable[..., Any]] = {
            "select": self.sampler.select,
            "observe": self.sampler.observe,
            "add": self.sampler.add,
            "retire": self.sampler.retire,
        }
        found = makers[kind](**given)
        if kind == "add":
            self._added.append(given["prompts"])
        answer: dict[str, Any] = {"step": self.sampler.tracker.step}
        if kind == "select":
            answer["rows"] = found.tolist()
        return answer

    def _done(self, worker: str, name: str, asked: str, answer: dict[str, Any]) -> None:
        self.number += 1
        known = self.answers.setdefault(worker, {})
        known[name] = {"asked": asked, "answer": answer}
        while len(known) > REMEMBERED:
            del known[next(iter(known))]

    def _again(self) -> None:
        """Make those changes of the journal again that the state does not know. An incomplete last line was not
        answered, and is removed."""
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self._path.open("r+b") as file:
                file.truncate(whole)
        for line in content[:whole].splitlines():
            try:
                entry = parse_json(line)
            except ValueError as error:
                raise ValueError(f"{self._path}: expected one change in JSON a line, got {line[:60]!r}") from error
            if entry["number"] <= self.number:
                continue
            if entry["number"] != self.number + 1:
                raise ValueError(f"{self._path}: expected change {self.number + 1}, got {entry['number']}")
            request, kind = entry["request"], entry["kind"]
            answer = self._make(kind, request)
            asked = _digest(json.dumps(request, sort_keys=True))
            self._done(request["worker"], f"{request['round']}:{kind}", asked, entry.get("answer", answer))


def _digest(request: str) -> str:
    return hashlib.sha256(request.encode()).hexdigest()[:24]
