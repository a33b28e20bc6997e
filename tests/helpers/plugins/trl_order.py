"""The order of prompts in a TRL run."""

from __future__ import annotations

import torch
from torch import Tensor

from dps_pyro.selection.acquisition import Forecast

__all__ = ["in_order"]


def in_order(forecast: Forecast, generator: torch.Generator) -> Tensor:
    """The rows one after the other, as RepeatSampler has them without shuffling."""
    rows = torch.arange(len(forecast.visits))
    return -((rows - forecast.visits.sum()) % len(rows)).double()
