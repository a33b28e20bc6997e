"""Single rollouts, as logs have them, counted into a history."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dps_pyro.history.counts import count_groups
from dps_pyro.history.log import RolloutHistory
from dps_pyro.support import checks

__all__ = ["Rollout", "history_of", "prompt_id"]


class Rollout(NamedTuple):
    """One completion of one prompt."""

    prompt: str  # the prompt's id
    step: int  # the training step it was rolled out for
    reward: float  # NaN where it was not scored


def prompt_id(prompt: Any) -> str:
    """The id of a prompt whose log has none: 16 hexadecimal digits of the SHA-256 of its text, or of its messages'
    roles and contents. The same prompt has the same id in every log, and in a sampler made with
    `num_prompts=[prompt_id(p) for p in dataset["prompt"]]`."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def history_of(
    rollouts: Iterable[Rollout],
    *,
    solved_at: float | None = 1.0,
    every: int = 1,
    ids: Sequence[str] | None = None,
) -> RolloutHistory:
    """Count rollouts into groups, one per prompt and step.

    Args:
        rollouts: in any order.
        solved_at: a rollout with at least this reward solved its prompt; None counts rewards within 0..1 as they are.
        every: optimizer steps a generation: logs number the optimizer's steps, a history counts generations. The first
            step that was logged is step 0.
        ids: the prompts of the history, in row order; others are left out. All there are, as they come, if left out.

    Raises:
        ValueError: there are no rollouts, or an argument or a step is out of range.
    """
    every = checks.count("every", every, 1)
    known = None if ids is None else set(ids)
    by_step: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        if known is None or rollout.prompt in known:
            by_step.setdefault(checks.count("step", rollout.step, 0), []).append(rollout)
    if not by_step:
        raise ValueError("rollouts: expected at least one of the prompts asked for, got none")
    steps = sorted(by_step)
    groups: dict[int, list[Rollout]] = {}
    for step in steps:
        groups.setdefault((step - steps[0]) // every, []).extend(by_step[step])
    names = list(dict.fromkeys(one.prompt for group in groups.values() for one in group)) if ids is None else list(ids)
    row = {name: at for at, name in enumerate(names)}
    history = RolloutHistory(names)
    for step, group in groups.items():
        counts = count_groups([row[one.prompt] for one in group], [one.reward for one in group], solved_at)
        history.append(counts.prompts, step=step, solved=counts.solved, trials=counts.trials, useful=counts.useful())
    return history
