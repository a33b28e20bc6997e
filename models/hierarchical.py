r"""Partial pooling: a population, groups of prompts within it, prompts within groups.

K ordered levels of success, as in `SolvingProgress` where there are three, and one population of moves between them. A
group of prompts (a subject, a level of difficulty) may start further up or down than the population and rise quicker or
slower, and a prompt may differ from its group; how much groups and prompts differ is learned too:

    gaps        ~ Dirichlet(rate_gaps)                 rates = cumsum(gaps)[:K], so 0 < rate_1 < ... < rate_K < 1
    initial     ~ Dirichlet(initial)                   the population's start, over K levels
    matrix_i    ~ Dirichlet(transition_i)              the population's moves, a row for each level now
    group_scale ~ HalfNormal(group_scale)              [2], of the start and of the drift
    z_group     ~ Normal(0, 1)                         [2, groups]
    prompt_scale ~ HalfNormal(prompt_scale)            [2], of the start and of the drift
    z_n         ~ Normal(0, 1)                         the ease of prompt n, of the group g

    start_n = group_scale_1 z_group_1,g + prompt_scale_1 z_n
    drift_n = group_scale_2 z_group_2,g + prompt_scale_2 z_n

    p(z_1 = k)                 ∝ exp(log initial_k + k start_n)
    p(z_t+1 = j | z_t = i)     ∝ exp(log matrix_ij + (j - i) drift_n)
    y_t | z_t                  ~ Binomial(n_t, rates[z_t])

The logits are those of an ordered (adjacent-category) regression: `start` is how much likelier than in the population
the next level up is to start with (in logits a level), `drift` how much likelier a move up is, and less likely a move
down. A prompt has one number of its own, its ease, and not one for the start and one for the drift: it starts once, so
that a deviation of its start that told nothing of its later moves could not be told from the population's spread.
Both scales are positive: prompts that start further up rise quicker, by as much as the log says.

A prompt's ease is nobody's to know before it is rolled out, and a belief at z_n = 0 is not the mean of the beliefs at
all z_n. So the ease is summed out with the state: it is one of Q values, the nodes of Gauss-Hermite quadrature, with
the weights that make their moments up to the (2Q - 1)-th those of Normal(0, 1); the state is (level, ease), and the
ease never changes. The filter then starts at the mean over the group's prompts and learns a prompt's ease online, with
its progress, exactly, and a fit has the parameters of the population and the groups alone. With `nodes=None` the ease
is a site of each prompt's own instead, "z_prompt", which a fit learns (non-centred, in mini-batches of prompts) and the
filter takes as known: for the same prompts again. The other sites are the same in both, so that what was learned of a
population in one way holds in the other.

The rates are ordered by construction: no fit can permute the levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.features import Groups
from dps_pyro.dynamics.ladders import concentrations, even_gaps, even_start, level_names
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks

__all__ = ["Hierarchical"]


class Parameters(NamedTuple):
    """The model's parameters, for K levels and Q eases (1 where each prompt's own is known); [...] are sample
    dimensions. N is left out where all prompts are alike."""

    initial: Tensor  # [..., N, K Q], p(z_1), level first
    matrix: Tensor  # [..., N, K Q, K Q], p(next | now)
    rates: Tensor  # [..., K], increasing, the chance that one rollout solves the prompt, for all prompts


class Hierarchical(Dynamics[Parameters]):
    """Ordered levels; prompts differ in where they start and how they move, and learn of each other.

    Args:
        groups: a label for each prompt, strings or numbers; at least as many as there are prompts to be tracked. None:
            prompts of one population.
        labels: the groups that there are, in the order of the site "z_group"; those among `groups`, sorted, if left
            out. A posterior has them in `about["columns"]`, for a model of other prompts, some of which may have other
            labels: those stand at the population's centre.
        levels: K, at least 3. Seven predict much better than three; more hardly help (docs/evidence/prediction.md).
        nodes: Q, how many eases a prompt may have, at least 2; one more is tried for the price of a state for each
            level. None: each prompt has an ease of its own, the site "z_prompt".
        rate_gaps: [K + 1], Dirichlet concentrations of the gaps 0 → rate_1 → ... → rate_K → 1. The default is that of
            `Ladder`, which of three levels is that of `SolvingProgress`.
        initial: [K], Dirichlet concentrations of the population's initial distribution. The default expects a
            third at the bottom, a third at the top, and a third in between.
        transition: [K, K], Dirichlet concentrations of the population's transition matrix's rows. The default expects a
            level to last about a hundred steps, and a move to a neighbour.
        group_scale: [2], scales of the half-normal priors of how much groups differ, in the start and in the drift.
        prompt_scale: [2], the same of the prompts within a group.

    With three levels and no differences this is `SolvingProgress`. A posterior with "z_prompt" belongs to the prompts
    that it was fitted to. Its `population()` holds for others, in a model with nodes.
    """

    def __init__(
        self,
        groups: Sequence[str] | Sequence[int] | None = None,
        labels: Sequence[str] | Sequence[int] | None = None,
        *,
        levels: int = 7,
        nodes: int | None = 3,
        rate_gaps: Sequence[float] | Tensor | None = None,
        initial: Sequence[float] | Tensor | None = None,
        transition: Sequence[Sequence[float]] | Tensor | None = None,
        group_scale: Sequence[float] | Tensor = (2.0, 1.0),
        prompt_scale: Sequence[float] | Tensor = (0.3, 0.3),
    ) -> None:
        levels = checks.count("levels", levels, 3)
        self.rate_gaps = concentrations(
            "rate_gaps", even_gaps(levels) if rate_gaps is None else rate_gaps, (levels + 1,)
        )
        self.initial_concentration = concentrations(
            "initial", even_start(levels) if initial is None else initial, (levels,)
        )
        rows = _sticky(levels) if transition is None else transition
        self.transition_concentration = concentrations("transition", rows, (levels, levels))
        self.group_scale = concentrations("group_scale", group_scale, (2,))
        self.prompt_scale = concentrations("prompt_scale", prompt_scale, (2,))
        self.groups = None if groups is None else Groups(groups, labels)
        self.labels: tuple[str | int, ...] = () if self.groups is None else self.groups.labels
        """The groups' labels, in the order of the site "z_group"; none if there are no groups."""
        self.nodes: Tensor | None = None
        """[Q], the eases that a prompt may have; None if each prompt has its own."""
        self.weights = torch.ones(1)
        """[Q], how common they are."""
        self.states = level_names(levels)
        if nodes is not None:
            at, weights = np.polynomial.hermite_e.hermegauss(checks.count("nodes", nodes, 2, 64))
            self.nodes = torch.as_tensor(at, dtype=torch.get_default_dtype())
            self.weights = torch.as_tensor(weights / weights.sum(), dtype=torch.get_default_dtype())
            self.states = tuple(f"{level}, ease {ease:+.2g}" for level in self.states for ease in at)

    def carried(self) -> dict[str, Any]:
        """The groups' labels, if there are groups."""
        return {} if self.groups is None else {"labels": list(self.groups.labels)}

    def kinds(self, num_prompts: int) -> Tensor | None:
        """Long [N], each prompt's group; None if there are no groups, or each prompt has an ease of its own.

        Raises:
            ValueError: there are more prompts than labels in `groups`.
        """
        if self.groups is None or self.nodes is None:
            return None
        return self.groups.of(torch.arange(num_prompts), num_prompts)

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [K + 1], "initial" [K], "transition" [K, K]; with groups "group_scale" [2] and "z_group" [2, G];
        "prompt_scale" [2]; and without nodes each prompt's own "z_prompt".

        Raises:
            ValueError: there are more prompts than labels in `groups`.
        """
        gaps = pyro.sample("gaps", dist.Dirichlet(self.rate_gaps))
        initial = pyro.sample("initial", dist.Dirichlet(self.initial_concentration))
        matrix = pyro.sample("transition", dist.Dirichlet(self.transition_concentration).to_event(1))
        group = None
        if self.groups is not None:
            spread = pyro.sample("group_scale", dist.HalfNormal(self.group_scale).to_event(1))
            normal = dist.Normal(torch.zeros([2, len(self.labels)]), 1.0)
            centre = spread.unsqueeze(-1) * pyro.sample("z_group", normal.to_event(2))
        scale = pyro.sample("prompt_scale", dist.HalfNormal(self.prompt_scale).to_event(1))
        with prompts as rows:
            if self.groups is not None:
                group = self.groups.of(torch.as_tensor(rows), prompts.size)
            if self.nodes is None:
                ease = pyro.sample("z_prompt", dist.Normal(torch.tensor(0.0), 1.0)).unsqueeze(-1)
            else:
                ease = self.nodes
        start, drift = (scale[..., k, None] * ease for k in (0, 1))  # [..., N, Q]
        if group is not None:
            centre = torch.nn.functional.pad(centre, (0, 1))  # one more, at 0, for prompts of none of the groups
            start, drift = (
                Vindex(centre[..., k, :])[..., group].unsqueeze(-1) + own for k, own in enumerate((start, drift))
            )
        level = torch.arange(len(self.rate_gaps) - 1)
        first = _tilted(initial.unsqueeze(-2), start[..., None] * level)  # [..., N, Q, K]
        moves = _tilted(matrix.unsqueeze(-3), drift[..., None, None] * (level - level[:, None]))
        return Parameters(
            (first * self.weights.unsqueeze(-1)).mT.flatten(-2),
            _side_by_side(moves),
            rates=gaps.cumsum(-1)[..., :-1].clamp(max=1.0),  # in float32 the sum can round to just above 1
        )

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [..., N], or [...] where all prompts are alike."""
        return dist.Categorical(theta.initial)

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N, K Q] or [..., K Q]: the same at every step; no ease ever changes."""
        return dist.Categorical(theta.matrix)

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the level), batch [..., N, K Q]: all eases show alike."""
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates.repeat_interleave(len(self.weights), -1))

    def ease_belief(self, belief: Tensor) -> Tensor:
        """[..., Q], the chance of each of `nodes`, from a belief [..., K Q] over (level, ease)."""
        ease: Tensor = belief.unflatten(-1, (-1, len(self.weights))).sum(-2)
        return ease


def _side_by_side(matrices: Tensor) -> Tensor:
    """Q matrices [..., Q, K, K] as one of all (level, ease) [..., K Q, K Q]: each ease keeps to itself."""
    if matrices.shape[-3] == 1:
        return matrices.squeeze(-3)
    blocks = torch.diag_embed(matrices.movedim(-3, -1))  # [..., K, K, Q, Q], zero between different eases
    return blocks.transpose(-3, -2).flatten(-2).flatten(-3, -2)


def _tilted(law: Tensor, by: Tensor) -> Tensor:
    """The probabilities `law`, last axis, times exp(by), made to sum to 1 again."""
    # A draw in float32 can round to 0, where the logarithm has no gradient.
    return (law.clamp_min(torch.finfo(law.dtype).tiny).log() + by).softmax(-1)


def _sticky(levels: int) -> list[list[float]]:
    """Concentrations of moves: a level lasts about a hundred steps, then comes a neighbour; jumps are rarer."""
    rows = [[0.1] * levels for _ in range(levels)]
    for now, row in enumerate(rows):
        row[now] = 99.0
        near = [other for other in (now - 1, now + 1) if 0 <= other < levels]
        for other in near:
            row[other] = 0.9 if len(near) == 1 else 0.5
    return rows
