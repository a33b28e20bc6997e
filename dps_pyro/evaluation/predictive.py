"""Posterior predictive checks: could the fitted model have produced a log like this one?

Each posterior draw replicates every group of the log given what the log has before it, from `p(y_t | y_<t)`, after the
prequential principle (Dawid 1984). The schedule of a run depends on the outcomes, because the sampler selects by them.
A whole log on a fixed schedule therefore differs from the real one even if the model is true. One step ahead there is
no such difference, because a selection depends only on the past. If a statistic of the log lies outside those of the
replications, the model cannot produce it (Gelman, Meng and Stern 1996). The tail probabilities are conservative,
because the fit has seen the log: a small one is a misfit, and a large one is no proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.draws import traces_at
from dps_pyro.dynamics.progress import Progress
from dps_pyro.history.layouts import layout
from dps_pyro.history.log import RolloutHistory, observed
from dps_pyro.support import checks

__all__ = ["Check", "predictive_checks", "replicate"]

FEW = 10
"""A step or a visit number with fewer prompts than this is left out, because its share is only noise. In a small log,
one is left out if fewer than half as many prompts have it as any other."""


RANKS = 10
"""Bins of predictive ranks."""


class Check(NamedTuple):
    """A statistic of the log, which is one number or a curve of Q numbers, and the same of S replications."""

    name: str
    at: Tensor  # long [Q], the steps or the visit numbers; [0] of one number
    observed: Tensor  # float64 [Q]
    replicated: Tensor  # float64 [S, Q]

    @property
    def tail(self) -> float:
        """The share of replications that are at least as far from their mean as the log. The distance of a curve is
        that of its furthest point, in standard deviations. The log counts as a replication, so the share is never 0."""
        mean, spread = self.replicated.mean(0), self.replicated.std(0).clamp_min(1e-12)
        off = ((self.observed - mean).abs() / spread).max()
        others = ((self.replicated - mean).abs() / spread).amax(-1)
        return float((1 + (others >= off).sum()) / (1 + len(others)))

    def band(self, share: float = 0.95) -> tuple[Tensor, Tensor]:
        """[Q] and [Q], the bounds of the middle `share` of the replications."""
        low = (1 - share) / 2
        return self.replicated.quantile(low, 0), self.replicated.quantile(1 - low, 0)


def replicate(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    draws: Mapping[str, Tensor],
    *,
    sequential: bool = True,
    seed: int = 0,
) -> Tensor:
    """[S, G], how many rollouts solve the prompt in each of the log's groups (those with rollouts, in the order of
    prompts, then steps), replicated by each draw.

    Args:
        dynamics: the model.
        history: the log, with outcomes if `sequential`.
        draws: site -> [S, ...]. For sites that are left out, each replication draws its own value from the prior.
        sequential: each group is drawn from `p(y_t | y_<t)`, given what the log has before it. That holds however the
            groups were selected, because a selection depends only on earlier groups. Otherwise whole logs are drawn on
            the log's schedule, which is right only if the schedule does not depend on the outcomes.
        seed: the random seed of the replications. The global random generator does not change.
    """
    groups, made = layout(history), []
    solved, schedule = (observed(history), history) if sequential else (None, history.schedule())
    seen = groups.trials > 0
    at = groups.prompt[seen], groups.step[seen]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(checks.count("seed", seed, 0))
        if solved is not None:
            for trace in traces_at(dynamics, history, draws):
                law: Progress = trace.nodes["outcomes"]["fn"]
                made.append(law.sample_ahead(solved.expand(*law.batch_shape, -1))[:, *at])
            return torch.cat(made)
        for draw in range(len(next(iter(draws.values())))):
            values = {name: value[draw] for name, value in draws.items()}
            made.append(poutine.condition(dynamics.model, data=values)(schedule)[at])
    return torch.stack(made)


def predictive_checks(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    draws: Mapping[str, Tensor],
    *,
    sequential: bool = True,
    seed: int = 0,
) -> list[Check]:
    """Compare what matters for selection in the log and in its replications.

    The checks are "useful share by step" (groups neither all wrong nor all right), "solve rate by visit", "changes of
    class" (the share of visits whose group is of another class, all wrong, mixed or all right, than the prompt's visit
    before), "wrong once more" and "right once more" (the share of visits after nothing but groups that were all wrong,
    or all right, whose group is so again) and "predictive ranks": the ranks of the groups among their replications, in
    ten bins, which are even where the predictions are right (randomised probability integral transforms).

    If groups are replicated one step ahead, the class of a group before is that of the log, also for the replications.
    If whole logs are replicated, "prompts always wrong" and "prompts always right" (shares of the prompts with
    rollouts) take the place of the last three checks.

    Args:
        dynamics: the model.
        history: the log, with outcomes.
        draws: site -> [S, ...], such as `posterior.draws`.
        sequential: as for `replicate`; the default holds for logs whose groups were selected.
        seed: the random seed of the replications.
    """
    truth = observed(history)
    groups = layout(history)
    seen = groups.trials > 0
    prompt, step, trials = groups.prompt[seen], groups.step[seen], groups.trials[seen].double()
    replicated = replicate(dynamics, history, draws, sequential=sequential, seed=seed).double()
    outcomes = torch.cat([truth[prompt, step].double().unsqueeze(0), replicated])
    wrong, right = outcomes <= 0, outcomes >= trials
    kind = right.long() - wrong.long()
    visits = torch.bincount(prompt, minlength=history.num_prompts)
    visit = torch.arange(len(prompt)) - (visits.cumsum(0) - visits)[prompt]
    one = torch.zeros(1, dtype=torch.long)
    found = [
        ("useful share by step", *_curve((kind == 0).double(), step)),
        ("solve rate by visit", *_curve(outcomes / trials, visit)),
    ]

    def share(name: str, flag: Tensor, where: Tensor) -> None:
        if bool(where.any()):
            found.append((name, one, flag[:, where].double().mean(-1, keepdim=True)))

    again = visit > 0
    before = kind[:, :-1] if not sequential else kind[:1, :-1]
    changed = torch.nn.functional.pad(kind[:, 1:] != before, (1, 0))
    share("changes of class", changed, again)
    if sequential:
        for name, flag in (("wrong once more", wrong), ("right once more", right)):
            sofar = flag[0].long().cumsum(0) - flag[0].long()  # such groups before this one, of all prompts
            first = (visits.cumsum(0) - visits)[prompt]
            share(name, flag, again & (sofar - sofar[first] == visit))
        found.append(("predictive ranks", torch.arange(RANKS), _ranks(outcomes, seed)))
    else:
        for name, flag in (("prompts always wrong", wrong), ("prompts always right", right)):
            counts = torch.zeros(len(flag), history.num_prompts, dtype=torch.float64).index_add(
                1, prompt, flag.double()
            )
            share(name, counts == visits, visits > 0)
    return [Check(name, at, value[0], value[1:]) for name, at, value in found if len(at)]


def _ranks(outcomes: Tensor, seed: int) -> Tensor:
    """[1 + S, RANKS], the share of the groups [1 + S, G] whose rank among all 1 + S lies in each bin; equal outcomes
    are put in a random order."""
    noise = torch.rand(outcomes.shape, generator=torch.Generator().manual_seed(seed), dtype=outcomes.dtype)
    order = noise.argsort(0)
    order = order.gather(0, outcomes.gather(0, order).argsort(dim=0, stable=True))
    ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)).unsqueeze(-1).expand_as(order))
    bins = (ranks * RANKS) // len(order)
    return torch.stack([(bins == at).double().mean(-1) for at in range(RANKS)], -1)


def _curve(value: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Long [Q] and [1 + S, Q]: the places with enough groups, and the mean of the values [1 + S, G] there."""
    counts = torch.bincount(place)
    sums = torch.zeros(len(value), len(counts), dtype=torch.float64).index_add(1, place, value)
    enough = (counts >= min(FEW, int(counts.max()) / 2)).nonzero().squeeze(-1)
    return enough, (sums / counts.clamp_min(1))[:, enough]
