"""Pareto-smoothed importance sampling, and how far a guide is from the posterior."""

from __future__ import annotations

import importlib
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from dps_pyro.inference.posterior import Posterior

__all__ = ["good_k", "k_hat", "psis"]


def k_hat(posterior: Posterior) -> float | None:
    """How far a guide is from the posterior: the Pareto k of its draws' importance weights (Yao et al. 2018, arXiv
    1802.02538). Up to `good_k(draws)`, at most 0.7, the guide is good; above, it is too narrow or of the wrong shape.
    None where the weights are not known (see `Posterior.log_weights`)."""
    if posterior.log_weights is None:
        return None
    return float(psis(posterior.log_weights.double().unsqueeze(-1))[1][0])


def good_k(draws: int) -> float:
    """The Pareto k up to which that many draws suffice: `min(1 - 1 / log10(S), 0.7)` (Vehtari et al. 2024, arXiv
    1507.02646)."""
    return min(1 - 1 / math.log10(draws), 0.7) if draws > 10 else 0.0


def psis(log_ratios: Tensor, efficiency: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pareto-smoothed importance sampling, by ArviZ.

    Args:
        log_ratios: float64 [S, V].
        efficiency: the share of the draws that are effective, in (0, 1]; below 1 for MCMC.

    Returns:
        Smoothed log weights [S, V] that sum to 1, and Pareto k [V]: infinite where all ratios are the same or too few.
    """
    found = [_smooth(column, efficiency) for column in log_ratios.T]
    weights = torch.stack([one for one, _ in found], -1)
    return weights - weights.logsumexp(0), torch.tensor([k for _, k in found], dtype=torch.float64)


def _smooth(log_ratios: Tensor, efficiency: float) -> tuple[Tensor, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bad k, which the caller tells of; and of ArviZ's own future
        import arviz

        try:
            if int(arviz.__version__.partition(".")[0]) < 1:
                old: Any = arviz.psislw
                weights, k = old(log_ratios.numpy(), reff=efficiency)
            else:
                new = importlib.import_module("arviz_stats.base").array_stats.psislw
                # From 1.0 it is given log likelihoods, and takes their negatives for log ratios itself.
                weights, k = new(-log_ratios.numpy(), r_eff=efficiency)
        except ValueError:  # from 1.0: a tail of fewer than five draws, or of equal ones
            return log_ratios, math.inf
    return torch.as_tensor(weights, dtype=torch.float64), float(k) if math.isfinite(k) else math.inf
