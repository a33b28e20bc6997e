"""The scores that an acquisition gives to all prompts of a sampler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dps_pyro.selection.acquisition import Acquisition, Forecast, changes_nothing
from dps_pyro.selection.coverage import Coverage
from dps_pyro.tracking.predictor import Filter

__all__ = ["scores"]


def scores(
    acquire: Acquisition, tracker: Filter, coverage: Coverage, chance: Tensor, trials: int, generator: torch.Generator
) -> Tensor:
    """[N], what an acquisition says of all prompts.

    Args:
        acquire: the acquisition.
        tracker: what is believed of the prompts.
        coverage: how often they were visited.
        chance: [N], the chances that groups of the planned size are useful.
        trials: the planned size of a group.
        generator: the random generator of the draws.

    Raises:
        ValueError: the acquisition returned something else than a score for each of the prompts, or a NaN.
    """
    belief, visits = tracker.belief, coverage.visits
    if changes_nothing(acquire):
        forecast = Forecast(belief, chance, visits, tracker.draw, trials, tracker)
    else:  # the user's function gets copies, which it may change
        forecast = Forecast(belief.clone(), chance.clone(), visits.clone(), tracker.draw, trials, tracker)
    found: Any = acquire(forecast, generator)
    count = tracker.num_prompts
    if not isinstance(found, Tensor) or found.shape != (count,) or bool(found.isnan().any()):
        raise ValueError(f"acquisition: expected {count} scores, got {found}")
    return found
