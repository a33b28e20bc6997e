"""Small samplers and how to run and compare them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dps_pyro import PromptSampler
from dps_pyro.models import BetaBernoulli, PaperDPS, RewardEMA, SolvingProgress
from dps_pyro.selection.acquisition import ACQUISITIONS

IDS = [f"problem-{k}" for k in range(6)]
ACQUISITION = pytest.mark.parametrize("acquisition", ACQUISITIONS)
MODEL = pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, BetaBernoulli, RewardEMA])
NAN, INF = float("nan"), float("inf")


def sampler_of(num_prompts: Any = 6, make: Any = SolvingProgress, **options: Any) -> PromptSampler:
    return PromptSampler(make(), num_prompts, **options)


def run(sampler: PromptSampler, steps: int, seed: int = 0) -> list[list[int]]:
    """Select and observe made-up groups."""
    rng = np.random.default_rng(seed)
    chosen = []
    for _ in range(steps):
        rows = sampler.select(3)
        sampler.observe(rows, rng.integers(0, 9, 3), 8)
        chosen.append(rows.tolist())
    return chosen


def equal(one: Any, other: Any) -> bool:
    """The same nested state, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    return bool(one == other)
