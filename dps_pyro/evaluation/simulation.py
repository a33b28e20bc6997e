"""Logs drawn from a model, together with the truth that a fit should find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.progress import Progress
from dps_pyro.dynamics.sites import centre as centre_of_site
from dps_pyro.dynamics.step import Step, steps_of
from dps_pyro.history.log import Features, RolloutHistory, useful_by_sum
from dps_pyro.inference.posterior import Posterior
from dps_pyro.support import checks

__all__ = ["Simulated", "simulate"]


class Simulated(NamedTuple):
    """A log, and what it was drawn from."""

    log: RolloutHistory
    truth: Posterior  # every site's value, as its one draw and its point; `converged`, as there is nothing to find
    shifted: Tensor  # long, the prompts whose states were drawn anew at the shift, in rising order


def simulate(
    dynamics: Dynamics[Any],
    prompts: int | Sequence[str],
    num_steps: int,
    trials: int = 8,
    *,
    values: Mapping[str, Tensor] | None = None,
    centre: bool = False,
    observed: float = 1.0,
    trained: float = 1.0,
    progress: Sequence[float] | Tensor | None = None,
    shift_at: int | None = None,
    shift_share: float = 0.5,
    features: Features | None = None,
    seed: int = 0,
) -> Simulated:
    """Draw a log from a model.

    Args:
        dynamics: the model.
        prompts: the number of prompts, or their ids.
        num_steps: T.
        trials: the number of rollouts per group.
        values: site name -> value, such as `Posterior.point`; the other sites are drawn from the prior.
        centre: set the other sites to the prior's centre instead, as in an online filter.
        observed: the chance that a prompt is rolled out in a step, in (0, 1]. With 1 the log is full, as `replay` needs
            it.
        trained: the chance that the policy is updated on a group, in [0, 1], for models that use it.
        progress: [T], the policy's overall progress before each step, for models that use it. By default it is unknown.
        shift_at: a step in 1..T-1 at which prompts' states are drawn anew from the initial distribution, as if the
            policy had been replaced; None for none.
        shift_share: the share of prompts that get new states, in (0, 1]. They are chosen at random.
        features: the features of the prompts, for the log. (A model that uses features took them in its constructor.)
        seed: the random seed of all draws. The global random generator does not change.

    If the model says what law one reward has (`Dynamics.reward`), the reward of each rollout is drawn from it. The sum
    of a group is theirs, and the group is useful if its largest and smallest reward are more than `dynamics.tolerance`
    apart. Otherwise the sum of a group is drawn from the emission, and the log counts the group as useful by its sum
    (`useful_by_sum`). Sums outside 0..trials, which Gaussian rewards may have, are moved to these bounds.

    Raises:
        ValueError: an argument is of another kind or out of range, or the values are not the model's.
    """
    checks.instance("dynamics", dynamics, Dynamics)
    num_steps = checks.count("num_steps", num_steps, 1)
    trials = checks.count("trials", trials, 1)
    observed, trained = _share("observed", observed), _share("trained", trained, or_zero=True)
    shift_share = _share("shift_share", shift_share)
    if shift_at is not None:
        shift_at = checks.count("shift_at", shift_at, 1, num_steps - 1)
    known = [None] * num_steps if progress is None else checks.numbers("progress", progress).tolist()
    if len(known) != num_steps:
        raise ValueError(f"progress: expected {num_steps} numbers, one per step, got {len(known)}")
    schedule = RolloutHistory(prompts, num_steps=num_steps, features=features)
    num_prompts = schedule.num_prompts
    dynamics.parameters(num_prompts, values)  # says so where the values are not its
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(checks.count("seed", seed, 0))
        theta, sites, own = _parameters(dynamics, num_prompts, values or {}, centre)
        for step, level in enumerate(known):
            rows = (torch.rand(num_prompts) < observed).nonzero().squeeze(-1)
            learned = torch.rand(len(rows)) < trained
            nothing = torch.zeros(len(rows))
            schedule.append(rows, step=step, solved=nothing, trials=trials, trained=learned, progress=level)
        steps = steps_of(schedule, schedule.dense())
        solved, states = Progress(dynamics, theta, steps).expand([num_prompts]).sample_with_states()
        shifted = torch.zeros(0, dtype=torch.long)
        if shift_at is not None:
            # From there on a process that starts: initial states, and the moves of the steps to come.
            rest = steps.at(slice(shift_at, None))
            anew, others = Progress(dynamics, theta, rest).expand([num_prompts]).sample_with_states()
            shifted = torch.randperm(num_prompts)[: max(1, round(shift_share * num_prompts))].sort().values
            solved[shifted, shift_at:], states[shifted, shift_at:] = anew[shifted], others[shifted]
        rewarded = _one_by_one(dynamics, theta, steps, states, trials)
    log = RolloutHistory(prompts, num_steps=num_steps, features=features)
    events = schedule.events
    for step, level in enumerate(known):
        now = events.step == step
        rows, size = events.prompt[now], events.trials[now]
        counts = torch.minimum(solved[rows, step].double().clamp_min(0), size.double())
        mixed = useful_by_sum(counts, size, dynamics.tolerance)
        if rewarded is not None:
            counts = rewarded.sum[rows, step].clamp(0, trials)
            mixed = rewarded.apart[rows, step] > dynamics.tolerance
        learned = events.trained[now]
        log.append(rows, step=step, solved=counts, trials=size, trained=learned, progress=level, useful=mixed)
    about = {
        "model": type(dynamics).__name__,
        "method": "simulated",
        "prompts": num_prompts,
        "groups": len(log),
        "per_prompt": own,
        "columns": dynamics.carried(),
        "shift_at": shift_at,
        "shifted": len(shifted),
        "seed": seed,
    }
    drawn = {name: value.unsqueeze(0) for name, value in sites.items()}
    truth = Posterior(draws=drawn, point=sites, losses=torch.zeros(0), converged=True, about=about)
    return Simulated(log, truth, shifted)


class _Rewarded(NamedTuple):
    """Groups whose rewards were drawn one by one."""

    sum: Tensor  # float64 [N, T]
    apart: Tensor  # float64 [N, T], the largest reward less the smallest


def _one_by_one(dynamics: Dynamics[Any], theta: Any, steps: Step, states: Tensor, trials: int) -> _Rewarded | None:
    """Rewards of groups of `trials` rollouts in the given states [N, T]; None if the model has no law for one
    reward."""
    sums, apart = [], []
    for t in range(states.shape[-1]):
        law = dynamics.reward(theta, steps.at(t))
        if law is None:
            return None
        z = states[:, t, None].expand(trials, -1, -1)
        drawn = law.expand([len(states), len(dynamics.states)]).sample(torch.Size([trials])).double()
        rewards = drawn.gather(-1, z).squeeze(-1)
        sums.append(rewards.sum(0))
        apart.append(rewards.amax(0) - rewards.amin(0))
    return _Rewarded(torch.stack(sums, -1), torch.stack(apart, -1))


def _parameters(
    dynamics: Dynamics[Any], num_prompts: int, values: Mapping[str, Tensor], centre: bool
) -> tuple[Any, dict[str, Tensor], list[str]]:
    """Return the parameters, the value of every site, and the names of the sites that each prompt has of its own."""
    given = {name: torch.as_tensor(value) for name, value in values.items()}
    placed = InitMessenger(centre_of_site) if centre else nullcontext()
    with placed, poutine.trace() as tape, poutine.condition(data=given):
        theta = dynamics.prior(pyro.plate("prompts", num_prompts, dim=-1))
    nodes = {
        name: node
        for name, node in tape.trace.nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node)
    }
    own = [name for name, node in nodes.items() if any(at.name == "prompts" for at in node["cond_indep_stack"])]
    return theta, {name: torch.as_tensor(node["value"]).clone() for name, node in nodes.items()}, own


def _share(name: str, value: float, or_zero: bool = False) -> float:
    share = checks.positive(name, value, or_zero)
    if share > 1:
        raise ValueError(f"{name}: expected a share of at most 1, got {value!r}")
    return share
