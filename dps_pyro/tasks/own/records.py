"""The task of a user's records and reward: `dps-pyro train --data problems.jsonl --reward my_reward.py:judge`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dps_pyro.support.files.records import read_records
from dps_pyro.tasks.base import Prompt, PromptSet, Reward
from dps_pyro.tasks.fields import PROBLEM, BadRecord, Leftovers, at, known_of, problem_in
from dps_pyro.tasks.own.reward_process import RewardProcess
from dps_pyro.tasks.own.signatures import Rule

__all__ = ["Records"]


class Records:
    """A task of records, one per problem, and a Python function that judges completions.

    The function is called as `function(completion, record)` and returns a number in 0..1, or that and a reason; the
    signatures of TRL, verl and OpenRLHF are taken too (`dps_pyro.tasks.own.signatures`). It runs in a process of its
    own, with at most `timeout` seconds per completion. The record is passed as JSON, so that values
    which JSON cannot hold (bytes, images) are left out.

    Args:
        source: A file, a folder or a data set, as `read_records` takes it.
        reward: The function, as path/to/file.py:function.
        prompt: The field with the problem, or a path to it, such as ``extra_info.question``: a text, or a conversation
            (a list of messages) whose last message is the user's. If it is left out, it is the first of
            `dps_pyro.tasks.fields.PROBLEM` that a record has. Records without one are left out, and `notes` counts
            them.
        id: The field that identifies a problem. If it is left out, the record's content does, and equal records count
            once.
        features: The fields, or paths to them, that are known before any rollout (numbers or strings), for models with
            groups or features. If they are left out, they are all columns that `dps_pyro.tasks.fields.known_of` finds.
        groups: The feature by which models with groups pool.
        split, test_split: The parts of the source (`read_records`). Without a `test_split` the held-out prompts are
            those whose id hashes into `test_share`, at least one of them, so that they stay the same whatever records
            are added.
        test_share: The share of the prompts that is held out, in (0, 1).
        system: A system prompt.
        timeout: The seconds that a call of the reward may take, > 0.
        reward_range: The numbers of the function that are worth 0 and 1, if they are others.
        reward_solved_at: The least number of the function that is worth 1, where all others are worth 0.

    Raises:
        ValueError: There are no such records, fields or function.
    """

    name = "records"

    def __init__(
        self,
        source: str,
        reward: str,
        *,
        prompt: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's name in most data
        features: Sequence[str] | None = None,
        groups: str | None = None,
        split: str | None = None,
        test_split: str | None = None,
        test_share: float = 0.1,
        system: str | None = None,
        timeout: float = 10.0,
        reward_range: tuple[float, float] | None = None,
        reward_solved_at: float | None = None,
    ) -> None:
        if not 0 < test_share < 1:
            raise ValueError(f"expected test_share between 0 and 1, got {test_share}")
        self.groups = groups
        self._fields = prompt, id, None if features is None else tuple(features)
        self.system = system
        self.notes: list[str] = []
        found = self._prompts(read_records(source, split))
        if test_split is None:
            held = {one: _hash(one) < test_share * 2**32 for one in found}
            if len(held) > 1 and not any(held.values()):  # few records: one is held out all the same
                held[min(held, key=_hash)] = True
            train, test = ([found[one] for one in found if held[one] == part] for part in (False, True))
        else:
            test = list(self._prompts(read_records(source, test_split)).values())
            known = {one.id for one in test}
            train = [one for one in found.values() if one.id not in known]
        self._splits = {"train": PromptSet(train), "test": PromptSet(test)}
        self._judge = RewardProcess(reward, timeout, Rule.of(reward_range, reward_solved_at))

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
        field, name, features = self._fields
        found: dict[str, Prompt] = {}
        kept: list[Mapping[str, Any]] = []
        used, left = set[str](), Leftovers()
        for place, record in enumerate(records):
            missing = [one for one in (name, *(features or ())) if one and at(record, one) is None]
            if missing:
                there = ", ".join(map(repr, record))
                raise ValueError(f"expected the field {missing[0]!r} in every record, got {there} in record {place}")
            try:
                chat, asked = problem_in(record, (field,) if field else PROBLEM, place)
            except BadRecord as error:
                left.add(error)
                continue
            used.add(asked)
            plain = {key: value for key, value in record.items() if _is_plain(value)}
            content = json.dumps(plain, sort_keys=True)
            one = str(at(record, name)) if name else hashlib.sha256(content.encode()).hexdigest()[:16]
            if one in found:
                if name:
                    raise ValueError(f"expected records with distinct {name!r}, got {one!r} more than once")
                continue
            known = {key: at(record, key) for key in features or ()}
            for key, value in known.items():
                if not isinstance(value, str | int | float):
                    raise ValueError(f"expected numbers or strings in {key!r}, got {value!r} in record {place}")
            found[one] = Prompt(one, chat.text, plain, known, before=chat.before)
            kept.append(record)
        if left.first is not None and not found:
            hint = ": task_args names the field, for instance {prompt: my_question}"
            raise ValueError(f"{left.first}{hint}") from left.first
        self.notes += left.note(len(records))
        if features is None:
            columns = known_of(kept, sorted(used))
            found = {one.id: replace(one, features=known) for one, known in zip(found.values(), columns, strict=True)}
        return found


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
