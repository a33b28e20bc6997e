"""The states of prompts in hindsight: the chance of each state at every step given the whole log, and whole paths.

The online belief is `p(z_t | y_<t)`. These functions look back: which prompts were learned, and when?
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import infer_discrete
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.forward import log_likelihood
from dps_pyro.dynamics.laws import together, unchecked
from dps_pyro.dynamics.progress import Progress
from dps_pyro.dynamics.step import steps_of
from dps_pyro.history.log import Outcomes, RolloutHistory, observed
from dps_pyro.support import checks
from dps_pyro.support.devices import device_of, moved, on_device
from dps_pyro.support.places import put
from dps_pyro.tracking.tracker import is_fitted

__all__ = ["law", "paths", "smooth", "smoothed"]


def smoothed(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    values: Mapping[str, Tensor] | None = None,
    *,
    device: str | torch.device | None = None,
) -> Tensor:
    """[N, T, K], `p(z_t | y_1:T)`: exact, by the forward-backward algorithm.

    Args:
        dynamics: the model; not one that brings a filter of its own.
        history: the log, with outcomes.
        values: site name -> value, such as `Posterior.point`. Sites that are left out are at their prior means.
        device: where it is computed, with a copy of the model, such as "cuda". The log may lie on the CPU, and the
            result does. The default is the CPU.

    Raises:
        ValueError: the model is none of those, the log is a schedule, the values are not the model's, at them the
            model holds a group of the log impossible, or this machine does not have the device.
    """
    place, solved, outcomes = device_of(device), observed(history), history.dense()
    dynamics, values = moved(_fitted(dynamics), place), moved(dict(values or {}), place)
    if place is not None:
        solved, outcomes = solved.to(place), Outcomes(*put(tuple(outcomes), place))
    with on_device(place):
        return _smoothed(dynamics, history, outcomes, solved, values).cpu()


def _smoothed(
    dynamics: Dynamics[Any], history: RolloutHistory, outcomes: Outcomes, solved: Tensor, values: Mapping[str, Tensor]
) -> Tensor:
    theta = dynamics.parameters(history.num_prompts, values)
    with torch.no_grad():
        initial = dynamics.initial(theta).probs
        steps = steps_of(history, outcomes).each(lambda field: field.mT)  # time first
        moves = dynamics.transition(theta, steps).probs
        shown = unchecked(dynamics.emission(theta, steps)).log_prob(solved.mT.unsqueeze(-1))
        emitted = torch.where(steps.trials.unsqueeze(-1) > 0, shown, 0.0)
    return smooth(initial, moves.reshape(*[1] * (4 - moves.ndim), *moves.shape), emitted).movedim(0, -2)


def smooth(initial: Tensor, transition: Tensor, emitted: Tensor) -> Tensor:
    """[T, ..., N, K], `p(z_t | y_1:T)`; rows sum to 1.

    Args:
        initial: [..., N or 1, K], `p(z_1)`; leading dimensions may be left out.
        transition: [T or 1, ..., N or 1, K, K] or [T or 1, K, K], row-stochastic; the last step's is not used.
        emitted: [T, ..., N, K], `log p(y_t | z_t)`; zeros for a missing step.

    It is the gradient of `log_likelihood` in `emitted` (Fisher's identity), whose backward pass is the smoother.
    """
    batch = together(initial.shape[:-1], emitted.shape[1:-1])
    with torch.enable_grad():
        shown = emitted.detach().expand(len(emitted), *batch, -1).clone().requires_grad_()
        total = log_likelihood(initial.detach(), transition.detach(), shown)
    (chances,) = torch.autograd.grad(total, shown, torch.ones_like(total))
    whole = chances.sum(-1, keepdim=True)
    sound = total.isfinite() & (whole.isfinite() & (whole > 0)).all(0).squeeze(-1)
    if not bool(sound.all()):
        strange = (~sound).nonzero()[0].tolist()
        raise ValueError(
            f"history: expected groups that are possible at the values, got one of prompt {strange[-1]} that is not: "
            "no state at all, or none that can be reached, could have produced it"
        )
    return chances / whole


def paths(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    values: Mapping[str, Tensor] | None = None,
    *,
    temperature: int = 1,
    seed: int = 0,
) -> Tensor:
    """Long [N, T], one path of states per prompt given all of its outcomes, by Pyro's `infer_discrete`.

    Args:
        dynamics: the model; not one that brings a filter of its own.
        history: the log, with outcomes.
        values: as for `smoothed`.
        temperature: 1 draws from `p(z_1:T | y_1:T)`; 0 is its maximum (Viterbi), the single likeliest path, which need
            not pass through the likeliest state of every step.
        seed: the random seed of the draw. The global random generator does not change.

    Raises:
        ValueError: as `smoothed`, or the temperature is neither 0 nor 1.
    """
    observed(history)
    if temperature not in (0, 1):
        raise ValueError(f"temperature: expected 0 (the likeliest path) or 1 (a draw), got {temperature!r}")
    fixed = copy.copy(_fitted(dynamics))
    theta = dynamics.parameters(history.num_prompts, values)
    fixed.prior = _given(theta)  # type: ignore[method-assign]
    decoded = infer_discrete(fixed.enumerated_model, first_available_dim=-2, temperature=temperature)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(checks.count("seed", seed, 0))
        sites = poutine.trace(decoded).get_trace(history).nodes
    states = [sites[f"z_{t}"]["value"].expand(history.num_prompts) for t in range(history.num_steps)]
    return torch.stack(states, -1)


def law(dynamics: Dynamics[Any], history: RolloutHistory, values: Mapping[str, Tensor] | None = None) -> Progress:
    """The law of all prompts' outcomes in a log at the given values: batch [N], event [T].

    Raises:
        ValueError: the model brings a filter of its own, or the values are not its.
    """
    theta = _fitted(dynamics).parameters(history.num_prompts, values)
    with torch.no_grad():
        return Progress(dynamics, theta, steps_of(history, history.dense()))


def _given(theta: Any) -> Any:
    """A `prior` that draws nothing."""
    return lambda _: theta


def _fitted(dynamics: Dynamics[Any]) -> Dynamics[Any]:
    if not is_fitted(dynamics):
        name = type(dynamics).__name__
        raise ValueError(f"dynamics: expected a model that is fitted, got {name}, which brings a filter of its own")
    return dynamics
