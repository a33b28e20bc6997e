"""Moves over many steps at once, which bring the belief of a prompt that waited up to date when it is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Moves", "moved"]


def moved(belief: Tensor, matrix: Tensor, normalise: bool = True) -> Tensor:
    """Move the beliefs [G, K] of all kinds by `matrix`, [G or 1, K, K]."""
    ahead = (belief.unsqueeze(-2) @ matrix).squeeze(-2)
    return ahead / ahead.sum(-1, keepdim=True) if normalise else ahead


class Moves:
    """The moves of prompts while they are not rolled out, from step 0 on.

    A wait of g steps takes about log2 g matrix products. If moves are the same at all steps, they are the powers
    M, M^2, M^4, ... of one matrix. Otherwise they are products over aligned blocks of 1, 2, 4, ... steps, which all
    prompts share, no matter when their waits began.

    Args:
        matrix: [G or 1, K, K], row-stochastic, each kind's move at every step; None: `append` says each step's.
    """

    def __init__(self, matrix: Tensor | None = None) -> None:
        self.steady = matrix is not None
        self._levels: list[list[Tensor]] = [[]] if matrix is None else [[matrix.double()]]
        self._powers: dict[tuple[int, torch.dtype], Tensor] = {}

    def append(self, matrix: Tensor) -> None:
        """Add the moves of one more step, [G or 1, K, K]. If moves are the same at all steps, nothing is added."""
        if self.steady:
            return
        product, level = matrix.double(), 0
        self._levels[0].append(product)
        while len(self._levels[level]) % 2 == 0:
            product = self._levels[level][-2] @ self._levels[level][-1]
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(product)

    def over(self, belief: Tensor, kind: Tensor, start: Tensor, stop: Tensor | int) -> Tensor:
        """Move beliefs over a wait.

        Args:
            belief: [V, K], before the steps `start`.
            kind: long [V], the prompts' kinds.
            start: long [V], the steps for which the beliefs hold.
            stop: long [V] or one number, at least `start`: the steps to which the beliefs are moved.

        Returns:
            [V, K], a new tensor; rows sum to 1.
        """
        left = start.clone()
        end = torch.as_tensor(stop).expand(left.shape)
        belief = belief.clone()
        longest = int((end - left).max()) if len(left) else 0
        if longest == 0:
            return belief
        top = longest.bit_length()
        if self.steady:
            self._steadily(belief, kind, (end - left).numpy(), top)
        else:
            order = [(level, True) for level in range(top)] + [(level, False) for level in reversed(range(top))]
            for level, rising in order:
                going = left + (1 << level) <= end
                going = going & ((left >> level) & 1).bool() if rising else going
                self._apply(belief, kind, going, level, left >> level)
                left = torch.where(going, left + (1 << level), left)
        return belief.div_(belief.sum(-1, keepdim=True))

    def between(self, start: int, stop: int, like: Tensor) -> Tensor:
        """[G or 1, K, K], the moves from before step `start` to before step `stop` as matrices of `like`'s dtype."""
        first = self._levels[0][0] if self._levels[0] else torch.eye(like.shape[-1], dtype=torch.float64).unsqueeze(0)
        kinds, size = first.shape[0], first.shape[-1]
        rows = torch.eye(size, dtype=like.dtype).repeat(kinds, 1)
        kind = torch.arange(kinds).repeat_interleave(size)
        moved = self.over(rows, kind, torch.full([len(rows)], start), stop)
        return moved.view(kinds, size, size)

    def _steadily(self, belief: Tensor, kind: Tensor, gaps: Any, top: int) -> None:
        """Move each row of `belief` by the powers of one matrix that make up its gap, which has up to `top` digits."""
        for level in range(top):
            while len(self._levels) <= level:
                self._levels.append([self._levels[-1][0] @ self._levels[-1][0]])
            rows = torch.from_numpy(np.flatnonzero(gaps >> level & 1))
            if len(rows) == 0:
                continue
            matrix = self._power(level, belief.dtype)
            some = belief.index_select(0, rows)
            own = len(matrix) > 1
            after = (some.unsqueeze(-2) @ matrix[kind[rows]]).squeeze(-2) if own else some @ matrix[0]
            belief.index_copy_(0, rows, after)

    def _power(self, level: int, dtype: torch.dtype) -> Tensor:
        """[G or 1, K, K], the moves over 2^level steps where they are the same at all steps, in this dtype."""
        key = (level, dtype)
        if key not in self._powers:
            self._powers[key] = self._levels[level][0].to(dtype)
        return self._powers[key]

    def _apply(self, belief: Tensor, kind: Tensor, going: Tensor, level: int, block: Tensor) -> None:
        """Move the rows where `going` [V] by the products of `level`, that of number `block` [V]."""
        rows = going.nonzero().squeeze(-1)
        if len(rows) == 0:
            return
        used, which = block[rows].unique(return_inverse=True)
        matrices = torch.cat([self._levels[level][number] for number in used.tolist()]).to(belief.dtype)
        kinds = self._levels[0][0].shape[0]
        if len(matrices) == 1:
            belief[rows] = belief[rows] @ matrices[0]
            return
        which = which * kinds + (kind[rows] if kinds > 1 else 0)
        belief[rows] = (belief[rows].unsqueeze(-2) @ matrices[which]).squeeze(-2)
