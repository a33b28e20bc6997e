"""Acquisitions that prefer prompts below even odds, for the plan ideas_one.

`soft` with the worth "variance" weights a prompt by powers of E[p (1 - p)], which is as large for a prompt that is
nearly always solved as for one that hardly ever is. Of the two, only the second has much left to learn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dps_pyro.selection.acquisition import Forecast, soft, tracker_of

__all__ = ["one_in_four", "one_in_three"]


def one_in_three(forecast: Forecast, generator: torch.Generator) -> Tensor:
    """Draw with weights E[p (1 - p)^2] ** 2, which are largest at a success rate of a third."""
    return _drawn(forecast, generator, failures=2, sharpness=2.0)


def one_in_four(forecast: Forecast, generator: torch.Generator) -> Tensor:
    """Draw with weights E[p (1 - p)^3], which are largest at a success rate of a quarter."""
    return _drawn(forecast, generator, failures=3, sharpness=1.0)


def _drawn(forecast: Forecast, generator: torch.Generator, *, failures: int, sharpness: float) -> Tensor:
    """Draw by the chance of one success before so many failures, as a share of the largest that there can be."""
    most = failures**failures / (failures + 1) ** (failures + 1)
    worth = tracker_of(forecast).rates().sequence(1, failures) / most
    return soft(sharpness)(forecast._replace(informative=worth.clamp(0, 1)), generator)
