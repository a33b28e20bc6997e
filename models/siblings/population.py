"""The visited prompts of each group, and what they say of the others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dps_pyro.dynamics.features import Groups

__all__ = ["REMEMBERED", "Pooling", "Population"]

REMEMBERED = 1000
"""Steps for which the populations are kept, for groups that arrive late."""


class Population(NamedTuple):
    """The visited prompts of each group before a step."""

    mass: Tensor  # [G, K], the sum of their beliefs
    number: Tensor  # [G, 1], how many they are


class Pooling(NamedTuple):
    """How prompts learn from their siblings; see `Siblings`."""

    groups: Groups | None
    strength: float

    def of(self, num_prompts: int) -> Tensor:
        """Long [N], each prompt's group.

        Raises:
            ValueError: there are fewer labels than prompts.
        """
        everyone = torch.arange(num_prompts)
        return torch.zeros_like(everyone) if self.groups is None else self.groups.of(everyone, num_prompts)

    @property
    def number(self) -> int:
        """How many groups there can be. The last one has the prompts that belong to none."""
        return 1 if self.groups is None else len(self.groups.labels) + 1

    def population(self, mass: Tensor, group: Tensor, number: Tensor) -> Population:
        """The population of all groups. Each of V entries has a sum of beliefs, [V, K], a group, long [V], and the
        number of its prompts, [V]."""
        nothing = mass.new_zeros(self.number, mass.shape[-1])
        found = mass.new_zeros(self.number).index_add(0, group, number.to(mass))
        return Population(nothing.index_add(0, group, mass), found.unsqueeze(-1))

    def visited(self, belief: Tensor, group: Tensor, seen: Tensor) -> Population:
        """The population of all groups, of N prompts with beliefs [N, K] in the groups [N], of which those that are
        `seen`, bool [N], were visited."""
        if self.groups is None:
            mass = seen.to(belief) @ belief
            return Population(mass.unsqueeze(0), seen.sum().to(mass).view(1, 1))
        return self.population(belief[seen], group[seen], torch.ones(int(seen.sum())))

    def shared(self, start: Tensor, group: Tensor, population: Population) -> Tensor:
        """[V, K], the belief of strangers of the groups `group` [V], whom the model expects at `start` [V, K]."""
        mass, number = population
        everyone = (self.strength * start).add_(mass.sum(0)).div_(self.strength + number.sum())
        own, size = (mass, number) if self.groups is None else (mass[group], number[group])
        return everyone.mul_(self.strength).add_(own).div_(self.strength + size)
