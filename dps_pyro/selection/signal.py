r"""How much a group is expected to teach: the size of its advantages, whatever the loss, exact under a belief.

A group of n rollouts has advantages A_1..A_n. What they add to the gradient is `sum_j A_j grad log p_j`, whose squared
length is `sum_j A_j^2` times that of one completion's gradient, where those of different completions are about
orthogonal. The *signal* of a group is

    power 2:  E[sum_j A_j^2]            the expected squared advantage, which an acquisition ranks by
    power 1:  E[sqrt(sum_j A_j^2)]      the expected length, which has diminishing returns in n: group sizes go by it

over the predictive distribution of s. With the loss's own group baseline A depends on s alone (`losses.advantages`):

    grpo, dapo   sum A^2 = n - 1 where the group is useful, so that E = (n - 1) P(useful)
    dr_grpo      sum A^2 = s (n - s) / n,                            E = (n - 1) E[p (1 - p)]
    rloo         sum A^2 = n s (n - s) / (n - 1)^2,                  E = n^2 / (n - 1) E[p (1 - p)]

With the tracked baseline A_j = r_j - b_j, b_j = E[p | history, the n - 1 others], which also the prompt decides.

By the expected length per rollout, the best size for a prompt solved half of the time is 4 (grpo), and for one solved
one time in ten it is 12: small groups where the outcome is uncertain, larger ones for hard prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dps_pyro.lm.losses import Kind, advantages
from dps_pyro.support import checks
from dps_pyro.tracking.rates import Rates, chances, expected_next

__all__ = ["Signal", "best_sizes"]


@dataclass(frozen=True)
class Signal:
    """The signal of a group of rollouts with rewards of 0 and 1.

    Args:
        loss: whose advantages; unused with the tracked baseline.
        tracked: whether the baseline is the tracked one, `E[p | history, the group's other rollouts]`.
        power: 2 for the expected squared advantage, 1 for the expected length of the advantages.
    """

    loss: Kind = "grpo"
    tracked: bool = False
    power: float = 2.0

    def expected(self, rates: Rates, trials: int) -> Tensor:
        """float64 [N], the signal of a group of `trials` rollouts of each prompt, at least 0."""
        if trials == 0:
            return torch.zeros_like(rates.sequence(0, 0))
        return (chances(rates, trials) * self._strengths(rates, trials)).sum(-1)

    def after(self, rates: Rates, solved: Tensor, first: Tensor, more: int) -> Tensor:
        """float64 [N], the signal of whole groups of which `first` [N] rollouts are known, `solved` [N] of them right,
        and `more` are still to be drawn. With `more` = 0 it is the signal that is there already."""
        found = torch.zeros(len(solved), dtype=torch.float64)
        for size in first.unique().tolist():
            here = (first == size).nonzero().squeeze(-1)
            own, right = rates.of(here), solved[here].double()
            strengths = self._strengths(own, size + more)  # [V, size + more + 1]
            ahead = own.given(right, size - right)
            places = right.long().unsqueeze(-1) + torch.arange(more + 1)
            whole = strengths.expand(len(here), -1).gather(-1, places)
            found[here] = (chances(ahead, more) * whole).sum(-1)
        return found

    def most(self, trials: int) -> float:
        """The signal of the best group of `trials` rollouts that there can be, above 0, to scale by."""
        if self.tracked:
            return float(math.pow(trials, self.power / 2))
        return max(float(_table(self.loss, trials, self.power).max()), 1e-12)

    def _strengths(self, rates: Rates, trials: int) -> Tensor:
        """float64 [N or 1, trials + 1], `(sum A^2)^(power / 2)` of a group with 0, 1, ..., `trials` successes."""
        if not self.tracked:
            return _table(self.loss, trials, self.power).unsqueeze(0)
        # b[m] = E[p | m of the trials - 1 others are right], a column each
        baseline = [expected_next(rates, m, trials - 1 - m) for m in range(trials)]
        columns = []
        for s in range(trials + 1):
            right = s * (1 - baseline[s - 1]) ** 2 if s > 0 else torch.zeros_like(baseline[0])
            wrong = (trials - s) * baseline[s] ** 2 if s < trials else torch.zeros_like(baseline[0])
            columns.append((right + wrong) ** (self.power / 2))
        return torch.stack(columns, -1)


@cache
def _table(loss: Kind, trials: int, power: float) -> Tensor:
    """float64 [trials + 1], `(sum A^2)^(power / 2)` by the number of successes, from the loss's own advantages."""
    if trials < 2:
        return torch.zeros(trials + 1, dtype=torch.float64)
    rewards = torch.tril(torch.ones(trials + 1, trials, dtype=torch.float64), -1)  # row s has s ones
    return advantages(rewards, loss, eps=1e-12).square().sum(-1) ** (power / 2)


def best_sizes(rates: Rates, sizes: Sequence[int], signal: Signal = Signal(power=1.0)) -> Tensor:
    """Long [N], for each prompt the group size, among `sizes`, of the most signal per rollout.

    If the signal grows in proportion to the size (power 2), that is the largest size: use power 1.

    Raises:
        ValueError: there are no sizes, or one is below 1.
    """
    if not sizes:
        raise ValueError("sizes: expected at least one group size, got none")
    options = torch.tensor(sorted({checks.count("sizes", size, 1) for size in sizes}))
    worth = torch.stack([signal.expected(rates, n) / n for n in options.tolist()], -1)
    # Rounding must not decide between sizes that are as good: the smaller is taken, and reaches more prompts.
    best = worth.amax(-1, keepdim=True)
    return options[(worth >= best * (1 - 1e-9)).long().argmax(-1)]
