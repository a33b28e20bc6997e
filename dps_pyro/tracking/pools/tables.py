"""The laws of prompts that are alike, by the size of a group: computed once, and then looked up.

If the laws of a model are the same at all steps, what a group says of its prompt depends on the prompt's kind, on the
number of rollouts, and on how many of them solved it. A training run has few sizes of groups, so that the likelihoods
of all outcomes fit into a small table, and a step makes no distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.dynamics.forward import condition, predict
from dps_pyro.dynamics.step import Step
from dps_pyro.tracking.laws import MOST_TABLES, outcomes

if TYPE_CHECKING:
    from dps_pyro.tracking.pools.pooled import PooledTracker

__all__ = ["Moved", "Tables", "moved_by_laws"]

MOST_NUMBERS = 1 << 20
"""A table with more numbers than this is not made."""


class Moved(NamedTuple):
    """What is believed of some prompts after their groups and the step's move, and how probable the groups were."""

    belief: Tensor  # [V, K]
    log_evidence: Tensor  # [V]


def moved_by_laws(
    tracker: PooledTracker,
    belief: Tensor,
    rows: Tensor,
    solved: Tensor,
    trials: Tensor,
    trained: Tensor,
    at: int,
    known: Mapping[str, float],
) -> Moved:
    """What is believed of the prompts `rows` [V] after their groups of step `at` and the move, by the model's laws.
    `belief` [V, K] is what was believed before, and `known` what is known of the step."""
    everywhere = tracker._step(trials, trained, number=at, known=known)
    theta = tracker.theta_of(rows)
    conditioned = condition(belief, tracker.shown(theta, everywhere, solved, trials))
    after = torch.where((trials > 0).unsqueeze(-1), conditioned.belief, belief)
    if len(rows):
        after = predict(after, tracker.dynamics.transition(theta, everywhere).probs.to(tracker.dtype))
    return Moved(after, conditioned.log_evidence)


class _Table(NamedTuple):
    """The laws for groups of one size."""

    likelihood: Tensor  # [(G or 1) * (trials + 1), K], p(solved | state), divided by its largest value over the states
    shift: Tensor  # [(G or 1) * (trials + 1)], the logarithm of that value
    move: Tensor  # [G or 1, K, K], the move after the group


class Tables:
    """The likelihoods and moves of a tracker whose model has the same laws at all steps.

    Args:
        tracker: the tracker.
        theta: the parameters of one prompt of each kind.
    """

    def __init__(self, tracker: PooledTracker, theta: Any) -> None:
        self.tracker, self.theta = tracker, theta
        self._tables: dict[tuple[int, bool], _Table | None] = {}

    def moved(self, belief: Tensor, kind: Tensor, solved: Tensor, trials: Tensor, trained: Tensor) -> Moved | None:
        """The beliefs [V, K] of prompts of the kinds [V], at least one, after their groups and the step's move.

        None where the tables do not say: the groups are of too many or too large sizes, `solved` has fractions, or an
        outcome is so improbable that it has to be treated with more care (`dps_pyro.dynamics.forward.condition`).
        """
        counts = solved.long()
        if not bool((counts == solved).all()):
            return None
        code = trials * 2 + trained
        first = int(code[0])
        if bool((code == first).all()):
            return self._of_one(belief, kind, counts, first)
        codes, where = code.unique(return_inverse=True)
        if len(codes) > MOST_TABLES // 2:
            return None
        after, evidence = torch.empty_like(belief), belief.new_empty(len(belief))
        for number, one in enumerate(codes.tolist()):
            at = (where == number).nonzero().squeeze(-1)
            found = self._of_one(belief[at], kind[at], counts[at], one)
            if found is None:
                return None
            after[at], evidence[at] = found
        return Moved(after, evidence)

    def _of_one(self, belief: Tensor, kind: Tensor, counts: Tensor, code: int) -> Moved | None:
        """The same for groups of one size."""
        trials, trained = code >> 1, bool(code & 1)
        table = self._table(trials, trained)
        if table is None:
            return None
        at = counts if len(table.shift) == trials + 1 else counts + kind * (trials + 1)
        joint = belief * table.likelihood.index_select(0, at)
        evidence = joint.sum(-1, keepdim=True)
        limits = torch.finfo(evidence.dtype)
        if not bool(evidence.amin() > limits.tiny / limits.eps):
            return None
        move = table.move
        ahead = joint @ move[0] if len(move) == 1 else (joint.unsqueeze(-2) @ move[kind]).squeeze(-2)
        log_evidence = evidence.squeeze(-1).log() + table.shift[at]
        return Moved(ahead.div_(ahead.sum(-1, keepdim=True)), log_evidence)

    def _table(self, trials: int, trained: bool) -> _Table | None:
        key = (trials, trained)
        if key not in self._tables:
            if len(self._tables) >= MOST_TABLES:
                self._tables.clear()
            self._tables[key] = self._made(trials, trained)
        return self._tables[key]

    def _made(self, trials: int, trained: bool) -> _Table | None:
        tracker = self.tracker
        if tracker.pool.numel() * (trials + 1) > MOST_NUMBERS:
            return None
        dynamics, theta, dtype = tracker.dynamics, self.theta, tracker.dtype
        step = Step(torch.tensor([trials]), torch.tensor([trained]))
        shown = outcomes(dynamics.emission(theta, step), trials, dtype).transpose(0, 1).flatten(0, 1)
        largest = shown.amax(-1, keepdim=True)
        shift = torch.where(largest > float("-inf"), largest, 0.0)
        move = dynamics.transition(theta, step).probs.to(dtype)
        return _Table((shown - shift).exp(), shift.squeeze(-1), move if move.ndim == 3 else move.unsqueeze(0))
