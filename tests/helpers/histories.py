"""What the tests of several gallery models share: histories drawn from a model, and histories that say too little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from dps_pyro import Dynamics, Posterior, Progress, PromptSampler, RolloutHistory, Step


def simulated(
    model: Dynamics[Any], trials: Tensor, values: Mapping[str, Tensor], seed: int = 0
) -> tuple[RolloutHistory, dict[str, Tensor]]:
    """A history of the given trials [N, T], drawn from the model at the given site values (the others drawn from the
    prior), and the values of all sites."""
    schedule = RolloutHistory.from_dense(torch.zeros(trials.shape), trials).schedule()
    torch.manual_seed(seed)
    trace = poutine.trace(poutine.condition(model.model, data=dict(values))).get_trace(schedule)
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    drawn = {name: site["value"] for name, site in sites.items() if not site_is_subsample(site)}
    return RolloutHistory.from_dense(drawn.pop("outcomes").double(), trials), drawn


def some_trials(num_prompts: int, num_steps: int, share: float = 1.0, size: int = 8, seed: int = 0) -> Tensor:
    """[N, T], groups of `size` rollouts for a random share of the prompts at each step."""
    seen = torch.rand(num_prompts, num_steps, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(seen, size, 0)


def filtered(
    model: Dynamics[Any], values: Mapping[str, Tensor], solved: Tensor, trials: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The model's log p(y_1:T) [N], and the sampler's beliefs before each step and after the last [N, T+1, K]."""
    num_prompts, num_steps = solved.shape
    evidence = Progress(model, model.parameters(num_prompts, values), Step(trials)).log_prob(solved)
    sampler = PromptSampler(model, num_prompts, posterior=Posterior({}, dict(values), torch.zeros(0), True))
    beliefs = [sampler.belief.clone()]
    for t in range(num_steps):
        sampler.observe(list(range(num_prompts)), solved[:, t], trials[:, t])
        beliefs.append(sampler.belief.clone())
    return evidence.numpy(), torch.stack(beliefs, 1).numpy()


def draws_with_a_sample_dimension_filter_like_each_alone(model: Dynamics[Any], num_prompts: int) -> None:
    """Parameters drawn in a vectorised plate, [S, 1 or N, ...], give each draw's own likelihood."""
    trials = some_trials(num_prompts, 4, share=0.7)
    solved = (trials * torch.rand(num_prompts, 4)).floor()
    with poutine.trace() as tape, pyro.plate("samples", 5, dim=-2):
        together = model.prior(pyro.plate("prompts", num_prompts, dim=-1))
    sites = {name: site for name, site in tape.trace.nodes.items() if site["type"] == "sample"}
    sites = {name: site for name, site in sites.items() if not site_is_subsample(site)}
    many = Progress(model, together, Step(trials)).log_prob(solved)
    assert many.shape == (5, num_prompts)
    own = {name: any(frame.name == "prompts" for frame in site["cond_indep_stack"]) for name, site in sites.items()}
    for s in range(5):
        values = {name: site["value"][s] if own[name] else site["value"][s, 0] for name, site in sites.items()}
        alone = Progress(model, model.parameters(num_prompts, values), Step(trials)).log_prob(solved)
        torch.testing.assert_close(many[s], alone, atol=1e-4, rtol=1e-4)


BY_DEFAULT_AND_FROM_SEEDS = [None, pytest.param(range(2), marks=pytest.mark.slow)]
"""Fits that are held against the truth: by the default method, and in the long version by SVI from two seeds."""
MORE_SEEDS = range(3, 11)
"""Seeds of fits to a smaller history that are to agree with each other: none may permute states, groups or types."""
