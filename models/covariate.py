r"""Regression on what is known of a prompt: its first belief is its own before it was ever rolled out.

Initial states and transitions depend on a prompt's features x (a difficulty label, a subject, a length, an embedding),
with weights that all prompts share. What is learned from the prompts that were rolled out then speaks of those that
were not:

    gaps         ~ Dirichlet(rate_gaps)            rates = cumsum(gaps)[:K], so 0 < rate_1 < ... < rate_K < 1
    initial      ~ Dirichlet(initial)              the start of the average prompt, x = 0, over K levels
    up_k, down_k ~ Normal(logit of leave, base)    its moves, log odds against staying
    scale_r      ~ HalfNormal(effect),  r = initial, up, down
    weights_r    ~ Normal(0, scale_r / sqrt(F))    F of them: useless features shrink together; of features that are
                                                   said to mean an easier start, those of r = initial have mean 1.5

    p(z_1 <= k)  = sigmoid(cut_k - x . weights_initial),  cut_k = logit(initial_1 + ... + initial_k),  k = 1..K-1
    p(z_t+1 | z_t = k) ∝ exp(up_k + x . weights_up)       one level up (k < K)
                       ∝ 1                                the same level
                       ∝ exp(down_k + x . weights_down)   one level down (k > 1)
    y_t | z_t    ~ Binomial(n_t, rates[z_t])

Positive weights mean an easier start, more ways up, more ways down. The rates and the cutpoints are ordered by
construction: no fit can permute the levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.features import Design, design_matrix, design_of
from dps_pyro.dynamics.ladders import concentrations, even_gaps, even_start, level_names
from dps_pyro.dynamics.step import Step
from dps_pyro.history.log import Features
from dps_pyro.support import checks

__all__ = ["Covariate"]


LIFT = 1.5
"""The prior mean of the weight of a feature that is expected to mean an easier start, in log odds per standard
deviation."""


class Parameters(NamedTuple):
    """The model's parameters; [...] are sample dimensions, and the prompts' own come from their features."""

    rates: Tensor  # [..., K], increasing, the chance that one rollout solves the prompt
    initial: Tensor  # [..., K], p(z_1) where all features are 0
    up: Tensor  # [..., K - 1], log odds of a move up against staying, from all levels but the last
    down: Tensor  # [..., K - 1], of a move down, from all levels but the first
    effects: Tensor  # [..., N, 3], what a prompt's features add to the logits of its start, its ups and its downs


class Covariate(Dynamics[Parameters]):
    """Ordered levels; where a prompt starts and how it moves regress on its features.

    Args:
        features: name -> one number or one string per prompt, or an embedding [N, F], for at least all prompts that
            will be tracked. `design_matrix` makes columns of them.
        reference: the prompts that define the average of a feature and the strings that it may have. The default is
            `features`. Weights are in units of the reference's standard deviations: a posterior that was fitted with
            other prompts' features holds for these where those are the reference, as in
            `Covariate(new_features, reference=fitted.design)` or `Covariate(new_features, reference=log.features)`.
            A string that the reference does not have is taken to be average, as a missing number is.
        levels: K, at least 3. Seven predict much better than three; more hardly help (docs/evidence/prediction.md).
        rate_gaps: [K + 1], Dirichlet concentrations of the gaps 0 → rate_1 → ... → rate_K → 1. The default is that of
            `Ladder`, which puts the rates between 0.02 and 0.98.
        initial: [K], Dirichlet concentrations of the average prompt's initial distribution. The default expects a
            third at the bottom, a third at the top, and a third in between.
        leave: the chance that the average prompt leaves a level in a step, in (0, 1), as the prior's median has it.
        base: the prior's standard deviation of its logits.
        effect: how far the prior lets features move a logit: the scale of the linear predictors' standard deviation.
        easier: the names of features of which a larger value is expected to mean an easier start, such as the pass
            rate of another model. Their weights on the start have a prior mean of `LIFT` in place of 0, so that the
            first beliefs differ before anything was learned.

    Raises:
        ValueError: the features are none, or have other columns than the reference; a number is out of range; or
            `easier` names something else than a feature of numbers.
    """

    def __init__(
        self,
        features: Features | Tensor,
        *,
        reference: Features | Tensor | Design | Mapping[str, Any] | None = None,
        levels: int = 7,
        rate_gaps: Sequence[float] | Tensor | None = None,
        initial: Sequence[float] | Tensor | None = None,
        leave: float = 0.01,
        base: float = 2.0,
        effect: float = 2.0,
        easier: Sequence[str] = (),
    ) -> None:
        known = None if reference is None else design_of(reference)
        self.design = design_matrix(features) if known is None else known.apply(features)
        """The features as columns, and what it takes to read other prompts' features the same way."""
        self.columns = self.design.matrix.to(torch.get_default_dtype())
        levels = checks.count("levels", levels, 3)
        self.states = level_names(levels)
        gaps, start = even_gaps(levels), even_start(levels)
        self.rate_gaps = concentrations("rate_gaps", gaps if rate_gaps is None else rate_gaps, (levels + 1,))
        self.initial_concentration = concentrations("initial", start if initial is None else initial, (levels,))
        if not 0 < (leave := checks.positive("leave", leave)) < 1:
            raise ValueError(f"leave: expected a chance in (0, 1), got {leave}")
        # From a level with two neighbours half of the chance is up and half is down.
        odds = math.log(leave / (1 - leave))
        self.move = torch.tensor([odds, *[odds - math.log(2)] * (levels - 2)])
        self.base = checks.positive("base", base)
        self.effect = checks.positive("effect", effect)
        names = [str(name) for name in self.design.names]
        listed = [easier] if isinstance(easier, str) else list(easier)
        unknown = [name for name in listed if name not in names]
        if unknown:
            raise ValueError(f"easier: expected features of numbers among {', '.join(names)}, got {unknown[0]!r}")
        self.lift = torch.zeros(3, len(names))
        self.lift[0, [names.index(name) for name in listed]] = LIFT

    def carried(self) -> dict[str, Any]:
        """The reference."""
        return {"reference": self.design.plain()}

    def kinds(self, num_prompts: int) -> Tensor | None:
        """Long [N]: prompts with equal rows of features are alike.

        Raises:
            ValueError: there are more prompts than features.
        """
        if num_prompts > len(self.columns):
            raise ValueError(f"features: expected those of {num_prompts} prompts, got those of {len(self.columns)}")
        numbers: Tensor = self.columns[:num_prompts].unique(dim=0, return_inverse=True)[1]
        return numbers

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [K + 1], "initial" [K], "up" and "down" [K - 1], "scale" [3] and "weights" [3, F], the last two
        in the order initial, up, down; columns as in `design.names`.

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
        weights = pyro.sample("weights", dist.Normal(self.lift, each).to_event(2))
        with prompts as rows:
            own = self.columns[rows]
        effects = own @ weights.mT  # with sample dimensions [..., 1, N, 3]: the 1 is the place of the prompts
        effects = effects.squeeze(-3) if effects.ndim > 2 else effects
        # In float32 the sum can round to just above 1.
        return Parameters(gaps.cumsum(-1)[..., :-1].clamp(max=1.0), initial, up, down, effects)

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [..., N]: an ordered logit."""
        each = theta.initial.clamp_min(torch.finfo(theta.initial.dtype).tiny).log()
        to_here, from_here = each.logcumsumexp(-1), each.flip(-1).logcumsumexp(-1).flip(-1)
        at_most, more = to_here[..., :-1], from_here[..., 1:]  # log p(z_1 <= k) and log p(z_1 > k), k = 1..K-1
        cut = at_most - more - theta.effects[..., :1]
        # sigmoid(cut_k) - sigmoid(cut_k-1), without the cancellation: what is left is 1 - exp(cut_k-1 - cut_k).
        between = (
            logsigmoid(cut[..., 1:]) + logsigmoid(-cut[..., :-1]) + each[..., 1:-1] - at_most[..., 1:] - more[..., :-1]
        )
        return dist.Categorical(logits=torch.cat([logsigmoid(cut[..., :1]), between, logsigmoid(-cut[..., -1:])], -1))

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N, K]: to a neighbour or nowhere, the same at every step."""
        up = theta.up + theta.effects[..., 1:2]
        down = theta.down + theta.effects[..., 2:3]
        never = torch.full_like(up[..., :1], float("-inf"))
        ways = [torch.cat([never, down], -1), torch.zeros_like(torch.cat([never, up], -1)), torch.cat([up, never], -1)]
        below, stay, above = torch.stack(ways).softmax(0)  # [..., N, K] each
        around = torch.diag_embed(below[..., 1:], offset=-1) + torch.diag_embed(above[..., :-1], offset=1)
        return dist.Categorical(torch.diag_embed(stay) + around)

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the level), batch [..., N, K]."""
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates)
