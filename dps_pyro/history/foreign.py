"""Logs of other training loops, told apart by what is in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from dps_pyro.history.log import RolloutHistory
from dps_pyro.history.loops import files_of, number, plain, step_of
from dps_pyro.history.rollouts import Rollout, history_of, prompt_id
from dps_pyro.support import checks
from dps_pyro.support.files.readers import Record, column_names, read_file

__all__ = ["FORMATS", "read_log"]


FORMATS = ("auto", "history", "trl", "verl", "wandb", "prime-rl", "open-instruct", "openrlhf", "nemo-rl")
"""What `read_log` reads. "wandb" is the file, the others are the columns: a table of TRL's in W&B is both."""

_IDS = ("prompt_id", "problem_id", "example_id")
"""The columns that hold a stable id of the prompt. (verl's `uid` is another one at every step.)"""

_PROMPT = ("prompt", "input", "query", "question", "problem", "messages")
_REWARD = ("reward", "score")
_ACCURACY = "acc"
"""verl's column of what was right, beside a score that DAPO punishes for its length."""

_OTHERS = ("step", "global_step", "_step", "advantage", "completion", "output", "gts", "image", "images")
_COUNTED = ("step", "solved", "trials")
_LOOKED_AT = 1000
"""The number of records that say which columns there are, for the first may lack some."""

_OWN = {"trl": "completion", "verl": "output", "prime-rl": "prompt_id", "open-instruct": "prompt_id"}
_OWN |= {"openrlhf": "prompt_id", "nemo-rl": "prompt_id"}


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
        path: A file, or a folder of them (each logging step's). ``~`` is the home folder.
        format: "history" is our own Parquet, or any table of counted groups with the columns prompt, step, solved and
            trials. "trl" is the Parquet files below `completions/` (`log_completions=True`), "verl" the JSON lines of
            `trainer.rollout_data_dir`, "prime-rl" a run folder or its `rollouts/`, "open-instruct" the folder of
            `--save_traces`, "nemo-rl" the folder of `train_data_step<n>.jsonl`, "openrlhf" its table of samples in
            W&B. "wandb" is a table of W&B's, `.table.json` as it is kept or CSV as it is exported. "auto" is what the
            log looks like.
        reward: The column with the reward that tells what is solved. If it is left out, it is `acc` where verl logs it
            beside the score, or else the only reward there is.
        id_column: The column with the prompts' ids. If it is left out, it is prompt_id, problem_id or example_id where
            there is one, or else the prompt's text is its id, shortened (`prompt_id`).
        solved_at: A completion with at least this reward solved its prompt; None counts rewards within 0..1.
        every: The number of optimizer steps that one generation serves.
        ids: The prompts of the history, in row order; others are left out.

    All but the first two are for single rollouts; a history has been counted.

    Raises:
        ValueError: The log is none of these, it is not clear which of its columns is meant, or its rewards vary, and
            yet none, or every one, reaches `solved_at`.
        OSError: It cannot be read.
    """
    path = Path(path).expanduser()
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    files = files_of(path)
    if len(files) == 1 and files[0].suffix not in (".jsonl", ".json", ".csv", ".arrow"):
        columns = column_names(files[0])
        # Counted groups without their sizes are read as a history too, which says what is missing.
        if format == "history" or (format == "auto" and {"prompt", "step", "solved"} <= set(columns)):
            return RolloutHistory.from_parquet(files[0])
    by_step, looked_at = _read(files, path)
    names = list(dict.fromkeys(name for record in looked_at for name in record))
    counted = {*_COUNTED, id_column or "prompt"} <= set(names) and not {"completion", "output"} & set(names)
    if format == "history" or (format == "auto" and counted and reward is None):
        return _counted(by_step, id_column or "prompt", path)
    _check_single(names, path, format == "auto" and reward is None)
    known = next((name for name in _IDS if name in names), None)
    prompt = id_column or known or _one_of(_PROMPT, names, path, "a prompt")
    if prompt not in names:
        raise ValueError(f"id-column: expected one of {', '.join(names)}, got {prompt!r}")
    if (own := _OWN.get(format)) is not None and own not in names:
        raise ValueError(f"{path}: expected columns of {format}, got {', '.join(names)}")
    verdict = reward or _reward(looked_at, names, prompt, path)
    if verdict not in names:
        raise ValueError(f"reward: expected one of {', '.join(names)}, got {verdict!r}")
    rollouts = list(_rollouts(by_step, prompt, verdict, hashed=id_column is None and known is None))
    if solved_at is not None:
        _check_solved(rollouts, verdict, solved_at, path)
    return history_of(rollouts, solved_at=solved_at, every=every, ids=ids)


def _read(files: Sequence[Path], path: Path) -> tuple[dict[int, list[Record]], list[Record]]:
    """The records of the files by their steps, and the first of them."""
    by_step: dict[int, list[Record]] = {}
    first: list[Record] = []
    for file in files:
        for record in (one for found in read_file(file) for one in plain(found, file)):
            by_step.setdefault(step_of(record, file), []).append(record)
            if len(first) < _LOOKED_AT:
                first.append(record)
    if not by_step:
        raise ValueError(f"{path}: expected rollouts, got none")
    return by_step, first


def _counted(by_step: dict[int, list[Record]], prompt: str, path: Path) -> RolloutHistory:
    """A history of groups that were counted, whose prompts are ids; numbers are ids here too."""
    names = dict.fromkeys(str(record.get(prompt)) for step in sorted(by_step) for record in by_step[step])
    history = RolloutHistory(list(names))
    for step in sorted(by_step):
        groups = by_step[step]
        for name in (prompt, "solved", "trials"):
            if any(record.get(name) is None for record in groups):
                raise ValueError(f"{path}: expected {name} in every record, got a record of step {step} without it")
        rows = [str(record[prompt]) for record in groups]
        solved, trials = ([number(record[name]) for record in groups] for name in ("solved", "trials"))
        try:
            history.append(rows, step=step, solved=solved, trials=checks.whole_numbers("trials", trials))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return history


def _check_single(names: Sequence[str], path: Path, guessed: bool) -> None:
    """Groups that were counted are not single rollouts, whose reward would be the count."""
    if guessed and "solved" in names and not {"completion", "output"} & set(names):
        raise ValueError(
            f"{path}: expected single rollouts, or groups that were counted with the columns prompt, step, solved and "
            f"trials, got {', '.join(names)}: --reward names the reward of a single rollout"
        )


def _check_solved(rollouts: Sequence[Rollout], reward: str, solved_at: float, path: Path) -> None:
    """Rewards that vary, and of which none or every one is held for a solution, are on another scale."""
    known = [one.reward for one in rollouts if not math.isnan(one.reward)]
    least, most = min(known, default=math.nan), max(known, default=math.nan)
    solved = sum(reward >= solved_at - 1e-6 for reward in known)
    if least < most and solved in (0, len(known)):
        which = "none" if solved == 0 else "every one"
        raise ValueError(
            f"{path}: {which} of {len(known):,} rollouts has a reward of {solved_at:g} or more, and they go from "
            f"{least:g} to {most:g} ({reward}): --solved-at says what counts as solved, --reward names another column, "
            "and --partial takes rewards within 0..1 as they are"
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
            asked = record.get(prompt)
            name = prompt_id(asked) if hashed else str(asked)
            yield Rollout(name, step, number(record.get(reward)))


def _reward(records: Sequence[Record], names: Sequence[str], prompt: str, path: Path) -> str:
    """The only column that can be the reward."""
    numbers = [
        name
        for name in names
        if name not in (*_OTHERS, *_PROMPT, *_IDS, prompt)
        and any(not math.isnan(number(record.get(name))) for record in records)
    ]
    named = [name for name in _REWARD if name in names]
    if _ACCURACY in numbers and named:
        return _ACCURACY
    found = named if len(named) == 1 else numbers
    if len(found) != 1:
        raise ValueError(
            f"{path}: expected --reward to name one of {', '.join(found) or 'its columns'}, got columns "
            f"{', '.join(names)}"
        )
    return found[0]


def _one_of(wanted: Sequence[str], names: Sequence[str], path: Path, what: str) -> str:
    for name in wanted:
        if name in names:
            return name
    raise ValueError(f"{path}: expected {what} in a column {' or '.join(wanted)}, got columns {', '.join(names)}")
