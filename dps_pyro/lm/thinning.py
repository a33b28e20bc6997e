"""Fewer completions in an update, with the same expected gradient and hardly more noise.

Where rewards are compared with a baseline, many completions say little: what was expected to succeed and did succeed
has an advantage near 0, and costs as much to train on as any other completion. `thinned` draws some of the completions,
those with large advantages first, and weights them so that nothing changes on average.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["chances", "thinned"]


def chances(advantages: Tensor, noise: float) -> Tensor:
    """The chance of each completion to be trained on: `min(1, c |A|)`, with the least c that keeps the noise bounded.

    The gradient `sum_i A_i g_i` is estimated by `sum_i drawn_i A_i g_i / chance_i`. If the gradients g_i are equally
    long and independent, its mean square grows from `sum_i A_i^2` to `sum_i A_i^2 / chance_i`. No other chances that
    let it grow by the factor `1 + noise` add up to less (sampling with probability proportional to size; Horvitz and
    Thompson, 1952). If all advantages are equally large, the chances are all 1 / (1 + noise). If a few are much larger
    than the rest, most of the rest is left out.

    Args:
        advantages: float [R], finite.
        noise: How much larger the mean square may become, as a share of itself, 0 or more.

    Returns:
        float64 [R], in 0..1; 0 for completions whose advantage is 0.

    Raises:
        ValueError: the noise is negative or not finite.
    """
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise: expected a number of 0 or more, got {noise}")
    sizes, order = advantages.double().abs().sort(descending=True)
    if noise == 0 or not bool((sizes > 0).any()):
        return (advantages != 0).double()
    # If the m largest are certain, the others' c is that of what the bound leaves for them. The smallest such m counts.
    squares = sizes.square()
    bound = (1 + noise) * squares.sum() - (squares.cumsum(0) - squares)
    slope = sizes.flip(0).cumsum(0).flip(0) / bound
    certain = int((slope * sizes > 1).long().cumprod(0).sum())
    drawn = torch.ones_like(sizes)
    if certain < len(sizes):
        drawn[certain:] = sizes[certain:] * slope[certain]
    return torch.empty_like(drawn).scatter_(0, order, drawn.clamp(max=1.0))


def thinned(advantages: Tensor, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw completions to train on, and the weights that keep the expected gradient as it is.

    The draw is systematic, in a random order: as many completions are drawn as the chances add up to, rounded up or
    down. Rollouts are left out of updates in PODS (arXiv 2504.13818), too, which keeps those whose rewards differ most
    and changes the gradient.

    Args:
        advantages: float [R], finite.
        noise: How much noisier the gradient may become; see `chances`.
        generator: The source of randomness.

    Returns:
        rows: long [k], the completions that were drawn, ascending.
        weights: [k], in the dtype of the advantages: 1 / chance of each, 1 or more. On average
            `(weights * advantages[rows] * x[rows]).sum()` is `(advantages * x).sum()`, for every x.

    Raises:
        ValueError: the noise is negative or not finite.
    """
    wanted = chances(advantages.cpu(), noise)
    order = torch.randperm(len(wanted), generator=generator)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    # One is drawn wherever the running sum of the chances passes a whole number, counted from a random start.
    passed = (start + wanted[order].cumsum(0)).floor()
    drawn = passed.diff(prepend=torch.zeros(1, dtype=torch.float64)) > 0
    rows = order[drawn | (wanted[order] >= 1)].sort().values
    return rows, (1 / wanted[rows]).to(advantages.dtype)
