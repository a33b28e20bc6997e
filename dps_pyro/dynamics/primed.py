"""A fitted posterior as the prior of the next fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

__all__ = ["Primed"]

Theta = TypeVar("Theta")
NARROWEST = 1e-3
"""No prior made of draws has a smaller standard deviation than this, in unconstrained space."""


class Primed(Generic[Theta]):
    """A prior whose sites that all prompts share follow a fit's draws: each number independently normal in
    unconstrained space, with the draws' mean and `widen` times their standard deviation. Sites that the draws do not
    have, and the prompts' own, are drawn as before.

    Args:
        prior: the model's own.
        draws: site -> [S, ...], at least two.
        widen: what standard deviations are multiplied by, positive.
    """

    def __init__(self, prior: Callable[[pyro.plate], Theta], draws: Mapping[str, Tensor], widen: float) -> None:
        self.prior, self.draws, self.widen = prior, dict(draws), widen

    def __call__(self, prompts: pyro.plate) -> Theta:
        """Draw the parameters.

        Raises:
            ValueError: a site's draws are of another shape than the site.
        """
        with _Follow(self.draws, self.widen):
            return self.prior(prompts)


class _Follow(Messenger):
    """Give sites the law that draws follow."""

    def __init__(self, draws: Mapping[str, Tensor], widen: float) -> None:
        super().__init__()
        self.draws, self.widen = draws, widen

    def _pyro_sample(self, msg: Any) -> None:
        own = any(frame.name == "prompts" for frame in msg["cond_indep_stack"])
        if own or msg["name"] not in self.draws or msg["is_observed"]:
            return
        draws, law = self.draws[msg["name"]], msg["fn"]
        if draws.shape[1:] != law.shape():
            came = f"got {tuple(draws.shape[1:])}: they are of another model"
            raise ValueError(f"posterior: expected draws of {msg['name']!r} of shape {tuple(law.shape())}, {came}")
        msg["fn"] = _law(draws.to(torch.get_default_dtype()), law.support, self.widen)


def _law(draws: Tensor, support: Any, widen: float) -> TorchDistribution:
    transform = biject_to(support)
    free: Tensor = transform.inv(_inside(draws, support))
    spread = (free.std(0) * widen).clamp_min(NARROWEST)
    base: Any = dist.Normal(free.mean(0), spread)
    if _is_real(support):
        return base.to_event(support.event_dim)  # type: ignore[no-any-return]
    return dist.TransformedDistribution(base, [transform])  # type: ignore[no-any-return]


def _is_real(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support in (constraints.real, constraints.real_vector)


def _inside(draws: Tensor, support: Any) -> Tensor:
    """Draws that rounding has put on the edge of the support, a chance of exactly 0, are moved inside."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.simplex:
        kept = draws.clamp_min(1e-6)
        return kept / kept.sum(-1, keepdim=True)
    if support is constraints.unit_interval:
        return draws.clamp(1e-6, 1 - 1e-6)
    if support in (constraints.positive, constraints.nonnegative):
        return draws.clamp_min(1e-6)
    return draws
