"""Pareto-smoothed importance sampling, and how far a guide is from the posterior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dps_pyro.inference.posterior import Posterior

__all__ = ["good_k", "k_hat", "psis"]


def k_hat(posterior: Posterior) -> float | None:
    """How far a guide is from the posterior: the Pareto k of its draws' importance weights (Yao et al. 2018, arXiv
    1802.02538). Up to `good_k(draws)`, at most 0.7, the guide is good; above, it is too narrow or of the wrong shape.
    None where the weights are not known (see `Posterior.log_weights`)."""
    if "k_hat" in posterior.about:
        found: float | None = posterior.about["k_hat"]
        return found
    if posterior.log_weights is None:
        return None
    return float(psis(posterior.log_weights.double().unsqueeze(-1))[1][0])


def good_k(draws: int) -> float:
    """The Pareto k up to which that many draws suffice: `min(1 - 1 / log10(S), 0.7)` (Vehtari et al. 2024, arXiv
    1507.02646)."""
    return min(1 - 1 / math.log10(draws), 0.7) if draws > 10 else 0.0


def psis(log_ratios: Tensor, efficiency: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pareto-smoothed importance sampling (Vehtari et al. 2024, arXiv 1507.02646): the largest ratios are replaced by
    the quantiles of a generalised Pareto distribution that is fitted to them.

    Args:
        log_ratios: float64 [S, V].
        efficiency: the share of the draws that are effective, in (0, 1]; below 1 for MCMC.

    Returns:
        Smoothed log weights [S, V] that sum to 1, and Pareto k [V]: infinite where the tail has fewer than five
        different ratios.
    """
    found = [_smooth(column, efficiency) for column in log_ratios.T]
    weights = torch.stack([one for one, _ in found], -1)
    return weights - weights.logsumexp(0), torch.tensor([k for _, k in found], dtype=torch.float64)


def _smooth(log_ratios: Tensor, efficiency: float) -> tuple[Tensor, float]:
    shifted = log_ratios - log_ratios.max()
    count = len(shifted)
    tail = math.ceil(min(count / 5, 3 * math.sqrt(count / efficiency))) + 1
    least = max(float(shifted.sort().values[-min(tail, count)]), math.log(torch.finfo(torch.float64).tiny))
    large = (shifted > least).nonzero().squeeze(-1)
    if len(large) <= 4:
        return shifted, math.inf
    large = large[shifted[large].argsort()]
    edge = math.exp(least)
    excess = shifted[large].exp() - edge
    if float(excess[0]) == float(excess[-1]):
        return shifted, math.inf
    k, sigma = _pareto(excess)
    if not math.isfinite(k):
        return shifted, math.inf
    share = (torch.arange(len(large), dtype=torch.float64) + 0.5) / len(large)
    quantiles = -torch.log1p(-share) if abs(k) < 1e-12 else torch.expm1(-k * torch.log1p(-share)) / k
    smoothed = (sigma * quantiles + edge).log().clamp_max(0.0)
    return shifted.index_copy(0, large, smoothed), k


def _pareto(excess: Tensor) -> tuple[float, float]:
    """The shape and the scale of a generalised Pareto distribution of rising positive numbers, by the estimate of Zhang
    and Stephens (2009) with the weak prior on the shape that PSIS has."""
    count = len(excess)
    number = 30 + int(math.sqrt(count))
    grid = 1 - (number / (torch.arange(1, number + 1, dtype=torch.float64) - 0.5)).sqrt()
    grid = grid / (3 * excess[int(count / 4 + 0.5) - 1]) + 1 / excess[-1]
    shape = torch.log1p(-grid.unsqueeze(-1) * excess).mean(-1)
    profile = count * ((-grid / shape).log() - shape - 1)
    weight = torch.softmax(profile, 0)
    weight = torch.where(weight >= 10 * torch.finfo(torch.float64).eps, weight, 0.0)
    centre = float((grid * weight).sum() / weight.sum())
    k = float(torch.log1p(-centre * excess).mean())
    return (count * k + 10 * 0.5) / (count + 10), -k / centre
