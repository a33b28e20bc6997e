"""Acquisitions as waits: what lets a pool of equals be drawn from without a number for each of them.

Each prompt waits an exponential time, W ~ Exp(1), and its score is a function of W that falls. The highest scores of m
prompts that are equal are then those of their shortest waits, and these follow in closed form (Rényi): the k-th
shortest of m is the sum over j < k of Exp(1) / (m - j). The functions have the laws of
`dps_pyro.selection.acquisition`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dps_pyro.selection import acquisition
from dps_pyro.selection.acquisition import Acquisition

__all__ = ["Rule", "Seen", "drawn", "rule_of", "shortest", "thompson"]

TIE = 1e-7
"""Scores closer than this are ties, as in `dps_pyro.selection.acquisition`."""
FOREVER = 2.0**30
"""Rounds that are as good as for ever."""


class Seen(NamedTuple):
    """What is known of V prompts before the coming step."""

    chance: Tensor  # [V], of a useful group
    belief: Callable[[], Tensor]  # [V, K]
    rates: Callable[[], Tensor]  # [V or 1, K], the states' success rates


Rule = Callable[[Seen, Tensor], Tensor]
"""`(seen, waits [V]) -> scores [V]`, float64; each falls where its wait grows."""


def rule_of(acquire: Acquisition) -> Rule | None:
    """The rule of an acquisition; None if it has no rule and needs all prompts at once."""
    rules: dict[Acquisition, Rule] = {
        acquisition.top: top,
        acquisition.thompson: thompson,
        acquisition.entropy: entropy,
        acquisition.uniform: uniform,
    }
    if isinstance(acquire, partial):
        named: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
            acquisition.soft_scores: soft,
            acquisition.target_scores: target,
        }
        if acquire.func is acquisition.variance_scores:
            inner = acquire.keywords["acquire"]
            return None if inner is acquisition.thompson else rule_of(inner)  # its rounds ask for more than an order
        found = named.get(acquire.func)
        return None if found is None else partial(found, **acquire.keywords)
    return rules.get(acquire)


def drawn(number: int, generator: torch.Generator) -> Tensor:
    """float64 [number], waits drawn from the exponential distribution of mean 1, several times faster than by torch."""
    return torch.from_numpy(-np.log1p(-torch.rand(number, generator=generator, dtype=torch.float64).numpy()))


def shortest(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """float64 [G, count], the shortest waits in each pool of `sizes` [G] equals, in order; infinite where a pool has no
    more."""
    place = torch.arange(count)
    steps = drawn(len(sizes) * count, generator).view(len(sizes), count)
    left = sizes.unsqueeze(-1) - place
    return torch.where(left > 0, steps / left.clamp_min(1), float("inf")).cumsum(-1)


def top(seen: Seen, waits: Tensor) -> Tensor:
    """The highest chances, ties broken at random."""
    return seen.chance.double() + TIE * torch.exp(-waits)


def thompson(seen: Seen, waits: Tensor) -> Tensor:
    """Minus the round in which the prompt is first drawn useful, minus a uniform place within the round.

    Both come of one wait: with l = -log(1 - p) the round is floor(W / l), and what is left of the wait, less than l, is
    spread evenly over the round's places by (1 - exp(-rest)) / p.
    """
    chance = seen.chance.double().clamp(0, 1)
    each = -torch.log1p(-chance)
    rounds = torch.floor(waits / each).nan_to_num(nan=0.0).clamp(max=FOREVER)
    rest = waits - torch.where(rounds > 0, rounds * each, 0.0)
    place = torch.where(rounds < FOREVER, -torch.expm1(-rest) / chance.clamp_min(1e-300), -torch.expm1(-waits))
    return -(rounds + place.clamp(0, 1))


def soft(seen: Seen, waits: Tensor, *, sharpness: float) -> Tensor:
    """`log w - log W`, w = p ** sharpness: Gumbel keys of the weights w, as -log W is a Gumbel variable."""
    return sharpness * seen.chance.double().clamp_min(1e-12).log() - waits.clamp_min(1e-300).log()


def entropy(seen: Seen, waits: Tensor) -> Tensor:
    """The entropy of the belief, ties broken at random."""
    scores: Tensor = torch.special.entr(seen.belief()).sum(-1).double() + TIE * torch.exp(-waits)
    return scores


def uniform(seen: Seen, waits: Tensor) -> Tensor:  # noqa: ARG001 - a rule has both
    """Every prompt alike."""
    return -waits


def target(seen: Seen, waits: Tensor, *, rate: float) -> Tensor:
    """Minus the distance from `rate` of a success rate drawn from the belief, ties broken at random.

    The shortest waits have the nearest states: the uniform variable 1 - exp(-W) is looked up in the belief's cumulative
    sum over the states in the order of their distances. States that are equally far are one.
    """
    belief = seen.belief().double()
    distance, order = (seen.rates().double() - rate).abs().expand_as(belief).sort(-1)
    farther = torch.nn.functional.pad((distance.diff(dim=-1) > TIE).long(), (1, 0)).cumsum(-1)
    share = torch.zeros_like(belief).scatter_add(-1, farther, belief.gather(-1, order))
    how_far = torch.zeros_like(belief).scatter(-1, farther.flip(-1), distance.flip(-1))
    ends = share.cumsum(-1)
    uniform_one = -torch.expm1(-waits).unsqueeze(-1) * ends[..., -1:]
    which = (ends < uniform_one).sum(-1, keepdim=True).clamp_max(belief.shape[-1] - 1)
    start = (ends - share).gather(-1, which)
    place = ((uniform_one - start) / share.gather(-1, which).clamp_min(1e-300)).clamp(0, 1)
    return (-how_far.gather(-1, which) - TIE * place).squeeze(-1)
