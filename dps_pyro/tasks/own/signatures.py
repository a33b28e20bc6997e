"""Reward functions as they are written for other trainers, called one completion at a time; and what they return."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dps_pyro.tasks.fields import ANSWER, PROBLEM, BadRecord, answer_in, at, problem_in

__all__ = ["Rule", "adapted", "checked"]

Judge = Callable[[str, Mapping[str, Any]], Any]


class Rule(NamedTuple):
    """How a number that a reward function returns becomes a reward between 0 and 1.

    Attributes:
        low: The number that is worth 0.
        high: The number that is worth 1. Numbers between the two are worth their share of the way.
        solved_at: The smallest number that is worth 1, if all others are worth 0; None if `low` and `high` count.
        own: Whether the user said any of this. If not, a dictionary with ``acc`` is worth that.
    """

    low: float = 0.0
    high: float = 1.0
    solved_at: float | None = None
    own: bool = False

    @classmethod
    def of(cls, bounds: tuple[float, float] | None, solved_at: float | None) -> Rule:
        """Make the rule of a configuration.

        Raises:
            ValueError: The bounds do not rise, or both are given.
        """
        if bounds is not None and solved_at is not None:
            raise ValueError("reward_range, reward_solved_at: expected at most one of them, got both")
        low, high = bounds or (0.0, 1.0)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"reward_range: expected two finite numbers that rise, got {low:g} and {high:g}")
        return cls(low, high, solved_at, bounds is not None or solved_at is not None)

    def worth(self, number: float) -> float:
        """Return what a number is worth, between 0 and 1.

        Raises:
            ValueError: The number is out of the range, or NaN.
        """
        if self.solved_at is not None and not math.isnan(number):
            return float(number >= self.solved_at)
        if not self.low <= number <= self.high:
            hint = "" if self.own else " (--reward-range -1 1 says another range, --reward-solved-at what is solved)"
            raise ValueError(f"expected a reward in {self.low:g}..{self.high:g}, got {number!r}{hint}")
        return (number - self.low) / (self.high - self.low)


def adapted(function: Any) -> Judge:
    """Return a function that is called as `function(completion, record)`, whatever the signature of the user's is.

    Three signatures are known by the names of their parameters: TRL's (``completions``, and the columns of the data),
    verl's (``data_source``, ``solution_str``, ``ground_truth``, ``extra_info``, or for batches the same with an s) and
    OpenRLHF's (``queries``, ``prompts``, ``labels``). Functions that take lists are given lists with one entry.

    Raises:
        TypeError: It is no function, or it asks for something that is not known here, such as token ids.
    """
    if not callable(function):
        raise TypeError(f"expected a function, got {function!r}")
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return _awaited(function)
    if "completions" in parameters:
        _require(parameters, "TRL", {"completion_ids", "completions_ids", "trainer_state", "environments"})
        return _trl(_awaited(function), parameters)
    if "solution_str" in parameters:
        return _verl(_awaited(function), parameters)
    if "solution_strs" in parameters:
        return _verl_batch(_awaited(function), parameters)
    if {"queries", "labels"} <= parameters.keys():
        return _openrlhf(_awaited(function), parameters)
    return _awaited(function)


def checked(found: Any, rule: Rule = Rule()) -> dict[str, Any]:  # noqa: B008 - it is immutable
    """Check what a reward function returned, and give it a reason. None is an abstention: ``{"value": None, ...}``.

    Raises:
        TypeError, ValueError: It is neither a number in the rule's range, nor such a number and a reason, nor a
            dictionary with ``score``, ``reward``, ``rewards`` or ``acc``.
    """
    value, reason = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if isinstance(value, Mapping):
        value = _of_dictionary(value, rule)
    if value is None or (isinstance(value, float) and math.isnan(value) and reason is None):
        return {"value": None, "reason": str(reason or "abstained")[:100]}
    number = rule.worth(float(value))
    if reason is None:
        reason = "correct" if number == 1 else "wrong" if number == 0 else "partly correct"
    return {"value": number, "reason": str(reason)[:100]}


def _of_dictionary(found: Mapping[str, Any], rule: Rule) -> Any:
    """The number of a dictionary. Without a rule of the user's own it is the accuracy where there is one, because a
    score may be punished for its length."""
    names = ("score", "reward", "rewards", "scores", "acc")
    for name in names if rule.own else (names[-1], *names[:-1]):
        if name in found:
            return None if found[name] is None else _single(found[name])
    raise ValueError(f"expected a dictionary with score, reward or acc, got {', '.join(map(str, found)) or 'none'}")


def _single(value: Any) -> Any:
    """The only entry of a list, an array or a tensor; anything else as it is."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise ValueError(f"expected one reward for one completion, got {len(value)}")
        return _single(value[0])
    return value


def _awaited(function: Any) -> Callable[..., Any]:
    """The function, or one that waits for it where it is asynchronous."""
    if not inspect.iscoroutinefunction(function):
        plain: Callable[..., Any] = function
        return plain
    return lambda *arguments, **named: asyncio.run(function(*arguments, **named))


def _require(parameters: Mapping[str, inspect.Parameter], whose: str, unknown: set[str]) -> None:
    for name in sorted(unknown & parameters.keys()):
        if parameters[name].default is inspect.Parameter.empty:
            raise TypeError(f"expected a reward of {whose} that does without {name}, which is not known here")


def _call(function: Any, parameters: Mapping[str, inspect.Parameter], known: Mapping[str, Any]) -> Any:
    """Call it with what it takes of `known`."""
    more = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return function(**{name: value for name, value in known.items() if more or name in parameters})


def _asked(record: Mapping[str, Any]) -> tuple[Any, str, bool]:
    """The prompt as the record has it, its text, and whether it is a conversation."""
    try:
        chat, name = problem_in(record, ("prompt", *PROBLEM), 0)
    except BadRecord:
        return None, "", False  # the task found it under another name
    value = at(record, name)
    is_chat = not isinstance(value, str) or bool(chat.before)
    return value, chat.text, is_chat


def _answer(record: Mapping[str, Any]) -> str | None:
    try:
        return answer_in(record, ANSWER, 0)[0]
    except BadRecord:
        return None


def _trl(function: Any, parameters: Mapping[str, inspect.Parameter]) -> Judge:
    def judge(completion: str, record: Mapping[str, Any]) -> Any:
        prompt, _, is_chat = _asked(record)
        said: Any = [{"role": "assistant", "content": completion}] if is_chat else completion
        columns = {name: [value] for name, value in record.items() if name not in ("prompt", "completion")}
        found = _call(function, parameters, {**columns, "prompts": [prompt], "completions": [said]})
        return None if found is None else _single(found)

    return judge


def _verl(function: Any, parameters: Mapping[str, inspect.Parameter]) -> Judge:
    return lambda completion, record: _call(function, parameters, _of_verl(completion, record))


def _verl_batch(function: Any, parameters: Mapping[str, inspect.Parameter]) -> Judge:
    """The function of verl's `BatchRewardManager`."""

    def judge(completion: str, record: Mapping[str, Any]) -> Any:
        lists = {f"{name}s": [value] for name, value in _of_verl(completion, record).items()}
        found = _call(function, parameters, lists)
        return None if found is None else _single(found)

    return judge


def _of_verl(completion: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What verl gives a reward function."""
    gold = at(record, "reward_model.ground_truth")
    return {
        "data_source": record.get("data_source"),
        "solution_str": completion,
        "ground_truth": _answer(record) if gold is None else gold,
        "extra_info": record.get("extra_info"),
    }


def _openrlhf(function: Any, parameters: Mapping[str, inspect.Parameter]) -> Judge:
    def judge(completion: str, record: Mapping[str, Any]) -> Any:
        _, text, _ = _asked(record)
        label = record.get("label", _answer(record))
        found = _call(function, parameters, {"queries": [text + completion], "prompts": [text], "labels": [label]})
        return found if isinstance(found, Mapping) else _single(found)

    return judge
