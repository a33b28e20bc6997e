"""Late groups: the prompts concerned are filtered again, from group to group over the waits between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.dynamics.forward import condition, predict
from dps_pyro.dynamics.step import Field, Step
from dps_pyro.history.log import RolloutHistory
from dps_pyro.tracking.groups import State

if TYPE_CHECKING:
    from dps_pyro.tracking.pools.pooled import PooledTracker

__all__ = ["Late", "PromptGroups", "Replayed", "Score", "groups_of", "observe_late"]


class Score(NamedTuple):
    """The log-probability of some prompts' groups. Groups that the model holds impossible (-inf) are counted apart."""

    possible: Tensor  # [V, *ways], the sum over the groups that are possible
    impossible: Tensor  # [V, *ways], the number of the others

    @staticmethod
    def nothing(shape: tuple[int, ...], dtype: torch.dtype) -> Score:
        """Return the score of prompts without groups."""
        return Score(*torch.zeros(2, *shape, dtype=dtype))

    def plus(self, at: Tensor, evidence: Tensor) -> Score:
        """Add one more group for each of the prompts `at`."""
        never = evidence.isneginf()
        possible = self.possible.index_add(0, at, torch.where(never, 0.0, evidence))
        return Score(possible, self.impossible.index_add(0, at, never.to(evidence.dtype)))

    def less(self, other: Score) -> Tensor:
        """[V, *ways], the log-probability of these groups less that of others; -inf if more of these are impossible."""
        more = self.impossible > other.impossible
        return torch.where(more, float("-inf"), self.possible - other.possible)


class Replayed(NamedTuple):
    """The result of a replay of some prompts' history."""

    state: State
    score: Score


class PromptGroups(NamedTuple):
    """The groups of some prompts, ordered by prompt and then by step. Groups of one prompt and step are added up."""

    at: Tensor  # long [M], the places of their prompts, ascending
    step: Tensor  # long [M], ascending for each prompt
    solved: Tensor  # float64 [M]
    trials: Tensor  # long [M]
    trained: Tensor  # bool [M]
    turn: Tensor  # long [M], the number of earlier groups of the same prompt

    def visits(self, num_prompts: int) -> Tensor:
        """Long [V], the number of groups with rollouts of each of V prompts."""
        return torch.bincount(self.at[self.trials > 0], minlength=num_prompts)


def groups_of(history: RolloutHistory, rows: Tensor) -> PromptGroups:
    """Collect the groups of the prompts `rows` [V]. Places are positions in `rows`."""
    events = history.rows(rows)
    span = max(history.num_steps, 1)
    key, group = torch.unique(events.prompt * span + events.step, return_inverse=True)
    at = key // span
    solved = torch.zeros(len(key), dtype=torch.float64).index_add(0, group, events.solved)
    trials = torch.zeros(len(key), dtype=torch.long).index_add(0, group, events.trials)
    trained = torch.zeros(len(key), dtype=torch.long).index_add(0, group, events.trained.long()) > 0
    counts = torch.bincount(at, minlength=len(rows))
    turn = torch.arange(len(key)) - (counts.cumsum(0) - counts)[at]
    return PromptGroups(at, key % span, solved, trials, trained, turn)


class Filtered(NamedTuple):
    """The beliefs of some prompts before the coming step, and the log-probability of their groups."""

    belief: Tensor  # [V, K]
    score: Score  # [V]


def observe_late(tracker: PooledTracker, rows: Tensor, step: int, groups: dict[str, Any]) -> Tensor:
    """Groups of a step that has passed: their prompts are filtered again, from their own groups alone.

    Args:
        tracker: whose beliefs.
        rows: long [V].
        step: the groups' step.
        groups: their columns, for `RolloutHistory.append`.

    Returns:
        [V], what each group adds to the log-probability of its prompt's history.
    """
    if len(rows) == 0:
        return torch.zeros(0, dtype=tracker.dtype)
    kind = tracker.kinds.at(rows)
    late = Late(tracker, rows, kind)
    before = late.run(groups_of(tracker.history, rows))
    tracker.history.append(rows, step=step, **groups)
    again = late.run(groups_of(tracker.history, rows))
    slot = tracker.slots.of[rows].long()
    old = (slot >= 0).nonzero().squeeze(-1)
    gone = tracker.by_kind(kind[old], tracker.believed(slot[old]))
    stays = tracker.stay(groups["trials"], groups["trained"]) | (slot >= 0)  # others had no slot, and need none
    rows, kind, belief = rows[stays], kind[stays], again.belief[stays]
    tracker.mass_seen = tracker.mass_seen - gone + tracker.by_kind(kind, belief)
    tracker.take(rows, kind, belief, groups["trials"][stays] > 0)
    return again.score.less(before.score)


class Late:
    """Filters prompts again from step 0. The cost depends on the number of their own groups, not on that of all steps.

    Args:
        tracker: the filter that the prompts belong to.
        rows: long [V], the prompts.
        kind: long [V], their kinds.
    """

    def __init__(self, tracker: PooledTracker, rows: Tensor, kind: Tensor) -> None:
        self.tracker, self.rows, self.kind = tracker, rows, kind

    def run(self, groups: PromptGroups) -> Filtered:
        """Filter the groups, and return the prompts' beliefs before the coming step."""
        tracker, kind = self.tracker, self.kind
        groups, belief, since = tracker.begun(kind, groups)
        score = Score.nothing((len(self.rows),), tracker.dtype)
        by_turn = groups.turn.argsort(stable=True)
        for turn in by_turn.split(torch.bincount(groups.turn).tolist() if len(groups.turn) else []):
            for now in self._together(turn, groups.step[turn]):
                at, step, trials = groups.at[now], groups.step[now], groups.trials[now]
                ready = tracker.waited(belief[at], kind[at], since[at], step)
                what = self._step(step, trials, groups.trained[now])
                own = tracker.theta_of(self.rows[at])
                shown = tracker.shown(own, what, groups.solved[now], trials)
                found = condition(ready, shown)
                after = torch.where((trials > 0).unsqueeze(-1), found.belief, ready)
                ahead = predict(after, tracker.dynamics.transition(own, what).probs.to(tracker.dtype))
                belief[at] = tracker.followed(ahead, kind[at], step + 1)
                since[at] = step + 1
                score = score.plus(at, found.log_evidence)
        return Filtered(tracker.waited(belief, kind, since, tracker.step), score)

    def _together(self, which: Tensor, step: Tensor) -> list[Tensor]:
        """Divide groups into parts that are conditioned on together: all, or those of one step if laws depend on it."""
        if self.tracker.kinds.steady:
            return [which]
        order = step.argsort(stable=True)
        return list(which[order].split(step.unique(return_counts=True)[1].tolist()))

    def _step(self, step: Tensor, trials: Tensor, trained: Tensor) -> Step:
        tracker = self.tracker
        if tracker.kinds.steady:
            return Step(trials, trained)
        number = int(step[0])
        columns: dict[str, Field] = {
            name: tracker.level_at(name, number) for name in ["progress", *tracker.history.step_columns]
        }
        progress = columns.pop("progress")
        return Step(trials, trained, progress, torch.tensor([number]), columns=columns)
