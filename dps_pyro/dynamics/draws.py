"""A model's densities at many draws of its parameters at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.sites import sites_of
from dps_pyro.history.log import RolloutHistory

__all__ = ["MOST_AT_ONCE", "densities_of_sites", "traces_at"]

MOST_AT_ONCE = 4_000_000
"""Numbers in a tensor of many draws, prompts, steps and states."""


def traces_at(dynamics: Dynamics[Any], history: RolloutHistory, draws: Mapping[str, Tensor]) -> Iterator[Any]:
    """Pyro's traces of a model on a log at draws of its parameters. All of a trace's draws lie in one dimension, left
    of the prompts, which is many times as fast as a trace for each. Where that would take too much memory, some of the
    draws are in one trace and the next in another.

    Args:
        dynamics: the model.
        history: the log, with outcomes.
        draws: site -> [S, ...], S >= 1. A site that is left out is drawn from the prior, S times. One that the prior
            does not have is passed over.
    """
    plates = {name: len(site["fn"].batch_shape) for name, site in sites_of(dynamics, history.num_prompts).items()}
    weight = history.num_prompts * history.num_steps * len(dynamics.states)
    each = max(1, MOST_AT_ONCE // max(1, weight))
    count = len(next(iter(draws.values())))
    for first in range(0, count, each):
        some = {name: value[first : first + each] for name, value in draws.items() if name in plates}
        # The prompts are the dimension right of the draws: a site of no plate has one entry there.
        given = {name: value if plates[name] else value.unsqueeze(1) for name, value in some.items()}
        with pyro.plate("draws", min(each, count - first), dim=-2):
            trace = poutine.trace(poutine.condition(dynamics.model, data=given)).get_trace(history)
        yield trace


def densities_of_sites(trace: Any) -> Iterator[Tensor]:
    """[S] of each site of a trace of S draws in one dimension, the outcomes included: the log density of its values."""
    trace.compute_log_prob()
    for site in trace.nodes.values():
        if site["type"] == "sample" and not site_is_subsample(site):
            yield site["log_prob"].flatten(1).sum(1)
