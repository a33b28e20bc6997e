"""What the tests of replays share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dps_pyro import RolloutHistory

QUIET: dict[str, Any] = {"progress": False}


def full(num_prompts: int, num_steps: int, trials: int = 4, seed: int = 0) -> RolloutHistory:
    rng = np.random.default_rng(seed)
    rates = rng.random((num_prompts, 1))
    return RolloutHistory.from_dense(torch.tensor(rng.binomial(trials, rates, (num_prompts, num_steps))), trials)
