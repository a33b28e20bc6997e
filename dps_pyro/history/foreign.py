"""Logs of TRL, verl and W&B, told apart by what is in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dps_pyro.history.log import RolloutHistory
from dps_pyro.history.rollouts import Rollout, history_of, prompt_id
from dps_pyro.support.readers import _READERS, Record, _parquet_columns, _records

__all__ = ["FORMATS", "read_log"]


FORMATS = ("auto", "history", "trl", "verl", "wandb")
"""What `read_log` reads. "wandb" is the file, "trl" and "verl" are the columns: a table of TRL's in W&B is both."""


PROMPT = ("prompt", "input")
REWARD = ("reward", "score")


def read_log(
    path: str | Path,
    format: str = "auto",  # noqa: A002 - the option's name
    *,
    reward: str | None = None,
    id_column: str | None = None,
    solved_at: float | None = 1.0,
    every: int = 1,
    ids: Sequence[str] | None = None,
) -> RolloutHistory:
    """Read a log of rollouts.

    Args:
        path: a file, or a folder of them (each logging step's).
        format: "history": our own Parquet. "trl": the Parquet files below `completions/` (`log_completions=True`).
            "verl": the JSON lines of `trainer.rollout_data_dir`. "wandb": a table of W&B's, `.table.json` as it is kept
            or CSV as it is exported, with the columns of either. "auto": what it looks like.
        reward: the column with the reward that tells what is solved. The default is the only one there is.
        id_column: the column with the prompts' ids; if left out the prompt's text is its id, shortened (`prompt_id`).
        solved_at: a completion with at least this reward solved its prompt; None counts rewards within 0..1.
        every: optimizer steps a generation, where rollouts are used for several.
        ids: the prompts of the history, in row order; others are left out.

    All but the first two are for single rollouts; a history has been counted.

    Raises:
        ValueError: the file is none of these, or it is not clear which of its columns is meant.
        OSError: it cannot be read.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    files = sorted(file for file in path.iterdir() if file.suffix in _READERS) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: expected files that end in {', '.join(_READERS)}, got a folder of none")
    if len(files) == 1 and files[0].suffix not in (".jsonl", ".json", ".csv"):
        columns = _parquet_columns(files[0])
        # Counted groups without their sizes are read as a history too, which says what is missing.
        if format == "history" or (format == "auto" and {"prompt", "step", "solved"} <= set(columns)):
            return RolloutHistory.from_parquet(files[0])
    if format == "history":
        raise ValueError(f"{path}: expected one Parquet file of a history, got {len(files)} of {files[0].suffix}")
    by_step: dict[int, list[Record]] = {}
    for file in files:
        for record in _records(file):
            by_step.setdefault(_step(record, file), []).append(record)
    if not by_step:
        raise ValueError(f"{path}: expected rollouts, got none")
    first = next(iter(by_step.values()))[0]
    _check_single(first, path, format == "auto" and reward is None)
    prompt = id_column or _one_of(PROMPT, first, path, "a prompt")
    if prompt not in first:
        raise ValueError(f"id-column: expected one of {', '.join(first)}, got {prompt!r}")
    if (format == "trl" and "completion" not in first) or (format == "verl" and "output" not in first):
        raise ValueError(f"{path}: expected columns of {format}, got {', '.join(first)}")
    verdict = reward or _reward(first, path)
    if verdict not in first:
        raise ValueError(f"reward: expected one of {', '.join(first)}, got {verdict!r}")
    rollouts = _rollouts(by_step, prompt, verdict, hashed=id_column is None)
    return history_of(rollouts, solved_at=solved_at, every=every, ids=ids)


def _check_single(record: Record, path: Path, guessed: bool) -> None:
    """Groups that were counted are not single rollouts, whose reward would be the count."""
    if guessed and "solved" in record and not {"completion", "output"} & record.keys():
        raise ValueError(
            f"{path}: expected single rollouts, got groups that were counted (solved): save them as Parquet with the "
            "columns prompt, step, solved, trials, or name the column with the reward of a single rollout"
        )


def _rollouts(by_step: dict[int, list[Record]], prompt: str, reward: str, *, hashed: bool) -> Iterator[Rollout]:
    before: list[Record] = []
    for step in sorted(by_step):
        # TRL logs the latest rollouts at every step that trains on them; they were rolled out once.
        content = [{key: value for key, value in record.items() if key != "step"} for record in by_step[step]]
        if content == before and "advantage" in content[0]:
            continue
        before = content
        for record in by_step[step]:
            name = prompt_id(record[prompt]) if hashed else str(record[prompt])
            yield Rollout(name, step, _number(record.get(reward)))


def _step(record: Record, file: Path) -> int:
    """The record's step; of verl's older dumps it is the file's name."""
    value = record.get("step", file.stem if file.stem.isdigit() else None)
    try:
        step = int(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{file}: expected a column step of whole numbers, got {value!r}") from error
    return step


def _reward(record: Record, path: Path) -> str:
    """The only column that can be the reward."""
    named = [name for name in REWARD if name in record]
    others = ("step", "advantage", *PROMPT, "completion", "output", "gts", "image", "images")
    numbers = [name for name in record if name not in others and not math.isnan(_number(record[name]))]
    found = named if len(named) == 1 else numbers
    if len(found) != 1:
        raise ValueError(f"{path}: expected reward= to name one of {', '.join(found) or 'its columns'}: {list(record)}")
    return found[0]


def _one_of(names: Sequence[str], record: Record, path: Path, what: str) -> str:
    for name in names:
        if name in record:
            return name
    raise ValueError(f"{path}: expected {what} in a column {' or '.join(names)}, got columns {', '.join(record)}")


def _number(value: Any) -> float:
    """NaN of what is none, as TRL's rewards that do not apply."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


# ------------------------------------------------------------------------------------------------ files to records
