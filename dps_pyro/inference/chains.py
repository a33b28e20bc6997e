"""NUTS's chains, here or in processes beside this one."""

from __future__ import annotations

from typing import Any

import torch

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.methods import NUTS
from dps_pyro.inference.nuts import Chain, run_chain
from dps_pyro.inference.refit import Worker

__all__ = ["run_chains"]

APART = 100_003
"""Between the seeds of chains."""


def run_chains(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    settings: NUTS,
    seed: int,
    progress: bool,
    device: torch.device | None = None,
) -> list[Chain]:
    """Run all chains, with a model whose tensors lie on the device. Each has a seed of its own, so that the draws do
    not depend on the number of processes."""
    seeds = [seed + APART * chain for chain in range(settings.chains)]
    if min(settings.processes, settings.chains) == 1:
        return [run_chain(dynamics, history, settings, one, progress) for one in seeds]
    workers = [Worker() for _ in range(min(settings.processes, settings.chains))]
    jobs = [{"chain": (dynamics, history, settings, one), "device": device} for one in seeds]
    pending = [workers[at % len(workers)].submit(job) for at, job in enumerate(jobs)]
    return [one.result() for one in pending]
