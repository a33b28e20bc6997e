"""The log-probability of groups, of which some may be impossible."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Score"]


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
