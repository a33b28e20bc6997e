"""A score of how easy a prompt is for its group, learned online from the features of the visited prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.dynamics.features import design_matrix
from dps_pyro.history.log import Features

__all__ = ["ENOUGH", "KNOTS", "Places", "Scores"]

KNOTS = 8
"""The number of knots of the score. A prompt between two of them belongs to both, in proportion to its nearness."""
ENOUGH = 20
"""The number of visited prompts from which on a score is learned."""
MOST = 64
"""The largest number of columns of features. More are reduced to as many principal components."""
SPREAD = 1.0
"""The variance of prompts' logits around the regression."""
ROUNDS = 8
"""The number of steps of the fixed point for the precision of the weights."""


class Places(NamedTuple):
    """Where prompts stand among cells: each between two neighbouring cells of its group."""

    lower: Tensor  # long [V]
    upper: Tensor  # long [V]
    share: Tensor | None  # [V, 1], the upper cell's share of the prompt; None if all prompts are in the lower one

    @staticmethod
    def among(score: Tensor, knots: Tensor, group: Tensor) -> Places:
        """The places of scores [V] among knots [KNOTS], ascending, of prompts of the groups [V]."""
        below = (torch.searchsorted(knots, score, right=True) - 1).clamp(0, KNOTS - 2)
        width = knots[below + 1] - knots[below]
        share = torch.where(width > 0, (score - knots[below]) / width.clamp_min(1e-300), 0.0).clamp(0, 1)
        lower = group * KNOTS + below
        return Places(lower, lower + 1, share.unsqueeze(-1))

    def at(self, rows: Tensor) -> Places:
        """The places of some of the prompts."""
        return Places(self.lower[rows], self.upper[rows], None if self.share is None else self.share[rows])

    def shares(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Each prompt's cells, long [V], and its share in them, [V, 1]; None is all."""
        if self.share is None:
            yield self.lower, None
            return
        share = self.share.to(like)
        yield self.lower, 1 - share
        yield self.upper, share

    def between(self, value: Tensor) -> Tensor:
        """[V, ...], the cells' values [C, ...] at the places: those of a prompt's two cells by its shares in them."""
        if self.share is None:
            return value[self.lower]
        return torch.lerp(value[self.lower], value[self.upper], self.share.to(value))


class Scores:
    """The features of prompts, and the regression that scores them.

    Within each group, the prompts' logits are taken to be normal around a linear function of their features. What the
    rollouts of a prompt say is the posterior of the dynamics model's own filter with its prior taken out, as a normal
    observation. The weights are normal with one precision, that of the largest evidence (MacKay, 1992). Prompts count
    once, however often they were rolled out, so that it does not matter that rollouts went to promising ones.

    Args:
        features: as `design_matrix` takes them.
    """

    def __init__(self, features: Features | Tensor) -> None:
        matrix = design_matrix(features).matrix
        if matrix.shape[1] > MOST:
            left, scale, _ = torch.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
            matrix = left[:, :MOST] * scale[:MOST]
        self.matrix = matrix
        """float64 [N, F]."""

    def check(self, num_prompts: int) -> None:
        """Raise a ValueError if there are fewer features than prompts."""
        if num_prompts > len(self.matrix):
            raise ValueError(f"features: expected those of {num_prompts} prompts, got those of {len(self.matrix)}")

    def of(self, weights: Tensor, rows: Tensor | None) -> Tensor:
        """float64 [V], the scores of the prompts `rows` [V], or of all."""
        score: Tensor = (self.matrix if rows is None else self.matrix[rows]) @ weights
        return score

    def learn(self, belief: Tensor, start: Tensor, logit: Tensor, rows: Tensor, group: Tensor) -> Tensor:
        """float64 [F], the weights of the score.

        Args:
            belief: [V, K], what the dynamics model alone believes of the visited prompts.
            start: [V, K], what it expects of a prompt that was never rolled out.
            logit: float64 [V or 1, K], the logit of each state's mean reward.
            rows: long [V], the visited prompts.
            group: long [V], their groups.
        """
        mean, variance = _moments(belief, logit)
        before, wide = _moments(start, logit)
        known = (1 - variance / wide.clamp_min(1e-12)).clamp(0.02, 0.98)  # the rollouts' share in the posterior
        seen, noise = (mean - before) / known, wide * (1 - known) / known
        weight = 1 / (SPREAD + noise)
        columns = self.matrix[rows]
        columns, seen = (_within(value, weight, group) for value in (columns, seen))
        square = (columns * weight.unsqueeze(-1)).mT @ columns
        strength, axes = torch.linalg.eigh(square)
        strength, along = strength.clamp_min(0.0), axes.mT @ (columns.mT @ (weight * seen))
        precision = torch.ones((), dtype=torch.float64)
        for _ in range(ROUNDS):
            found = along / (strength + precision)
            size = (strength / (strength + precision)).sum()
            precision = ((size + 0.5) / (found.square().sum() + 0.5)).clamp(1e-3, 1e4)
        weights: Tensor = axes @ (along / (strength + precision))
        return weights


def _moments(belief: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    """float64 [V] each, the mean and the variance of the logit under beliefs [V, K]."""
    chance = belief.double()
    mean = (chance * logit).sum(-1)
    return mean, (chance * logit.square()).sum(-1) - mean.square()


def _within(value: Any, weight: Tensor, group: Tensor) -> Any:
    """Columns [V] or [V, F] less their weighted means in each group [V]."""
    flat = value.unsqueeze(-1) if value.ndim == 1 else value
    groups = int(group.max()) + 1
    total = weight.new_zeros(groups).index_add(0, group, weight).clamp_min(1e-300)
    mean = flat.new_zeros(groups, flat.shape[1]).index_add(0, group, flat * weight.unsqueeze(-1)) / total.unsqueeze(-1)
    centred = flat - mean[group]
    return centred.squeeze(-1) if value.ndim == 1 else centred
