"""How many candidates to roll out at a time, until a batch of useful groups is full."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["completing"]


def completing(chances: Tensor, missing: int) -> int:
    """The number of candidates, from the first on, that are expected to give at most the missing useful groups.

    Dynamic sampling (DAPO, arXiv 2503.14476) rolls prompts out in rounds until a batch of useful groups is full, and
    useful groups above that are rolled out in vain. With predicted chances, a round can be as large as it may be
    without more useful groups than are missing in expectation.

    Args:
        chances: [C], C at least 1, the chance of each candidate that its group is useful, 0..1, such as
            `PromptSampler.informative(trials)[rows]`.
        missing: the number of useful groups that are missing, at least 1.

    Returns:
        The number of candidates of the next round, 1..C.

    Raises:
        ValueError: there are no candidates, or nothing is missing.
    """
    if chances.ndim != 1 or len(chances) == 0:
        raise ValueError(f"chances: expected shape [candidates] with at least one, got {list(chances.shape)}")
    if missing < 1:
        raise ValueError(f"missing: expected at least 1, got {missing}")
    return max(1, int((chances.to(torch.float64).cumsum(0) <= missing).sum()))
