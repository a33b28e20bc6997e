"""What verl's trajectories say of their prompts: which of them count, which were solved, and how many of each group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Count", "Rule", "Trajectory", "count"]


class Rule(NamedTuple):
    """When a trajectory has solved its prompt: `metric >= threshold`.

    The metric is "reward" (the sum of its token-level scores, before any KL penalty), the name of an entry that the
    reward function returned beside the score ("acc", for instance), or "auto": "acc" where the reward function gives
    it, "reward" elsewhere. At the default threshold of 0.5, rewards in {0, 1} and in {-1, 1} read alike, and a bonus of
    0.1 for the format is no solution.
    """

    metric: str = "auto"
    threshold: float = 0.5


class Trajectory(NamedTuple):
    """One output of one rollout. An agent's rollout may have several outputs; the last one counts."""

    uid: str  # of the group: one prompt, dispatched once
    session: int  # which of the group's rollouts
    index: int  # type: ignore[assignment]  # hides tuple.index; which of the rollout's outputs
    reward: float  # the sum of its token-level scores
    extra: Mapping[str, Any]  # what the reward function returned beside the score
    version: int | None = None  # the number of updates of the policy that finished it; None where unknown


class Count(NamedTuple):
    """One group: `solved` of `trials` rollouts. A rollout that failed on the way is in neither."""

    solved: int
    trials: int
    version: int | None  # the newest policy that finished one of them; None where unknown


def count(trajectories: Iterable[Trajectory], rule: Rule) -> dict[str, Count]:
    """The groups that the trajectories make up, by uid, in the order in which they first appear.

    Raises:
        ValueError: a trajectory lacks the rule's metric, or its value is not a number.
    """
    last: dict[tuple[str, int], Trajectory] = {}
    for one in trajectories:
        rollout = (one.uid, one.session)
        if rollout not in last or last[rollout].index < one.index:
            last[rollout] = one
    groups: dict[str, Count] = {}
    for one in last.values():
        solved, trials, version = groups.get(one.uid, Count(0, 0, None))
        versions = [known for known in (version, one.version) if known is not None]
        solved += _value(one, rule.metric) >= rule.threshold
        groups[one.uid] = Count(solved, trials + 1, max(versions, default=None))
    return groups


def _value(one: Trajectory, metric: str) -> float:
    if metric == "reward" or (metric == "auto" and "acc" not in one.extra):
        found: Any = one.reward
    else:
        name = "acc" if metric == "auto" else metric
        if name not in one.extra:
            there = ", ".join(["reward", *sorted(one.extra)])
            raise ValueError(f"data.dps_pyro.metric: expected one of {there}, got {metric!r}")
        found = one.extra[name]
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"data.dps_pyro.metric: expected a number as the {metric} of a rollout, got {found!r}")
    return value
