r"""A type per prompt, unknown: fast learner, slow learner, or one that is never learned.

Two unsolved prompts may differ in what is to come: one will be solved in twenty steps, the other never. The type is
part of the hidden state, and never changes; the filter infers it online with the progress, exactly, so that a prompt
gets a character of its own without a parameter of its own. The state is (progress, type), with three states of
progress and M + 1 types, learners 1..M from the fastest to the slowest and the last type, which never learns:

    gaps        ~ Dirichlet(rate_gaps)            rates = cumsum(gaps)[:3], so 0 < rate_1 < rate_2 < rate_3 < 1
    share       ~ Dirichlet(shares)               how common the types are
    initial_m   ~ Dirichlet(initial)              a learner's start, over three states; the last type starts unsolved
    speed_gaps_k ~ Dirichlet(...),  k = 1, 2      speed_k,m = leak + (1 - leak) sum of the M - m + 1 first gaps, so that
                                                  1 > speed_k,1 > ... > speed_k,M > leak
    fall        ~ Beta(fall)                      [2], from partially solved and from solved; all types alike
    m           ~ Categorical(share);  z_1 ~ Categorical(initial_m)
    y_t | z_t   ~ Binomial(n_t, rates[z_t])
    z_t+1 | z_t ~ z_t - 1 with chance fall;  if not, z_t + 1 with chance speed_m from where it stands;  else z_t

The last type's speed is `leak`, tiny, so that no prompt is ever given up for good. Rates and speeds are ordered by
construction: no fit can permute the states, nor the types.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.ladders import concentrations
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks

__all__ = ["PromptTypes"]

PROGRESS = ("unsolved", "partially solved", "solved")


class Parameters(NamedTuple):
    """The model's parameters, shared by all prompts, for M + 1 types; [...] are sample dimensions."""

    initial: Tensor  # [..., 3, M + 1], p(progress, type) before the first step
    speed: Tensor  # [..., 2, M + 1], the chance of a move up from unsolved and from partially solved, by type
    fall: Tensor  # [..., 2], the chance of a move down from partially solved and from solved
    rates: Tensor  # [..., 3], increasing, the chance that one rollout solves the prompt


class PromptTypes(Dynamics[Parameters]):
    """Progress times type: nine states if there are three types, progress first ("unsolved, fast").

    Args:
        types: M + 1 names, at least two: learners from the fastest to the slowest, then the type that never learns.
        speeds: [M], the speeds that are expected of the learners, decreasing: chances of a move up in a step.
        strength: in how many steps' worth of moves the expected speeds are believed, positive.
        shares: [M + 1], Dirichlet concentrations of how common the types are. The default is ones.
        rate_gaps: [4], Dirichlet concentrations of the gaps 0 → rate_1 → rate_2 → rate_3 → 1.
        initial: [3], Dirichlet concentrations of a learner's start.
        fall: [2], Beta concentrations of a move down in a step, yes and no.
        leak: the speed of the type that never learns, in (0, the last of `speeds`).
    """

    def __init__(
        self,
        types: Sequence[str] = ("fast", "slow", "never"),
        speeds: Sequence[float] = (0.05, 0.005),
        strength: float = 200.0,
        shares: Sequence[float] | Tensor | None = None,
        rate_gaps: Sequence[float] | Tensor = (1.0, 24.0, 24.0, 1.0),
        initial: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
        fall: Sequence[float] | Tensor = (1.0, 99.0),
        leak: float = 1e-4,
    ) -> None:
        self.types = tuple(types)
        """The types' names, from the fastest learner to the one that never learns."""
        if isinstance(types, str) or not len(self.types) == len(set(self.types)) >= 2:
            raise ValueError(f"types: expected at least two different names, got {types!r}")
        self.leak = checks.positive("leak", leak)
        ladder = [1.0, *speeds, self.leak]
        if len(speeds) != len(self.types) - 1 or not all(a > b for a, b in pairwise(ladder)):
            wanted = f"{len(self.types) - 1} chances that decrease, one a learner, between 1 and the leak ({self.leak})"
            raise ValueError(f"speeds: expected {wanted}, got {speeds!r}")
        # speed = leak + (1 - leak) * share, and the shares' gaps, from the slowest learner on, are a Dirichlet's.
        share = [(speed - self.leak) / (1 - self.leak) for speed in ladder]
        gaps = [share[m] - share[m + 1] for m in reversed(range(len(self.types)))]
        self.speed_gaps = checks.positive("strength", strength) * torch.tensor(gaps)
        self.shares = concentrations(
            "shares", [1.0] * len(self.types) if shares is None else shares, (len(self.types),)
        )
        self.rate_gaps = concentrations("rate_gaps", rate_gaps, (4,))
        self.initial_concentration = concentrations("initial", initial, (3,))
        self.fall = concentrations("fall", fall, (2,))
        self.states = tuple(f"{progress}, {name}" for progress in PROGRESS for name in self.types)

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Sites "gaps" [4], "share" [M + 1], "initial" [M, 3], "speed_gaps" [2, M + 1] and "fall" [2]."""
        learners = len(self.types) - 1
        gaps = pyro.sample("gaps", dist.Dirichlet(self.rate_gaps))
        share = pyro.sample("share", dist.Dirichlet(self.shares))
        start = pyro.sample("initial", dist.Dirichlet(self.initial_concentration).expand([learners]).to_event(1))
        speed_gaps = pyro.sample("speed_gaps", dist.Dirichlet(self.speed_gaps).expand([2]).to_event(1))
        fall = pyro.sample("fall", dist.Beta(*self.fall).expand([2]).to_event(1))
        # In float32 the sums can round to just above 1.
        learned = speed_gaps.cumsum(-1)[..., :-1].flip(-1).clamp(max=1.0)
        share_of_rest = torch.cat([learned, torch.zeros_like(learned[..., :1])], -1)
        speed = self.leak + (1 - self.leak) * share_of_rest
        unsolved = torch.tensor([1.0, 0.0, 0.0]).expand(*start.shape[:-2], 1, 3)
        initial = torch.cat([start, unsolved], -2).mT * share.unsqueeze(-2)
        return Parameters(initial, speed, fall, rates=gaps.cumsum(-1)[..., :-1].clamp(max=1.0))

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch [...]: one for all prompts."""
        return dist.Categorical(theta.initial.flatten(-2))

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., K]: progress moves to a neighbour at the type's speed, the type stays."""
        fall = theta.fall.unsqueeze(-1).expand(theta.speed.shape)
        nothing = torch.zeros_like(fall[..., :1, :])
        down = torch.cat([nothing, fall], -2)  # [..., 3, M + 1]
        up = (1 - down) * torch.cat([theta.speed, nothing], -2)
        stay = torch.diag_embed((1 - down - up).flatten(-2))
        # A state further down or up of the same type is as many places away as there are types.
        types = len(self.types)
        above = torch.diag_embed(up[..., :-1, :].flatten(-2), offset=types)
        below = torch.diag_embed(down[..., 1:, :].flatten(-2), offset=-types)
        return dist.Categorical(below + stay + above)

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        """Binomial(trials, rate of the progress), batch [..., N, K]: all types show alike."""
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates.repeat_interleave(len(self.types), -1))

    def type_belief(self, belief: Tensor) -> Tensor:
        """[..., M + 1], the chance of each of `types`, from a belief [..., K] over (progress, type)."""
        return belief.reshape(*belief.shape[:-1], len(PROGRESS), len(self.types)).sum(-2)
