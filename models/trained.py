r"""Training moves a prompt: transitions of steps that updated the policy on it, and of the others.

A prompt that the policy was just trained on has other chances to move than one that was left alone, and both change as
the policy as a whole gets better. Chances are log odds against staying, and all prompts share them:

    gaps         ~ Dirichlet(rate_gaps)                rates = cumsum(gaps)[:3], so 0 < rate_1 < rate_2 < rate_3 < 1
    initial      ~ Dirichlet(initial)                  over three states
    up_k, down_k ~ Normal(logit of leave, base)        where the prompt is not trained on and progress is 0
    trained      ~ Normal(0, effect)                   two of them: on the logits up, and down
    slope        ~ Normal(0, slope)                    two of them, for a progress of 1

    z_1          ~ Categorical(initial)
    y_t | z_t    ~ Binomial(n_t, rates[z_t])
    p(z_t+1 | z_t = k) ∝ exp(up_k + trained_up * trained_t + slope_up * progress_t)          one up (k = 1, 2)
                       ∝ 1                                                                   the same state
                       ∝ exp(down_k + trained_down * trained_t + slope_down * progress_t)    one down (k = 2, 3)

`trained_t` is whether the policy was updated on the prompt in step t, `progress_t` its overall progress before the
step, such as held-out accuracy in 0..1: both are known, and the move from t to t + 1 depends on them. The effects are
associations: a selector that trains on the prompts about to be solved makes training look good. The rates are ordered
by construction: no fit can permute the states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.ladders import concentrations
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks

__all__ = ["Trained"]


class Parameters(NamedTuple):
    """The model's parameters, shared by all prompts; [...] are sample dimensions."""

    rates: Tensor  # [..., 3], increasing, the chance that one rollout solves the prompt
    initial: Tensor  # [..., 3], p(z_1)
    up: Tensor  # [..., 2], log odds of a move up against staying, from the first two states
    down: Tensor  # [..., 2], of a move down, from the last two states
    trained: Tensor  # [..., 2], what training adds to the logits up and down
    slope: Tensor  # [..., 2], what a progress of 1 adds to the logits up and down


class Trained(Dynamics[Parameters]):
    """Three ordered states whose moves depend on the step: whether it trained on the prompt, and the policy's progress.

    Args:
        rate_gaps: [4], Dirichlet concentrations of the gaps 0 → rate_1 → rate_2 → rate_3 → 1. The default puts the
            rates near 0.02, 0.5 and 0.98.
        initial: [3], Dirichlet concentrations of the initial distribution.
        leave: the chance of leaving a state in a step, in (0, 1), untrained and at progress 0, as the prior's median
            has it.
        base: the prior's standard deviation of the logits of these chances.
        effect: the prior's standard deviation of what training adds to them.
        slope: the prior's standard deviation of what progress adds to them, a unit of progress.

    A step that does not say which prompts were trained on trained on those with rollouts; one that does not say the
    progress has progress 0.
    """

    def __init__(
        self,
        rate_gaps: Sequence[float] | Tensor = (1.0, 24.0, 24.0, 1.0),
        initial: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
        *,
        leave: float = 0.01,
        base: float = 2.0,
        effect: float = 2.0,
        slope: float = 2.0,
    ) -> None:
        self.rate_gaps = concentrations("rate_gaps", rate_gaps, (4,))
        self.initial_concentration = concentrations("initial", initial, (3,))
        if not 0 < (leave := checks.positive("leave", leave)) < 1:
            raise ValueError(f"leave: expected a chance in (0, 1), got {leave}")
        # From the middle state half of the chance is up and half is down.
        odds = math.log(leave / (1 - leave))
        self.move = torch.tensor([odds, odds - math.log(2)])
        self.base = checks.positive("base", base)
        self.effect = checks.positive("effect", effect)
        self.slope = checks.positive("slope", slope)

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [4], "initial" [3], "up" [2], "down" [2], and the effects on up and down, "trained" [2] and
        "slope" [2]."""
        gaps = pyro.sample("gaps", dist.Dirichlet(self.rate_gaps))
        initial = pyro.sample("initial", dist.Dirichlet(self.initial_concentration))
        up = pyro.sample("up", dist.Normal(self.move, self.base).to_event(1))
        down = pyro.sample("down", dist.Normal(self.move.flip(0), self.base).to_event(1))
        trained = pyro.sample("trained", dist.Normal(torch.zeros(2), self.effect).to_event(1))
        slope = pyro.sample("slope", dist.Normal(torch.zeros(2), self.slope).to_event(1))
        # In float32 the sum can round to just above 1.
        return Parameters(gaps.cumsum(-1)[..., :-1].clamp(max=1.0), initial, up, down, trained, slope)

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [...]: one for all prompts."""
        return dist.Categorical(theta.initial)

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N, 3]: to a neighbour or nowhere, by what the step did."""
        # The two cases once for all prompts, and then each prompt's: far cheaper than each prompt's chances anew.
        with_it, without = self._moves(theta, 1.0, step.progress), self._moves(theta, 0.0, step.progress)
        return dist.Categorical(torch.where(step.trained[..., None, None], with_it, without))

    def _moves(self, theta: Parameters, trained: float, progress: Tensor) -> Tensor:
        """[..., 1, 3, 3] for progress [..., 1]."""
        effect = trained * theta.trained + progress.unsqueeze(-1) * theta.slope
        up, down = theta.up + effect[..., :1], theta.down + effect[..., 1:]
        stay = torch.zeros_like(up[..., 0])
        never = torch.full_like(stay, float("-inf"))
        entries = [stay, up[..., 0], never, down[..., 0], stay, up[..., 1], never, down[..., 1], stay]
        matrix: Tensor = torch.stack(entries, -1).unflatten(-1, (3, 3)).softmax(-1)
        return matrix

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the state), batch [..., N, 3]."""
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates)
