r"""Partial pooling: a population, groups of prompts within it, prompts within groups.

Three ordered states as in `SolvingProgress`, whose parameters are this model's population. A group of prompts (a
subject, a level of difficulty) may start further up or down than the population and rise quicker or slower, and a
prompt may differ from its group; how much groups and prompts differ is learned too:

    gaps        ~ Dirichlet(rate_gaps)                 rates = cumsum(gaps)[:3], so 0 < rate_1 < rate_2 < rate_3 < 1
    initial     ~ Dirichlet(initial)                   the population's start, over three states
    matrix_i    ~ Dirichlet(transition_i)              the population's moves, a row for each state now
    group_scale ~ HalfNormal(group_scale)              [2], of the start and of the drift
    z_group     ~ Normal(0, 1)                         [2, groups]
    prompt_scale ~ HalfNormal(prompt_scale)            [2], of the start and of the drift
    z_prompt    ~ Normal(0, 1)                         one a prompt n, of the group g

    start_n = group_scale_1 z_group_1,g + prompt_scale_1 z_prompt_n
    drift_n = group_scale_2 z_group_2,g + prompt_scale_2 z_prompt_n

    p(z_1 = k)                 ∝ exp(log initial_k + k start_n)
    p(z_t+1 = j | z_t = i)     ∝ exp(log matrix_ij + (j - i) drift_n)
    y_t | z_t                  ~ Binomial(n_t, rates[z_t])

The logits are those of an ordered (adjacent-category) regression: `start` is how much likelier than in the population
the next state up is to start with (in logits a state), `drift` how much likelier a move up is, and less likely a move
down. A prompt has one number of its own, its ease, and not one for the start and one for the drift: it starts once, so
that a deviation of its start that told nothing of its later moves could not be told from the population's spread.
Both scales are positive: prompts that start further up rise quicker, by as much as the log says.

All z are standard normal (the non-centred form): a prompt that was never rolled out stands at its group's centre. The
rates are ordered by construction: no fit can permute the states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from dps_pyro.dynamics import Dynamics, Step

__all__ = ["Hierarchical"]


class Parameters(NamedTuple):
    """The model's parameters; [...] are sample dimensions."""

    initial: Tensor  # [..., N, 3], p(z_1)
    matrix: Tensor  # [..., N, 3, 3], p(next | now)
    rates: Tensor  # [..., 3], increasing, the chance that one rollout solves the prompt, for all prompts


class Hierarchical(Dynamics[Parameters]):
    """Three ordered states; prompts differ in where they start and how they move, and learn of each other.

    Args:
        groups: a label for each prompt, strings or numbers; at least as many as there are prompts to be tracked. None:
            prompts of one population.
        labels: the groups that there are, in the order of the site "z_group"; those among `groups`, sorted, if left
            out. Name them where a posterior of other prompts is to be used and these prompts may lack a group.
        rate_gaps: [4], Dirichlet concentrations of the gaps 0 → rate_1 → rate_2 → rate_3 → 1.
        initial: [3], Dirichlet concentrations of the population's initial distribution.
        transition: [3, 3], Dirichlet concentrations of the population's transition matrix's rows.
        group_scale: [2], scales of the half-normal priors of how much groups differ, in the start and in the drift.
        prompt_scale: [2], the same of the prompts within a group.

    The first three default as in `SolvingProgress`, which this model is where nothing differs. A posterior has
    "z_prompt" of the prompts it was fitted to; for other prompts of the same groups leave that site out of the values.
    """

    def __init__(
        self,
        groups: Sequence[str] | Sequence[int] | None = None,
        labels: Sequence[str] | Sequence[int] | None = None,
        rate_gaps: Sequence[float] | Tensor = (1.0, 24.0, 24.0, 1.0),
        initial: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
        transition: Sequence[Sequence[float]] | Tensor = ((99.0, 0.9, 0.1), (0.5, 99.0, 0.5), (0.1, 0.9, 99.0)),
        group_scale: Sequence[float] | Tensor = (2.0, 1.0),
        prompt_scale: Sequence[float] | Tensor = (0.3, 0.3),
    ) -> None:
        self.rate_gaps = _positive("rate_gaps", rate_gaps, (4,))
        self.initial_concentration = _positive("initial", initial, (3,))
        self.transition_concentration = _positive("transition", transition, (3, 3))
        self.group_scale = _positive("group_scale", group_scale, (2,))
        self.prompt_scale = _positive("prompt_scale", prompt_scale, (2,))
        self.labels: tuple[str | int, ...] = ()
        """The groups' labels, in the order of the site "z_group"; none where there are no groups."""
        self._group: Tensor | None = None  # long, each prompt's group
        if groups is not None:
            self.labels = tuple(sorted(set(groups)) if labels is None else labels)
            place = {label: at for at, label in enumerate(self.labels)}
            strange = [label for label in groups if label not in place]
            if strange:
                raise ValueError(f"groups: expected labels among {self.labels}, got {strange[0]!r}")
            self._group = torch.tensor([place[label] for label in groups], dtype=torch.long)

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [4], "initial" [3], "transition" [3, 3]; with groups "group_scale" [2] and "z_group" [2, G];
        "prompt_scale" [2], and each prompt's own "z_prompt".

        Raises:
            ValueError: there are more prompts than labels in `groups`.
        """
        if self._group is not None and prompts.size > len(self._group):
            raise ValueError(f"groups: expected a label for each of {prompts.size} prompts, got {len(self._group)}")
        gaps = pyro.sample("gaps", dist.Dirichlet(self.rate_gaps))
        initial = pyro.sample("initial", dist.Dirichlet(self.initial_concentration))
        matrix = pyro.sample("transition", dist.Dirichlet(self.transition_concentration).to_event(1))
        centre = torch.zeros([2, 1])
        if self._group is not None:
            scale = pyro.sample("group_scale", dist.HalfNormal(self.group_scale).to_event(1))
            normal = dist.Normal(torch.zeros([2, len(self.labels)]), 1.0)
            centre = scale.unsqueeze(-1) * pyro.sample("z_group", normal.to_event(2))
        scale = pyro.sample("prompt_scale", dist.HalfNormal(self.prompt_scale).to_event(1))
        with prompts as rows:
            ease = pyro.sample("z_prompt", dist.Normal(torch.tensor(0.0), 1.0))
            group = torch.tensor(0) if self._group is None else self._group[rows]
        start, drift = (Vindex(centre[..., k, :])[..., group] + scale[..., k] * ease for k in (0, 1))
        level = torch.arange(3)
        return Parameters(
            _tilted(initial, start[..., None] * level),
            _tilted(matrix, drift[..., None, None] * (level - level[:, None])),
            rates=gaps.cumsum(-1)[..., :-1].clamp(max=1.0),  # in float32 the sum can round to just above 1
        )

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [..., N]."""
        return dist.Categorical(theta.initial)

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N, 3]: a prompt's own, the same at every step."""
        return dist.Categorical(theta.matrix)

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the state), batch [..., N, 3]."""
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates)


def _tilted(law: Tensor, by: Tensor) -> Tensor:
    """The probabilities `law`, last axis, times exp(by), made to sum to 1 again."""
    # A draw in float32 can round to 0, where the logarithm has no gradient.
    return (law.clamp_min(torch.finfo(law.dtype).tiny).log() + by).softmax(-1)


def _positive(name: str, value: Sequence[float] | Sequence[Sequence[float]] | Tensor, shape: tuple[int, ...]) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if tensor.shape != shape or not bool((tensor > 0).all()):
        raise ValueError(f"{name}: expected positive numbers of shape {shape}, got {value}")
    return tensor
