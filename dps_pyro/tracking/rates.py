"""The beliefs about the prompts' success rates, from which the chance of every sequence of outcomes follows.

The rollouts of one prompt in one step are independent given its success rate p, and p itself is uncertain. All numbers
that a selector or an advantage needs are then moments of p:

    P(a given sequence of s successes and f failures) = E[p^s (1 - p)^f]
    P(s of n)                                         = C(n, s) E[p^s (1 - p)^(n - s)]
    E[p | s successes and f failures]                 = E[p^(s+1) (1 - p)^f] / E[p^s (1 - p)^f]

A hidden Markov model's belief is a mixture of its states' rates (`Mixture`); a bandit's is a Beta (`BetaRates`). Both
are exact.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["BetaRates", "Mixture", "Rates", "chances", "expected_next"]

LEAST = 1e-6
"""The least distance of a rate from 0 and from 1, so that no outcome is impossible."""


class Rates(Protocol):
    """The law of each of N prompts' success rates before the coming step."""

    def sequence(self, solved: Tensor | int, failed: Tensor | int) -> Tensor:
        """float64 [N], the chance of so many successes and failures, [N] or one number, in one given order."""
        ...

    def given(self, solved: Tensor, failed: Tensor) -> Rates:
        """The law after `solved` [N] successes and `failed` [N] failures in the same step."""
        ...

    def of(self, rows: Tensor) -> Rates:
        """The law of the prompts `rows`, long [V]; rows may repeat."""
        ...


class Mixture(NamedTuple):
    """A success rate that is one of K values."""

    values: Tensor  # float64 [N or 1, K], in (0, 1)
    weights: Tensor  # float64 [N, K], rows sum to 1

    @staticmethod
    def of_states(values: Tensor, weights: Tensor) -> Mixture:
        """Make the mixture of the states' rates, [N or 1, K] or [K], weighted by a belief over them, [N, K]."""
        rates = values.double().clamp(LEAST, 1 - LEAST)
        return Mixture(rates if rates.ndim == 2 else rates.unsqueeze(0), weights.double())

    def sequence(self, solved: Tensor | int, failed: Tensor | int) -> Tensor:
        """See `Rates`."""
        if isinstance(solved, int) and isinstance(failed, int):
            by_state = self.values**solved * (1 - self.values) ** failed
            # If the prompts share the states' rates, one product serves all of them.
            return self.weights @ by_state[0] if len(by_state) == 1 else (self.weights * by_state).sum(-1)
        return (self.weights * self._log_likelihood(solved, failed).exp()).sum(-1)

    def given(self, solved: Tensor, failed: Tensor) -> Mixture:
        """See `Rates`."""
        weights = (self.weights.log() + self._log_likelihood(solved, failed)).softmax(-1)
        return Mixture(self.values, weights)

    def of(self, rows: Tensor) -> Mixture:
        """See `Rates`."""
        return Mixture(self.values if len(self.values) == 1 else self.values[rows], self.weights[rows])

    def _log_likelihood(self, solved: Tensor | int, failed: Tensor | int) -> Tensor:
        right, wrong = (torch.as_tensor(x, dtype=torch.float64).reshape(-1, 1) for x in (solved, failed))
        return right * self.values.log() + wrong * torch.log1p(-self.values)


class BetaRates(NamedTuple):
    """A success rate with a Beta distribution."""

    alpha: Tensor  # float64 [N], above 0
    beta: Tensor  # float64 [N], above 0

    def sequence(self, solved: Tensor | int, failed: Tensor | int) -> Tensor:
        """See `Rates`."""
        after = _log_beta(self.alpha + solved, self.beta + failed)
        return (after - _log_beta(self.alpha, self.beta)).exp()

    def given(self, solved: Tensor, failed: Tensor) -> BetaRates:
        """See `Rates`."""
        return BetaRates(self.alpha + solved, self.beta + failed)

    def of(self, rows: Tensor) -> BetaRates:
        """See `Rates`."""
        return BetaRates(self.alpha[rows], self.beta[rows])


def chances(rates: Rates, trials: int) -> Tensor:
    """float64 [N, trials + 1], the predictive chances of 0, 1, ..., `trials` successes in a group; rows sum to 1."""
    columns = [math.comb(trials, s) * rates.sequence(s, trials - s) for s in range(trials + 1)]
    return torch.stack(columns, -1)


def expected_next(rates: Rates, solved: Tensor | int, failed: Tensor | int) -> Tensor:
    """float64 [N], `E[p | solved successes and failed failures]`: the chance that one more rollout succeeds."""
    return rates.sequence(solved + 1, failed) / rates.sequence(solved, failed).clamp_min(1e-300)


def _log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha.lgamma() + beta.lgamma() - (alpha + beta).lgamma()
