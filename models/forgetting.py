r"""Forgetting: a prompt that was long not visited falls back, the sooner the longer ago its last visit is.

The policy keeps training on other prompts, and what it learned on one fades. Chances are log odds against staying, and
all prompts share them:

    gaps         ~ Dirichlet(rate_gaps)                rates = cumsum(gaps)[:3], so 0 < rate_1 < rate_2 < rate_3 < 1
    initial      ~ Dirichlet(initial)                  over three states
    up_k, down_k ~ Normal(logit of leave, base)        two each: in a step after a visit, and without training
    gain         ~ Normal(0, effect)                   what an update on the prompt adds to the logits up
    fade         ~ HalfNormal(fade)                    what a tenfold time since the last visit adds to the logits down

    z_1          ~ Categorical(initial)
    y_t | z_t    ~ Binomial(n_t, rates[z_t])
    p(z_t+1 | z_t = k) ∝ exp(up_k + gain * trained_t)                     one up (k = 1, 2)
                       ∝ 1                                                the same state
                       ∝ exp(down_k + fade * log10(since_t) * idle_t)     one down (k = 2, 3)

`since_t` is the number of steps since the prompt was last rolled out, `idle_t` whether it is not rolled out in step t
and has been before: a prompt that the policy never saw has nothing to be forgotten. The rates are ordered by
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

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.ladders import concentrations
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks

__all__ = ["Forgetting"]


class Parameters(NamedTuple):
    """The model's parameters, shared by all prompts; [...] are sample dimensions."""

    rates: Tensor  # [..., 3], increasing, the chance that one rollout solves the prompt
    initial: Tensor  # [..., 3], p(z_1)
    up: Tensor  # [..., 2], log odds of a move up against staying, from the first two states
    down: Tensor  # [..., 2], of a move down, from the last two states
    gain: Tensor  # [..., 1], what an update on the prompt adds to the logits up
    fade: Tensor  # [..., 1], what a tenfold time since the last visit adds to the logits down


class Forgetting(Dynamics[Parameters]):
    """Three ordered states whose moves down depend on the time since the prompt's last visit.

    Args:
        rate_gaps: [4], Dirichlet concentrations of the gaps 0 → rate_1 → rate_2 → rate_3 → 1. The default puts the
            rates near 0.02, 0.5 and 0.98.
        initial: [3], Dirichlet concentrations of the initial distribution.
        leave: the prior's median chance of leaving a state in a step, in (0, 1), without an update and just after a
            visit.
        base: the prior's standard deviation of the logits of these chances.
        effect: the prior's standard deviation of what an update adds to the logits up.
        fade: the scale of the prior of what a tenfold time since the last visit adds to the logits down.
    """

    def __init__(
        self,
        rate_gaps: Sequence[float] | Tensor = (1.0, 24.0, 24.0, 1.0),
        initial: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
        *,
        leave: float = 0.01,
        base: float = 2.0,
        effect: float = 2.0,
        fade: float = 2.0,
    ) -> None:
        self.rate_gaps = concentrations("rate_gaps", rate_gaps, (4,))
        self.initial_concentration = concentrations("initial", initial, (3,))
        if not 0 < (leave := checks.positive("leave", leave)) < 1:
            raise ValueError(f"leave: expected a chance in (0, 1), got {leave}")
        odds = math.log(leave / (1 - leave))
        self.move = torch.tensor([odds, odds - math.log(2)])  # half of the middle state's chance is up, half is down
        self.base = checks.positive("base", base)
        self.effect = checks.positive("effect", effect)
        self.fade = checks.positive("fade", fade)

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [4], "initial" [3], "up" [2], "down" [2], "gain" [1] and "fade" [1]."""
        gaps = pyro.sample("gaps", dist.Dirichlet(self.rate_gaps))
        initial = pyro.sample("initial", dist.Dirichlet(self.initial_concentration))
        up = pyro.sample("up", dist.Normal(self.move, self.base).to_event(1))
        down = pyro.sample("down", dist.Normal(self.move.flip(0), self.base).to_event(1))
        gain = pyro.sample("gain", dist.Normal(torch.zeros(1), self.effect).to_event(1))
        fade = pyro.sample("fade", dist.HalfNormal(torch.full((1,), self.fade)).to_event(1))
        # In float32 the sum can round to just above 1.
        return Parameters(gaps.cumsum(-1)[..., :-1].clamp(max=1.0), initial, up, down, gain, fade)

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [...]: one for all prompts."""
        return dist.Categorical(theta.initial)

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N, 3]: to a neighbour or nowhere."""
        idle = (step.trials == 0) & (step.since <= step.number)
        real = theta.up.dtype
        up = theta.up + theta.gain * step.trained.to(real).unsqueeze(-1)
        down = theta.down + theta.fade * (idle * step.since.to(real).log10()).unsqueeze(-1)
        up, down = torch.broadcast_tensors(up, down)
        stay = torch.zeros_like(up[..., 0])
        never = torch.full_like(stay, float("-inf"))
        entries = [stay, up[..., 0], never, down[..., 0], stay, up[..., 1], never, down[..., 1], stay]
        return dist.Categorical(torch.stack(entries, -1).unflatten(-1, (3, 3)).softmax(-1))

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the state), batch [..., N, 3]."""
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates)
