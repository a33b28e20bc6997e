"""The records that other training loops log, each made a plain one: a step, a prompt, a reward.

Each loop's form was read in its own source (August 2026):

- prime-rl writes verifiers' episodes, or earlier their single traces, to `rollouts/step_<n>/train/all/traces.jsonl`;
- open-instruct writes token ids and rewards to `<run>_rollouts_<shard>.jsonl` (`--save_traces`);
- NeMo-RL writes one-entry lists to `train_data_step<n>.jsonl`;
- OpenRLHF keeps a table of whole texts in Weights & Biases (`train/generated_samples`), one sample per step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dps_pyro.history.rollouts import prompt_id
from dps_pyro.support.files.readers import ENDINGS, Record

__all__ = ["files_of", "number", "plain", "step_of"]

_STEPS = ("step", "global_step", "training_step", "train_step", "_step")
_ASIDE = re.compile(r"_metadata\.jsonl$|^val_data_step\d+\.jsonl$")
"""The files that loops write beside their rollouts."""

_IN_NAME = re.compile(r"(?:^|_data_step|step[_-])(\d{1,12})$")
"""A step in a file's name: verl's `12.jsonl`, NeMo-RL's `train_data_step12.jsonl`."""

_ANSWERS = (
    *("<|im_start|>assistant", "<|start_header_id|>assistant<|end_header_id|>", "<start_of_turn>model"),
    *("<|assistant|>", "<|Assistant|>", "<｜Assistant｜>", "[/INST]", "\nAssistant:", "\n\nAssistant"),
)
"""What stands before an answer in the chat templates of the usual models."""


def files_of(path: Path) -> list[Path]:
    """Return the files of a log, in order: the file itself, those of a folder, or prime-rl's below its run folder.

    Raises:
        ValueError: The folder has none.
        OSError: The folder cannot be read.
    """
    if not path.is_dir():
        return [path]
    found = [file for file in path.iterdir() if file.suffix in ENDINGS and not _ASIDE.search(file.name)]
    traces = sorted(path.rglob("step_*/train/all/traces.jsonl"))
    traces = traces or sorted(path.rglob("step_*/train/effective/traces.jsonl"))
    if traces:
        return traces
    if not found:
        raise ValueError(f"{path}: expected files that end in {', '.join(ENDINGS)}, got a folder of none")
    return sorted(found)


def step_of(record: Record, file: Path) -> int:
    """Return a record's step, or else the one in its file's name.

    Raises:
        ValueError: There is none, or it is no whole number.
    """
    value: Any = next((record[name] for name in _STEPS if record.get(name) not in (None, "")), None)
    if value is None and (found := _IN_NAME.search(file.stem)):
        value = found[1]
    try:
        step = int(float(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{file}: expected a column step of whole numbers, got {value!r}") from error
    return step


def number(value: Any) -> float:
    """Return a value as a number; NaN of what is none, as TRL's rewards that do not apply. Words of a table are
    numbers too: "true" is 1."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def plain(record: Record, file: Path) -> Iterator[Record]:
    """Yield the rollouts of a record in columns that `read_log` knows; a record of an unknown form as it is.

    Raises:
        ValueError: A record of a known form lacks what tells its prompt.
    """
    if "traces" in record and isinstance(record["traces"], list):
        yield from _prime_rl(record, file)
    elif {"task", "nodes", "rewards"} <= record.keys() and isinstance(record["rewards"], dict):
        yield from _prime_rl({"env": {"name": _inside(record, "info", "env_name")}, "traces": [record]}, file)
    elif "prompt_tokens" in record and "reward" in record:
        dataset = str(record.get("dataset", ""))
        yield {
            "step": record.get("step"),
            "prompt_id": prompt_id([dataset, record["prompt_tokens"]]),
            "reward": record["reward"],
        }
    elif "rewards" in record and "content" in record:
        yield _nemo_rl(record, file)
    elif {"global_step", "text", "reward"} <= record.keys():
        yield {
            "step": record["global_step"],
            "prompt_id": prompt_id(_before_answer(record["text"], file)),
            "reward": record["reward"],
        }
    else:
        yield record


def _prime_rl(episode: Record, file: Path) -> Iterator[Record]:
    """One rollout per trace of an agent that is trained. A trace with an error was not scored."""
    work = _inside(episode, "run", "work", "step")
    in_path = re.search(r"step_(\d{1,12})", str(file.parent))
    step = work if work is not None else in_path and in_path[1]
    env = str(_inside(episode, "env", "name") or _inside(episode, "env", "id") or "")
    for trace in episode["traces"]:
        if not isinstance(trace, dict) or _inside(trace, "agent", "trainable") is False:
            continue
        task = trace.get("task") or episode.get("task") or {}
        name = _inside(task, "key") or _inside(task, "hash")
        if name is None:
            data = _inside(task, "data") or {}
            name = prompt_id(data) if data else None
        if name is None:
            raise ValueError(f"{file}: expected a task with a key, a hash or data in every trace, got none")
        parts = trace.get("rewards")
        scored = list(parts.values()) if isinstance(parts, dict) else []  # None where scoring did not run
        whole = bool(scored) and all(isinstance(one, dict) for one in scored)
        known = whole and trace.get("ok", True) is not False
        weighted = [number(one.get("score")) * number(one.get("weight", 1.0)) for one in scored] if known else []
        yield {
            "step": step,
            "prompt_id": f"{env}/{name}" if env else str(name),
            "reward": math.fsum(weighted) if known else None,
        }


def _nemo_rl(record: Record, file: Path) -> Record:
    """Every value is a list of one entry. The prompt is what stands before the first token that is trained on."""
    one = {name: value[0] if isinstance(value, list) and value else value for name, value in record.items()}
    tokens, mask, content = one.get("token_ids"), one.get("token_loss_mask"), one.get("content")
    if isinstance(tokens, list) and isinstance(mask, list) and any(mask):
        asked: Any = tokens[: next(place for place, trained in enumerate(mask) if trained)]
    elif isinstance(content, list) and len(content) > 1:
        asked = content[0]
    else:
        raise ValueError(
            f"{file}: expected token_ids with token_loss_mask, or a content of several messages, to tell the prompt "
            "from the completion, got neither"
        )
    return {"step": None, "prompt_id": prompt_id(asked), "reward": one["rewards"]}


def _before_answer(text: Any, file: Path) -> str:
    """The part of a whole text that the policy was given."""
    ends = [text.find(mark) for mark in _ANSWERS if mark in text] if isinstance(text, str) else []
    if not ends:
        raise ValueError(
            f"{file}: expected texts in which a chat template marks where the answer begins, got {str(text)[:60]!r}: "
            "log the prompts in a column of their own"
        )
    return str(text[: max(ends)])


def _inside(value: Any, *names: str) -> Any:
    """The value at a path of names, None where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
