"""Every prompt's group at every step of a run: what predictors are compared on, as nobody saw it at the time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dps_pyro.history.log import RolloutHistory
from dps_pyro.trainers.step.bookkeeping import Ledger
from dps_pyro.trainers.step.groups import Groups

__all__ = ["Chosen", "FullLog"]


class Chosen(NamedTuple):
    """The batch of one step."""

    prompts: Tensor  # long [G]
    groups: Groups  # G of them
    trained: Tensor  # bool [G]
    predicted: Tensor  # [G], the chance of a useful group predicted at selection


class FullLog:
    """The log of all prompts, beside the sampler's history of those that it chose.

    Args:
        folder: the run's; the log is its full_log.parquet.
        like: a history of the same prompts.
    """

    def __init__(self, folder: Path, like: RolloutHistory) -> None:
        self.path = folder / "full_log.parquet"
        self.history = like.where(torch.zeros(len(like), dtype=torch.bool))
        self.history.num_steps = 0

    def others(self, rows: Tensor) -> Tensor:
        """Long, the prompts that are not among `rows`."""
        left = torch.ones(self.history.num_prompts, dtype=torch.bool)
        left[rows] = False
        return left.nonzero().squeeze(-1)

    def append(self, chosen: Chosen, rest: Tensor, others: Groups, ledger: Ledger) -> None:
        """Record one step: the groups of the batch, and those of the other prompts, `rest`."""
        self.history.append(
            torch.cat([chosen.prompts, rest]),
            step=ledger.step,
            solved=torch.cat([chosen.groups.solved, others.solved]),
            trials=torch.cat([chosen.groups.sizes, others.sizes]),
            predicted=torch.cat([chosen.predicted, torch.full([len(rest)], math.nan)]),
            trained=torch.cat([chosen.trained, torch.zeros(len(rest), dtype=torch.bool)]),
            progress=ledger.accuracy,
            useful=torch.cat([chosen.groups.useful, others.useful]),
        )

    def save(self) -> None:
        """Write it, atomically."""
        self.history.to_parquet(self.path)

    def resume(self, step: int) -> None:
        """Go on from the log of the first `step` steps."""
        log = RolloutHistory.from_parquet(self.path)
        self.history = log.where(log.events.step < step)
        self.history.num_steps = step
