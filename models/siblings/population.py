"""The visited prompts of each group, and what they say of the others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dps_pyro.dynamics.features import Groups
from dps_pyro.models.siblings.scores import KNOTS, Places, Scores

__all__ = ["START", "Kin", "Pooling", "Population", "tilt", "tilted"]

REMEMBERED = 1000
"""The largest number of steps for which the populations are kept, for groups that arrive late."""
LEAST = 16
"""The number of steps for which the populations are kept whatever their size."""
BYTES = 64 << 20
"""The size of the populations, in bytes, beyond which fewer steps are kept."""
START = 4.0
"""The number of visited prompts that weigh as much as the dynamics model's own start does in the population of all
prompts."""


class Population(NamedTuple):
    """The visited prompts before a step. A cell is a group, or with features a group at one of the knots of the
    score."""

    mass: Tensor  # [C, K], the sum of their beliefs in each cell
    number: Tensor  # [C, 1], how many they are
    evidence: Tensor  # float64 [H], how well each way of pooling has predicted first visits: log-probabilities
    weights: Tensor  # float64 [F], those of the score; empty without features
    knots: Tensor  # float64 [KNOTS], the scores at the knots; empty without features

    @property
    def remembered(self) -> int:
        """The number of steps for which populations of this size are kept."""
        return max(LEAST, min(REMEMBERED, BYTES // max(1, self.mass.nbytes)))


class Kin(NamedTuple):
    """What is believed of strangers, and how many visited prompts say so."""

    belief: Tensor  # [V, K]
    number: Tensor  # [V, 1]


class Pooling(NamedTuple):
    """How prompts learn from their siblings; see `Siblings`."""

    groups: Groups | None
    strengths: Tensor  # float64 [S]
    scores: Scores | None

    def of(self, num_prompts: int) -> Tensor:
        """Long [N], each prompt's group.

        Raises:
            ValueError: there are fewer labels or features than prompts.
        """
        everyone = torch.arange(num_prompts)
        if self.scores is not None:
            self.scores.check(num_prompts)
        return torch.zeros_like(everyone) if self.groups is None else self.groups.of(everyone, num_prompts)

    @property
    def number(self) -> int:
        """How many groups there can be. The last one has the prompts that belong to none."""
        return 1 if self.groups is None else len(self.groups.labels) + 1

    @property
    def ways(self) -> int:
        """H, how many ways of pooling are weighed: each strength, and with features each with and without them."""
        return len(self.strengths) * (1 if self.scores is None else 2)

    def nobody(self, like: Tensor) -> Population:
        """The population before any prompt was visited, in the dtype of the beliefs `like` [..., K]."""
        knots = 1 if self.scores is None else KNOTS
        mass = like.new_zeros(self.number * knots, like.shape[-1])
        known = torch.zeros(0 if self.scores is None else self.scores.matrix.shape[-1], dtype=torch.float64)
        level = torch.zeros(0 if self.scores is None else KNOTS, dtype=torch.float64)
        evidence = torch.zeros(self.ways, dtype=torch.float64)
        return Population(mass, mass[:, :1].clone(), evidence, known, level)

    def places(self, group: Tensor, rows: Tensor | None, population: Population) -> Places:
        """Find the cells of the prompts `rows` [V], whose groups are `group` [V]. None for `rows` means all prompts."""
        if self.scores is None:
            return Places(group, group, None)
        score = self.scores.of(population.weights, rows)[: len(group)]
        return Places.among(score, population.knots, group)

    def filled(self, nobody: Population, belief: Tensor, number: Tensor, places: Places) -> Population:
        """The population of V entries at their places, each with a sum of beliefs, [V, K], of a number of prompts,
        [V]."""
        mass, count = nobody.mass, number.to(nobody.mass).unsqueeze(-1)
        found = nobody.number
        for cell, share in places.shares(mass):
            mass = mass.index_add(0, cell, belief if share is None else belief * share)
            found = found.index_add(0, cell, count if share is None else count * share)
        return nobody._replace(mass=mass, number=found)

    def kin(self, start: Tensor, places: Places, population: Population) -> Kin:
        """The belief of strangers at their places, whom the dynamics model expects at `start` [V, K]."""
        chance = population.evidence.softmax(0).to(start)
        ways = zip(*self._ways(population), strict=True)
        known, unknown, number = (places.between(torch.tensordot(chance, torch.stack(way), 1)) for way in ways)
        return Kin(torch.addcmul(known, unknown, start), number)

    def told(self, start: Tensor, places: Places, population: Population, shown: Tensor) -> Tensor:
        """float64 [H], the evidence for each way of pooling after the first groups of V prompts, `shown` [V, K] being
        the log-probability of each in every state. The largest is 0."""
        shift = shown.amax(-1, keepdim=True)
        shift = torch.where(shift.isfinite(), shift, 0.0)
        likelihood = (shown - shift).exp()
        chances = torch.stack(
            [
                (torch.addcmul(places.between(known), places.between(unknown), start) * likelihood).sum(-1).double()
                for known, unknown, _ in self._ways(population)
            ]
        )
        found = population.evidence + chances.clamp_min(torch.finfo(torch.float64).tiny).log().sum(-1)
        return found - found.max()

    def _ways(self, population: Population) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Under each way of pooling, what strangers in each cell are believed to be: what visited prompts say, [C, K],
        and how much of what the dynamics model expects is to be added, [C, 1]; and how many visited prompts there are,
        [C, 1]."""
        mass, number = population.mass, population.number
        knots = 1 if self.scores is None else KNOTS
        group = torch.arange(len(mass)) // knots
        of_group = mass.view(-1, knots, mass.shape[-1]).sum(1)[group]
        size = number.view(-1, knots, 1).sum(1)[group]
        share = START / (START + number.sum())
        everyone = mass.sum(0) * (share / START)
        found = []
        for strength in self.strengths.to(mass):
            drawn = strength / (strength + size)
            known, unknown = drawn * everyone + of_group / (strength + size), drawn * share
            found.append((known, unknown, size))
            if self.scores is not None:
                drawn = strength / (strength + number)
                found.append((drawn * known + mass / (strength + number), drawn * unknown, number))
        return found


def tilt(kin: Tensor, expected: Tensor, number: Tensor) -> Tensor:
    """[V, K], what the beliefs of visited prompts are multiplied by, so that they follow their siblings.

    Args:
        kin: [V, K], what is believed of strangers in their places.
        expected: [V, K], what was to be expected of strangers: the belief of the step before, moved by the model.
        number: [V, 1], how many visited prompts `kin` was learned from, the prompt itself included.
    """
    tiny = torch.finfo(kin.dtype).tiny
    ratio = torch.where(expected > tiny, kin / expected.clamp_min(tiny), 1.0)
    return ratio.pow(1 - 1 / number.clamp_min(1.0))


def tilted(belief: Tensor, factor: Tensor) -> Tensor:
    """[V, K], beliefs times a factor, normalised."""
    found = belief * factor
    total = found.sum(-1, keepdim=True)
    return torch.where(total > 0, found / total.clamp_min(torch.finfo(found.dtype).tiny), belief)
