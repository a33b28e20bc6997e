"""The full log of a run: the group of every prompt at every step, on which predictors are compared afterwards."""

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
        """Continue from the log of the first `step` steps.

        Raises:
            ValueError: the log is damaged, is of other prompts, or lacks groups of those steps.
            OSError: it cannot be read.
        """
        log = RolloutHistory.from_parquet(self.path)
        kept = log.where(log.events.step < step)
        same = (log.ids, log.num_prompts, log.features) == (
            self.history.ids, self.history.num_prompts, self.history.features
        )  # fmt: skip
        if not same or log.num_steps < step or len(kept.events.prompt.unique()) not in (0, log.num_prompts):
            raise ValueError(
                f"{self.path}: expected every group of the first {step} steps of this run, got another log; without it "
                "the run cannot be resumed with --full-log"
            )
        self.history = kept
        self.history.num_steps = step
