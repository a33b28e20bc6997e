"""Posterior predictive checks: would the fitted model have made a log like this one?

Each posterior draw replicates the log on its own schedule: the same prompts, steps and group sizes. A statistic of the
log that lies outside those of the replications is something that the model cannot do (Gelman, Meng and Stern 1996). The
tail probabilities are conservative, as the fit has seen the log: a small one is a misfit, a large one is no proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.history.layouts import layout
from dps_pyro.history.log import RolloutHistory, observed
from dps_pyro.support import checks

__all__ = ["Check", "predictive_checks", "replicate"]

FEW = 10
"""A step, or a visit number, that fewer prompts have is not looked at, as its share is all noise; in a small log, that
fewer than half as many have as any."""


class Check(NamedTuple):
    """A statistic of the log, one number or a curve of Q, beside those of S replications."""

    name: str
    at: Tensor  # long [Q], the steps or the visit numbers; [0] of one number
    observed: Tensor  # float64 [Q]
    replicated: Tensor  # float64 [S, Q]

    @property
    def tail(self) -> float:
        """The share of replications at least as far from their mean as the log is, a curve's distance being that of its
        furthest point, in standard deviations; counting the log as one of them, so that it is never 0."""
        mean, spread = self.replicated.mean(0), self.replicated.std(0).clamp_min(1e-12)
        off = ((self.observed - mean).abs() / spread).max()
        others = ((self.replicated - mean).abs() / spread).amax(-1)
        return float((1 + (others >= off).sum()) / (1 + len(others)))

    def band(self, share: float = 0.95) -> tuple[Tensor, Tensor]:
        """[Q] and [Q], the bounds of the middle `share` of the replications."""
        low = (1 - share) / 2
        return self.replicated.quantile(low, 0), self.replicated.quantile(1 - low, 0)


def replicate(
    dynamics: Dynamics[Any], history: RolloutHistory, draws: Mapping[str, Tensor], *, seed: int = 0
) -> Tensor:
    """[S, G], how many rollouts solve the prompt in each of the log's groups (those with rollouts, in the order of
    prompts, then steps), replicated by each draw.

    Args:
        dynamics: the model.
        history: the log.
        draws: site -> [S, ...]; of sites left out, each replication draws its own from the prior.
        seed: of the replications. The global RNG is left as it was.
    """
    groups, schedule, made = layout(history), history.schedule(), []
    seen = groups.trials > 0
    at = groups.prompt[seen], groups.step[seen]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(checks.count("seed", seed, 0))
        for draw in range(len(next(iter(draws.values())))):
            values = {name: value[draw] for name, value in draws.items()}
            made.append(poutine.condition(dynamics.model, data=values)(schedule)[at])
    return torch.stack(made)


def predictive_checks(
    dynamics: Dynamics[Any], history: RolloutHistory, draws: Mapping[str, Tensor], *, seed: int = 0
) -> list[Check]:
    """What a selector lives on, in the log and in its replications.

    Five checks: "useful share by step" (groups neither all wrong nor all right), "prompts always wrong", "prompts
    always right" (shares of the prompts with rollouts), "changes of class" (the share of visits whose group is of
    another class, all wrong, mixed or all right, than the prompt's visit before) and "solve rate by visit".

    Args:
        dynamics: the model.
        history: the log, with outcomes.
        draws: site -> [S, ...], such as `posterior.draws`.
        seed: of the replications.
    """
    observed(history)
    groups = layout(history)
    seen = groups.trials > 0
    prompt, step, trials = groups.prompt[seen], groups.step[seen], groups.trials[seen].double()
    outcomes = torch.cat([groups.solved[seen].unsqueeze(0), replicate(dynamics, history, draws, seed=seed).double()])
    wrong, right = outcomes <= 0, outcomes >= trials
    kind = right.long() - wrong.long()
    visits = torch.bincount(prompt, minlength=history.num_prompts)
    visit = torch.arange(len(prompt)) - (visits.cumsum(0) - visits)[prompt]
    again = visit > 0

    def share_of_prompts(flag: Tensor) -> Tensor:
        every = torch.zeros(len(flag), history.num_prompts, dtype=torch.float64).index_add(1, prompt, flag.double())
        return (every == visits)[:, visits > 0].double().mean(-1, keepdim=True)

    one = torch.zeros(1, dtype=torch.long)
    found = [
        ("useful share by step", *_curve((kind == 0).double(), step)),
        ("prompts always wrong", one, share_of_prompts(wrong)),
        ("prompts always right", one, share_of_prompts(right)),
        ("solve rate by visit", *_curve(outcomes / trials, visit)),
    ]
    if bool(again.any()):
        changed = (kind[:, 1:] != kind[:, :-1])[:, again[1:]].double().mean(-1, keepdim=True)
        found.insert(3, ("changes of class", one, changed))
    return [Check(name, at, value[0], value[1:]) for name, at, value in found if len(at)]


def _curve(value: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Long [Q] and [1 + S, Q]: the places with enough groups, and the mean of the values [1 + S, G] there."""
    counts = torch.bincount(place)
    sums = torch.zeros(len(value), len(counts), dtype=torch.float64).index_add(1, place, value)
    enough = (counts >= min(FEW, int(counts.max()) / 2)).nonzero().squeeze(-1)
    return enough, (sums / counts.clamp_min(1))[:, enough]
