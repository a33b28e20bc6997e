r"""Regression on what is known of a prompt: its first belief is its own before it was ever rolled out.

Initial states and transitions depend on a prompt's features x (a difficulty label, a subject, a length, an embedding),
with weights that all prompts share. What is learned from the prompts that were rolled out then speaks of those that
were not:

    gaps         ~ Dirichlet(rate_gaps)            rates = cumsum(gaps)[:3], so 0 < rate_1 < rate_2 < rate_3 < 1
    initial      ~ Dirichlet(initial)              the start of the average prompt, x = 0
    up_k, down_k ~ Normal(logit of leave, base)    its moves, log odds against staying
    scale_r      ~ HalfNormal(effect),  r = initial, up, down
    weights_r    ~ Normal(0, scale_r / sqrt(F))    F of them: useless features shrink together

    p(z_1 <= k)  = sigmoid(cut_k - x . weights_initial),  cut_k = logit(initial_1 + ... + initial_k),  k = 1, 2
    p(z_t+1 | z_t = k) ∝ exp(up_k + x . weights_up)       one state up (k = 1, 2)
                       ∝ 1                                the same state
                       ∝ exp(down_k + x . weights_down)   one state down (k = 2, 3)
    y_t | z_t    ~ Binomial(n_t, rates[z_t])

Positive weights mean an easier start, more ways up, more ways down. The rates and the cutpoints are ordered by
construction: no fit can permute the states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dps_pyro import checks
from dps_pyro.dynamics import Dynamics, Step
from dps_pyro.features import Design, design_matrix
from dps_pyro.history import Features

__all__ = ["Covariate"]


class Parameters(NamedTuple):
    """The model's parameters; [...] are sample dimensions, and the prompts' own come from their features."""

    rates: Tensor  # [..., 3], increasing, the chance that one rollout solves the prompt
    initial: Tensor  # [..., 3], p(z_1) where all features are 0
    up: Tensor  # [..., 2], log odds of a move up against staying, from the first two states
    down: Tensor  # [..., 2], of a move down, from the last two states
    effects: Tensor  # [..., N, 3], what a prompt's features add to the logits of its start, its ups and its downs


class Covariate(Dynamics[Parameters]):
    """Three ordered states; where a prompt starts and how it moves regress on its features.

    Args:
        features: name -> one number or one string a prompt, or an embedding [N, F]: of all prompts that will be
            tracked, at least. `design_matrix` tells how they are made columns.
        reference: the prompts that say what an average feature is, and which strings there are; `features` themselves
            if left out. Weights are in units of the reference's standard deviations: a posterior that was fitted with
            other prompts' features holds for these where those are the reference, as in
            `Covariate(new_features, reference=fitted.design)` or `Covariate(new_features, reference=log.features)`.
            A string that the reference does not have is taken to be average, as a missing number is.
        rate_gaps: [4], Dirichlet concentrations of the gaps 0 → rate_1 → rate_2 → rate_3 → 1. The default puts the
            rates near 0.02, 0.5 and 0.98.
        initial: [3], Dirichlet concentrations of the average prompt's initial distribution.
        leave: the chance that the average prompt leaves a state in a step, in (0, 1), as the prior's median has it.
        base: the prior's standard deviation of its logits.
        effect: how far the prior lets features move a logit: the scale of the linear predictors' standard deviation.

    Raises:
        ValueError: the features are none, or have other columns than the reference; or a number is out of range.
    """

    def __init__(
        self,
        features: Features | Tensor,
        *,
        reference: Features | Tensor | Design | None = None,
        rate_gaps: Sequence[float] | Tensor = (1.0, 24.0, 24.0, 1.0),
        initial: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
        leave: float = 0.01,
        base: float = 2.0,
        effect: float = 2.0,
    ) -> None:
        known = reference if isinstance(reference, Design) or reference is None else design_matrix(reference)
        self.design = design_matrix(features) if known is None else known.apply(features)
        """The features as columns, and what it takes to read other prompts' features the same way."""
        self.columns = self.design.matrix.to(torch.get_default_dtype())
        self.rate_gaps = _concentration("rate_gaps", rate_gaps, 4)
        self.initial_concentration = _concentration("initial", initial, 3)
        if not 0 < (leave := checks.positive("leave", leave)) < 1:
            raise ValueError(f"leave: expected a chance in (0, 1), got {leave}")
        # From the middle state half of the chance is up and half is down.
        odds = math.log(leave / (1 - leave))
        self.move = torch.tensor([odds, odds - math.log(2)])
        self.base = checks.positive("base", base)
        self.effect = checks.positive("effect", effect)

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [4], "initial" [3], "up" [2], "down" [2], "scale" [3] and "weights" [3, F], the last two in the
        order initial, up, down; columns as in `design.names`.

        Raises:
            ValueError: there are more prompts than features.
        """
        if prompts.size > len(self.columns):
            raise ValueError(f"features: expected those of {prompts.size} prompts, got those of {len(self.columns)}")
        gaps = pyro.sample("gaps", dist.Dirichlet(self.rate_gaps))
        initial = pyro.sample("initial", dist.Dirichlet(self.initial_concentration))
        up = pyro.sample("up", dist.Normal(self.move, self.base).to_event(1))
        down = pyro.sample("down", dist.Normal(self.move.flip(0), self.base).to_event(1))
        scale = pyro.sample("scale", dist.HalfNormal(self.effect * torch.ones(3)).to_event(1))
        num_columns = self.columns.shape[-1]
        each = (scale / math.sqrt(num_columns)).unsqueeze(-1).expand(*scale.shape, num_columns)
        weights = pyro.sample("weights", dist.Normal(0.0, each).to_event(2))
        with prompts as rows:
            own = self.columns[rows]
        effects = own @ weights.mT  # with sample dimensions [..., 1, N, 3]: the 1 is the place of the prompts
        effects = effects.squeeze(-3) if effects.ndim > 2 else effects
        # In float32 the sum can round to just above 1.
        return Parameters(gaps.cumsum(-1)[..., :-1].clamp(max=1.0), initial, up, down, effects)

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [..., N]: an ordered logit."""
        low, middle, high = theta.initial.clamp_min(torch.finfo(theta.initial.dtype).tiny).log().unbind(-1)
        not_high, not_low = torch.logaddexp(low, middle), torch.logaddexp(middle, high)
        easier = theta.effects[..., 0]
        first, second = low - not_low - easier, not_high - high - easier
        # sigmoid(second) - sigmoid(first), without the cancellation: the last factor is 1 - exp(cut_1 - cut_2).
        between = logsigmoid(second) + logsigmoid(-first) + middle - not_low - not_high
        return dist.Categorical(logits=torch.stack([logsigmoid(first), between, logsigmoid(-second)], -1))

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N, 3]: to a neighbour or nowhere, the same at every step."""
        up = theta.up + theta.effects[..., 1:2]
        down = theta.down + theta.effects[..., 2:3]
        stay = torch.zeros_like(up[..., 0])
        never = torch.full_like(stay, float("-inf"))
        entries = [stay, up[..., 0], never, down[..., 0], stay, up[..., 1], never, down[..., 1], stay]
        return dist.Categorical(logits=torch.stack(entries, -1).unflatten(-1, (3, 3)))

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the state), batch [..., N, 3]."""
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates)


def _concentration(name: str, value: Sequence[float] | Tensor, length: int) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if tensor.shape != (length,) or not bool((tensor > 0).all()):
        raise ValueError(f"{name}: expected {length} positive concentrations, got {value}")
    return tensor
