"""The task of a user's records and reward: `dps-pyro train --data problems.jsonl --reward my_reward.py:judge`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dps_pyro.support.records import read_records
from dps_pyro.tasks.base import Prompt, PromptSet, Reward
from dps_pyro.tasks.own.reward_process import RewardProcess

__all__ = ["Records"]


class Records:
    """A task of records, one per problem, and a Python function that judges completions.

    The function is called as `function(completion, record)` and returns a number in 0..1, or that and a reason. It runs
    in a process of its own, with at most `timeout` seconds per completion. The record is passed as JSON, so that values
    which JSON cannot hold (bytes, images) are left out.

    Args:
        source: A file, a folder or a data set, as `read_records` takes it.
        reward: The function, as path/to/file.py:function.
        prompt: The field with the problem: a text, or a chat of one user message, before which a system message may
            stand that is the same in all records.
        id: The field that identifies a problem. If it is left out, the record's content does, and equal records count
            once.
        features: The fields that are known before any rollout (numbers or strings), for models with groups or features.
        groups: The feature by which models with groups pool.
        split, test_split: The parts of the source (`read_records`). Without a `test_split` the held-out prompts are
            those whose id hashes into `test_share`, so that they stay the same whatever records are added.
        test_share: The share of the prompts that is held out, in (0, 1).
        system: A system prompt.
        timeout: The seconds that a call of the reward may take, > 0.

    Raises:
        ValueError: There are no such records, fields or function.
    """

    name = "records"

    def __init__(
        self,
        source: str,
        reward: str,
        *,
        prompt: str = "prompt",
        id: str | None = None,  # noqa: A002 - the field's name in most data
        features: Sequence[str] = (),
        groups: str | None = None,
        split: str | None = None,
        test_split: str | None = None,
        test_share: float = 0.1,
        system: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        if not 0 < test_share < 1:
            raise ValueError(f"expected test_share between 0 and 1, got {test_share}")
        self.groups = groups
        self._fields = prompt, id, tuple(features)
        self._systems: set[str] = set() if system is None else {system}
        self._given = system
        found = self._prompts(read_records(source, split))
        if test_split is None:
            held = {one: _hash(one) < test_share * 2**32 for one in found}
            train, test = ([found[one] for one in found if held[one] == part] for part in (False, True))
        else:
            test = list(self._prompts(read_records(source, test_split)).values())
            known = {one.id for one in test}
            train = [one for one in found.values() if one.id not in known]
        self._splits = {"train": PromptSet(train), "test": PromptSet(test)}
        if len(self._systems) > 1:
            raise ValueError(f"expected one system message in all records, got {len(self._systems)}")
        self.system = next(iter(self._systems), None)
        self._judge = RewardProcess(reward, timeout)

    def prompts(self, split: str) -> PromptSet:
        """The prompts of "train" or "test".

        Raises:
            ValueError: There is no such split.
        """
        if split not in self._splits:
            raise ValueError(f"expected a split among {', '.join(self._splits)}, got {split!r}")
        return self._splits[split]

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """Judge one completion by the function.

        Raises:
            RewardError: The function raised, ran out of time, died, or returned something else than a reward.
        """
        return self._judge(completion, prompt.answer)

    def _prompts(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Prompt]:
        """Make the prompts by their ids. The answer of a prompt is its whole record."""
        text, name, features = self._fields
        found: dict[str, Prompt] = {}
        for place, record in enumerate(records):
            missing = [field for field in (text, *([name] if name else []), *features) if field not in record]
            if missing:
                raise ValueError(
                    f"expected the field {missing[0]!r} in every record, got {', '.join(map(repr, record))} in record "
                    f"{place}: task_args names the fields, for instance {{prompt: question}}"
                )
            plain = {key: value for key, value in record.items() if _is_plain(value)}
            content = json.dumps(plain, sort_keys=True)
            one = str(record[name]) if name else hashlib.sha256(content.encode()).hexdigest()[:16]
            if one in found and name:
                raise ValueError(f"expected records with distinct {name!r}, got {one!r} more than once")
            known = {field: record[field] for field in features}
            for field, value in known.items():
                if not isinstance(value, str | int | float):
                    raise ValueError(f"expected numbers or strings in {field!r}, got {value!r} in record {place}")
            found[one] = Prompt(one, self._text(record[text], place), plain, known)
        return found

    def _text(self, value: Any, place: int) -> str:
        """The problem of a record. Its system message is noted."""
        if isinstance(value, str) and value.strip():
            return value
        messages = value if isinstance(value, list) else []
        roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
        if roles not in (["user"], ["system", "user"]) or not all(isinstance(m.get("content"), str) for m in messages):
            raise ValueError(f"expected a text or a chat of one user message, got {value!r:.80} in record {place}")
        if len(messages) == 2 and self._given is None:
            self._systems.add(messages[0]["content"])
        return str(messages[-1]["content"])


def _hash(text: str) -> int:
    """Hash a text to 32 bits, spread evenly."""
    return int.from_bytes(hashlib.sha256(f"held out/{text}".encode()).digest()[:4], "big")


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold a value."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
