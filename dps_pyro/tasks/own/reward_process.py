"""Runs a user's reward function in a process of its own, where it can raise, hang, print or crash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dps_pyro.support.child import DiedError, Killable
from dps_pyro.tasks.base import Reward
from dps_pyro.tasks.own.signatures import Rule

__all__ = ["START", "JudgeProcess", "RewardError", "RewardProcess"]

START = 120.0
"""The seconds that such a process may take to start, for a user's file may import much."""


class RewardError(Exception):
    """A completion could not be judged: its reward raised, ran out of time, died, or was no reward."""


class JudgeProcess:
    """Judges in another process, which starts when there is something to judge, and again after its end."""

    _process: Killable | None = None

    def close(self) -> None:
        """End the process; the next judgement starts another."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _started(self) -> Killable:
        """Start a process and wait until it is ready."""
        raise NotImplementedError

    def _judged(self, question: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Ask the process and return its answer.

        Raises:
            RewardError: The process raised, ran out of time, or died.
        """
        try:
            if self._process is None:
                self._process = self._started()
            answer = self._process.ask({**question, "seconds": seconds}, seconds)
        except DiedError as error:
            self._process = None
            raise RewardError(f"reward's process died: {error}") from error
        if answer is None:
            self._process = None
            raise RewardError(f"reward took more than {seconds:g} s")
        if "raised" in answer:
            raise RewardError(f"reward raised {answer['raised']}")
        return answer


class RewardProcess(JudgeProcess):
    """Calls `function(completion, record)` elsewhere, within a time limit.

    The function returns a number in the rule's range (a bool will do), such a number and a reason of a few words, a
    dictionary with ``score`` or ``acc``, or None to abstain. The signatures of TRL, verl and OpenRLHF are taken as they
    are (`dps_pyro.tasks.own.signatures`).

    Args:
        function: The function, as path/to/file.py:name.
        seconds: The time that a call may take, > 0. After it the process is killed, and the next call starts another.
        rule: How a number becomes a reward between 0 and 1.

    Raises:
        ValueError: The file has no such function, or it cannot be imported.
    """

    def __init__(self, function: str, seconds: float, rule: Rule = Rule()) -> None:  # noqa: B008 - immutable
        path, _, name = function.rpartition(":")
        if not Path(path).is_file() or not name:
            raise ValueError(f"reward: expected path/to/file.py:function, got {function!r}")
        if not seconds > 0:
            raise ValueError(f"reward_timeout: expected more than 0 seconds, got {seconds}")
        self.function = f"{Path(path).resolve()}:{name}"
        self.seconds, self.rule = seconds, rule
        self._process = self._started()

    def __call__(self, completion: str, record: Any) -> Reward:
        """Judge one completion; `record` is anything that JSON holds.

        Raises:
            RewardError: The completion could not be judged, or the function abstained. The message says why, and what
                the function raised.
        """
        answer = self._judged({"completion": completion, "record": record}, self.seconds)
        if answer["value"] is None:
            raise RewardError(f"reward abstained: {answer['reason']}")
        return Reward(float(answer["value"]), str(answer["reason"]))

    def _started(self) -> Killable:
        process = Killable("dps_pyro.tasks.own.reward_worker", self.function, json.dumps(self.rule))
        try:
            answer = process.ask(None, START)
        except DiedError as error:
            raise ValueError(f"reward: expected {self.function} to start, got: {error}") from error
        if answer is None or "raised" in answer:
            process.close()
            reason = f"more than {START:g} s to start" if answer is None else answer["raised"]
            raise ValueError(f"reward: expected a function, path/to/file.py:function, got {self.function!r}: {reason}")
        return process
