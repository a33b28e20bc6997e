"""Reads a run folder in any state: finished, still running, or killed in the middle of a line.

A report is needed most when something went wrong, so a run need not be complete. What cannot be read is counted or
named in `Run.notes`, which the page shows.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dps_pyro.report.samples import Step, read_samples
from dps_pyro.storage import parse_json

if TYPE_CHECKING:
    from pathlib import Path

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class EventLog:
    """One entry per group of rollouts, E in all, in the order in which they happened.

    `prompt` is a row in 0..num_prompts-1, `solved` may be fractional (dense rewards), and `predicted` is the chance of
    a useful group when the prompt was selected, or NaN if none was recorded. A group is `useful` if its rewards differ:
    with rewards of 0 and 1, if it is neither all wrong nor all right.
    """

    ids: tuple[str, ...]
    num_prompts: int
    prompt: Ints
    step: Ints
    solved: Floats
    trials: Ints
    predicted: Floats
    useful: NDArray[np.bool_]

    def id(self, row: int) -> str:
        """Return the prompt's id, or its row if the log has no ids."""
        return self.ids[row] if row < len(self.ids) else f"prompt {row}"


@dataclass(frozen=True)
class Run:
    """The content of a run folder. `train` and `evals` are in step order, without steps that a resumed run redid."""

    folder: Path
    train: tuple[Record, ...]
    evals: tuple[Record, ...]
    summary: Record
    config: str
    history: EventLog | None
    notes: tuple[str, ...] = ()
    samples: tuple[Step, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the run has ended: the trainer writes the summary last."""
        return bool(self.summary)

    def column(self, key: str) -> Floats:
        """[T], one metric over the training steps; NaN for steps that lack it."""
        return column(self.train, key)

    def value(self, key: str) -> Any:
        """Return `key` from the summary, or else from the newest step that has it; None if none has it."""
        if self.summary.get(key) is not None:
            return self.summary[key]
        return next((record[key] for record in reversed(self.train) if record.get(key) is not None), None)

    def number(self, key: str) -> float:
        """Return `value` as a float; NaN if it is missing or no number."""
        return number(self.value(key))

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the states from unsolved to solved: those of the run, or numbers if it has not named them."""
        names = self.value("states")
        if isinstance(names, Sequence) and not isinstance(names, str) and names:
            return tuple(str(name) for name in names)
        belief = self.value("belief")
        size = len(belief) if isinstance(belief, Sequence) else 0
        return tuple(f"state {k + 1} of {size}" for k in range(size))

    @property
    def selector(self) -> str:
        """The name of what chose the prompts: from the summary, the configuration, or the name of the folder."""
        named = self.value("acquisition") or self.value("selector")
        if named:
            return str(named)
        found = re.search(r"^\s*(?:acquisition|selector):[ \t]*([^\s#{\[][^#\n]*)", self.config, re.MULTILINE)
        return found.group(1).strip().strip("'\"") if found else self.folder.name


def number(value: Any) -> float:
    """Return `value` as a float; NaN if it is missing, infinite, a bool or no number."""
    measured = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return float(value) if measured else math.nan


def column(records: Sequence[Record], key: str) -> Floats:
    """[len(records)], one metric over records; NaN for records that lack it."""
    return np.array([number(record.get(key)) for record in records], dtype=np.float64)


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: `folder` has no `metrics.jsonl`, which every run has from its first step on.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"expected a run folder with a metrics.jsonl, found none in {folder}")
    notes: list[str] = []
    train, evals = _read_metrics(path, notes)
    config = folder / "config.yaml"
    return Run(
        folder=folder,
        train=tuple(train),
        evals=tuple(evals),
        summary=_read_summary(folder / "summary.json", notes),
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        history=_read_history(folder / "history.parquet", notes),
        samples=tuple(read_samples(folder, notes)),
        notes=tuple(notes),
    )


def _read_metrics(path: Path, notes: list[str]) -> tuple[list[Record], list[Record]]:
    train: list[Record] = []
    evals: list[Record] = []
    unreadable = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                record = parse_json(line)
                step = int(record["step"])
            except (ValueError, KeyError, TypeError, OverflowError):  # e.g. half a line
                unreadable += 1
                continue
            # A run that resumes from a checkpoint redoes steps: the newer line replaces the older ones from its step
            # on. Evaluations count steps done and training steps count from 0: train step s comes after eval s.
            if record.get("kind") == "train":
                _drop(train, step)
                _drop(evals, step + 1)
                train.append(record)
            elif record.get("kind") == "eval":
                _drop(train, step)
                _drop(evals, step)
                evals.append(record)
    if unreadable:
        lines_were = "line of metrics.jsonl was" if unreadable == 1 else "lines of metrics.jsonl were"
        notes.append(f"{unreadable} {lines_were} incomplete and left out.")
    return train, evals


def _drop(records: list[Record], step: int) -> None:
    while records and int(records[-1]["step"]) >= step:
        records.pop()


def _read_summary(path: Path, notes: list[str]) -> Record:
    if not path.is_file():
        return {}
    try:
        summary = parse_json(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError:
        notes.append("summary.json is incomplete and was left out.")
        return {}
    return summary if isinstance(summary, dict) else {}


def _read_history(path: Path, notes: list[str]) -> EventLog | None:
    if not path.is_file():
        return None
    import pyarrow as pa

    from dps_pyro.history.log import RolloutHistory

    try:
        history = RolloutHistory.from_parquet(path)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        notes.append(f"history.parquet could not be read ({type(error).__name__}) and was left out.")
        return None
    events = history.events
    return EventLog(
        ids=tuple(history.ids or ()),
        num_prompts=history.num_prompts,
        prompt=events.prompt.numpy(),
        step=events.step.numpy(),
        solved=events.solved.numpy(),
        trials=events.trials.numpy(),
        predicted=events.predicted.double().numpy(),
        useful=events.useful.numpy(),
    )
