"""Checks of the laws: shapes, probabilities, order, broadcasting."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from dps_pyro.dynamics.laws import unchecked
from dps_pyro.testing.case import BROADCAST, Case, differ

__all__ = [
    "anywhere",
    "check_broadcasting",
    "check_copy",
    "check_emission",
    "check_laws",
    "check_methods",
    "check_order",
    "check_states",
]

DRAWS = 20
"""The number of parameter values at which laws are checked one by one."""


METHODS = {"prior": 1, "initial": 1, "transition": 2, "emission": 2, "informative": 2}
"""The number of arguments of each method."""


def check_methods(case: Case) -> None:
    """Check that the methods take the arguments with which they are called."""
    for method, count in METHODS.items():
        signature = inspect.signature(getattr(case.model, method))
        try:
            signature.bind(*[None] * count)
        except TypeError as error:
            form = {"prior": "(self, prompts)", "initial": "(self, theta)"}.get(method, "(self, theta, step)")
            expected, mend = f"to be called as `{method}{form.replace('self, ', '')}`", f"Write `def {method}{form}`"
            raise case.error(method, expected, str(error), mend) from error


def check_states(case: Case) -> None:
    """Check that the names of the states are at least two distinct strings."""
    states: Any = case.model.states
    named = isinstance(states, tuple) and all(isinstance(name, str) for name in states)
    if not named or len(set(states)) < len(states) or len(states) < 2:
        mend = "Set `states = (...)` on the class, or self.states in its __init__, from unsolved to solved"
        raise case.error("states", "a tuple of at least two distinct names", repr(states), mend)


def check_laws(case: Case) -> None:
    """Check that every method returns a valid result everywhere in the prior's support, and the same each time."""
    for _ in range(DRAWS // 2):  # a fit passes through many points that are unlikely a priori
        case.laws(case.parameters(case.values(anywhere)), case.step(0))
    for _ in range(DRAWS // 4):
        theta = case.parameters(case.values())
        for t in range(case.num_steps):
            laws = case.laws(theta, case.step(t))
            for method, one, two in zip(laws._fields, laws, case.laws(theta, case.step(t)), strict=True):
                if differ(one, two):
                    mend = "Draw nothing there: what is random is sampled in prior"
                    raise case.error(method, "the same for the same theta and step", "something else", mend)
        nobody = case.step(0).replace(trials=torch.zeros(case.num_prompts, dtype=torch.long))
        if bool((case.laws(theta, nobody).informative != 0).any()):
            mend = (
                "`torch.where(step.trials.unsqueeze(-1) > 1, chance, 0.0)`: without rollouts there is no useful group"
            )
            raise case.error("informative", "0 where trials are 0", "more", mend)


def check_emission(case: Case) -> None:
    """Check that every outcome is possible in some state, and that the chances of counts add up to one."""
    for _ in range(DRAWS // 4):
        theta = case.parameters(case.values())
        for size in case.sizes:
            law = case.call("emission", theta, case.step(0).replace(trials=torch.full((case.num_prompts,), size)))
            try:
                discrete = bool(law.support.is_discrete)
            except NotImplementedError as error:
                mend = "Give it a support, such as `constraints.nonnegative_integer` or `constraints.real`"
                raise case.error("emission", "a law that says what it is of", "no support", mend) from error
            outcomes = torch.arange(size + 1.0, dtype=torch.get_default_dtype()).reshape(-1, 1, 1)
            log_prob: Tensor = unchecked(law).log_prob(outcomes)
            total = log_prob.exp().sum(0)
            if discrete and not bool(((total - 1).abs() < 1e-3).all()):
                worst = float(total.flatten()[(total - 1).abs().argmax()])
                mend = "It is the law of how many of step.trials rollouts solved the prompt, and of no more than those"
                expected = f"probabilities of 0..{size} solved of {size} that add up to 1"
                raise case.error("emission", expected, f"{worst:g}", mend)
            best = log_prob.amax(-1)
            if bool((~best.isfinite()).any()):
                at = int((~best.isfinite()).flatten(1).any(-1).nonzero()[0])
                mend = "Keep rates inside (0, 1), and outcomes inside the support: one impossible group ends every fit"
                came = f"a log-probability of {float(best[at].flatten()[0]):g}"
                raise case.error("emission", f"{at} of {size} solved to be possible in some state", came, mend)


def check_order(case: Case) -> None:
    """Check that the expected outcome does not fall from state to state, for draws of the prior and in its support."""
    size = max(case.sizes)
    step = case.step(0).replace(trials=torch.full((case.num_prompts,), size))
    for attempt in range(3 * DRAWS):
        values = case.values(anywhere if attempt % 3 else None)
        law = case.call("emission", case.parameters(values), step)
        mean = _mean(law, size).expand(case.num_prompts, case.num_states)
        if not bool(mean.isfinite().all()):
            mend = "Its parameters overflow, or are NaN, at values that the prior allows"
            raise case.error("emission", "a finite mean", f"{mean[0].tolist()}", mend)
        if bool((mean.diff(dim=-1) < -1e-4 * size).any()):
            fallen = (mean.diff(dim=-1) < -1e-4 * size).any(-1).nonzero()[0]
            rates = [round(rate, 3) for rate in (mean[int(fallen)] / size).tolist()]
            where = "a draw of the prior" if attempt % 3 == 0 else "a point of the prior's support"
            mend = (
                "Order the states by construction, so that no fit can permute them: rates that are cumulative sums of "
                "a Dirichlet's gaps, `gaps.cumsum(-1)[..., :-1]`, instead of independent ones"
            )
            raise case.error("emission", "success rates that rise from state to state", f"{rates} at {where}", mend)


def anywhere(site: Any) -> Tensor:
    """Draw a value from the whole support of a site, however unlikely a priori: a fit may pass through it."""
    transform = biject_to(site["fn"].support)
    value: Tensor = transform(2 * torch.randn(transform.inverse_shape(site["fn"].shape())))
    return value


def _mean(law: Any, size: int) -> Tensor:
    try:
        mean: Tensor = law.mean
    except NotImplementedError:
        outcomes = torch.arange(size + 1.0, dtype=torch.get_default_dtype()).reshape(-1, 1, 1)
        mean = (unchecked(law).log_prob(outcomes).exp() * outcomes).sum(0)
    return mean


def check_broadcasting(case: Case) -> None:
    """Check that samples and steps together give the same as each alone."""
    samples = next(count for count in range(3, 8) if count not in (case.num_prompts, case.num_steps, case.num_states))
    drawn = case.draw(samples=samples)
    shapes = {name: site["value"].shape for name, site in case.draw().sites.items()}
    steps = case.steps.each(lambda field: field.mT.unsqueeze(-2))
    at_once = case.laws(drawn.theta, steps, (case.num_steps, samples))
    for s in range(samples):
        values = {name: site["value"][s].reshape(shapes[name]) for name, site in drawn.sites.items()}
        theta = case.parameters(values)
        for t in range(case.num_steps):
            alone = case.laws(theta, case.step(t))
            for method, one, two in zip(alone._fields, alone, at_once, strict=True):
                found = two[:, t, s] if method == "emission" else two[t, s]
                if differ(one, found):
                    came = f"something else for sample {s} at step {t} of {samples} samples and {case.num_steps} steps"
                    raise case.error(method, "the law that a sample and a step have alone", came, BROADCAST)


def check_copy(case: Case) -> None:
    """Check that a pickled copy has the same laws, because a refit in the background works on a copy."""
    twin = copy.copy(case.model)
    try:
        vars(twin).update(pickle.loads(pickle.dumps(vars(case.model))))  # noqa: S301 - made here
    except Exception as error:
        mend = "A refit in the background pickles the model: keep open files, locks, generators and lambdas out of it"
        raise case.error("__init__", "a model that can be pickled", f"{type(error).__name__}: {error}", mend) from error
    values = case.values()
    other = copy.copy(case)
    other.model = twin
    mine, its = case.laws(case.parameters(values), case.step(0)), other.laws(other.parameters(values), case.step(0))
    for method, one, two in zip(mine._fields, mine, its, strict=True):
        if differ(one, two):
            mend = "Keep what the laws depend on in the instance, not in globals or closures"
            raise case.error(method, "a copy of the model to have the same law", "another", mend)
