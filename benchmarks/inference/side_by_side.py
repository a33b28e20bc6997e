"""`fit`'s SVI of many histories of one model at once: a guide for each, and one optimizer step for all of them.

A step of one small history takes milliseconds whatever its size; a step of fifty takes little longer. Guides,
optimizer and learning rates are those of `dps_pyro.inference.svi`, and Adam keeps its averages entry by entry, so that
each history's course is the one that it would have had alone; tests/inference/test_recovery.py holds one beside `fit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pyro
import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal
from torch.nn.functional import softplus

from dps_pyro.evaluation.parallel_hmc import Posteriors
from dps_pyro.inference.svi import INIT_SCALE

__all__ = ["guides"]


def guides(
    posteriors: Posteriors,
    start: Tensor,
    kind: Literal["normal", "low_rank"],
    *,
    steps: int,
    draws: int,
    learning_rate: float = 0.05,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Fit a guide to each of S posteriors.

    Args:
        posteriors: their log densities in unconstrained space, [S, D].
        start: [D], where the guides start: the prior's mean.
        kind: independent normals, or a normal whose covariance is diagonal plus a matrix of rank √D.
        steps: of SVI; no early stop.
        draws: L, from each guide.
        learning_rate: Adam's, which falls tenfold on the way.
        seed: of everything drawn. The global RNG is left as it was.

    Returns:
        The draws in unconstrained space, [L, S, D]; and [steps, S], the losses.
    """
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        size, dim = posteriors.start.shape
        loc = start.expand(size, -1).clone().requires_grad_()
        parameters = [loc]
        if kind == "normal":
            raw = torch.full_like(loc, INIT_SCALE).expm1().log().detach().requires_grad_()
            parameters.append(raw)
            law: Callable[[], torch.distributions.Distribution] = lambda: torch.distributions.Independent(  # noqa: E731
                torch.distributions.Normal(loc, softplus(raw)), 1
            )
        else:
            rank = round(dim**0.5)
            raw = torch.full_like(loc, 0.5**0.5 * INIT_SCALE).expm1().log().detach().requires_grad_()
            factor = (torch.randn(size, dim, rank) / rank**0.5).requires_grad_()
            parameters += [raw, factor]

            def law() -> torch.distributions.Distribution:
                scale = softplus(raw)
                return LowRankMultivariateNormal(loc, factor * scale.unsqueeze(-1), scale.square())

        optimizer = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.99))
        losses = []
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.1 ** (step / steps)
            guide = law()
            position = guide.rsample()
            loss = guide.log_prob(position) - posteriors.log_density(position)[0]
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            losses.append(loss.detach())
        with torch.no_grad():
            return law().sample(torch.Size([draws])), torch.stack(losses)
