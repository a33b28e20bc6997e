"""What happens to completions that were cut off at the length limit, or come near it (DAPO, arXiv 2503.14476)."""

from __future__ import annotations

import torch
from torch import Tensor

from dps_pyro.rollouts import Rollouts

__all__ = ["length_penalty", "truncated"]


def length_penalty(lengths: Tensor, limit: int, buffer: int) -> Tensor:
    """The soft overlong punishment, to be added to a reward (eq. 13): 0 up to `limit - buffer` tokens, from there down
    in a straight line to -1 at `limit`.

    Worked example, limit 20, buffer 5: 15 tokens or fewer cost nothing, 16 cost 0.2, 19 cost 0.8, 20 or more cost 1.

    Args:
        lengths: long, any shape; tokens of completions.
        limit: L_max, the sampling limit.
        buffer: L_cache, in 1..limit.

    Returns:
        float32 in [-1, 0], of the same shape.
    """
    return ((limit - buffer - lengths) / buffer).clamp(-1.0, 0.0).to(torch.float32)


def truncated(rollouts: Rollouts) -> Tensor:
    """bool [R], the rows that were cut off before they ended."""
    return torch.tensor([reason == "length" for reason in rollouts.finish], dtype=torch.bool)
