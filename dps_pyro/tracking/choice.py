"""Which filter follows the prompts of a sampler: one belief per prompt, or one for all equals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.tracking.over_draws import TrackerOverDraws
from dps_pyro.tracking.pools.kinds import kinds_of
from dps_pyro.tracking.pools.pooled import PooledTracker
from dps_pyro.tracking.predictor import Filter, Predictor
from dps_pyro.tracking.tracker import is_fitted, track

__all__ = ["MANY", "pooled_tracker", "sampler_tracker"]

MANY = 20_000
"""The number of prompts from which on equals share a belief if that is possible and nobody says otherwise."""


@runtime_checkable
class Pools(Protocol):
    """A model with a filter of its own in which equals share a belief."""

    def pooled_tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> PooledTracker | None:
        """That filter of `num_prompts` prompts; None if each of them needs a belief of its own."""


def sampler_tracker(
    dynamics: Dynamics[Any] | Predictor,
    num_prompts: int,
    *,
    values: Mapping[str, Tensor] | None,
    draws: Mapping[str, Tensor] | None,
    dtype: torch.dtype | None,
    pooled: bool | None,
    choosable: bool,
    device: str | torch.device | None = None,
) -> Filter:
    """The filter for a prompt sampler.

    Args:
        dynamics: the model.
        num_prompts: N.
        values: site name -> value, such as `Posterior.point`.
        draws: site name -> [S, ...], if the filter is to run at several draws; None for one at `values`.
        dtype: the dtype of the beliefs.
        pooled: whether equals share a belief. None: from 20,000 prompts on, if the model allows it and batches can be
            chosen from a pool, and there is no device.
        choosable: whether the sampler can choose batches without a look at every prompt.
        device: where beliefs lie and are computed; None for the CPU.

    Raises:
        ValueError: `values` are not the model's, `pooled` is true and the model or the device does not allow it, or the
            device is not there or not one of the model's filter.
    """
    if draws is not None and is_fitted(dynamics):
        return TrackerOverDraws(dynamics, num_prompts, values=draws, dtype=dtype, device=device)
    if pooled and device is not None:
        raise ValueError(f"device: expected None with pooled beliefs, which are computed on the CPU, got {device!r}")
    wanted = choosable and num_prompts >= MANY and device is None if pooled is None else pooled
    found = pooled_tracker(dynamics, num_prompts, values=values, dtype=dtype) if wanted else None
    if pooled and found is None:
        name = type(dynamics).__name__
        raise ValueError(f"pooled: expected a model whose prompts are of a few kinds, got {name} without")
    return found or track(dynamics, num_prompts, values=values, dtype=dtype, device=device)


def pooled_tracker(
    dynamics: Dynamics[Any] | Predictor,
    num_prompts: int,
    *,
    values: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> PooledTracker | None:
    """The filter whose cost follows what was seen; None if the model needs a belief for every prompt.

    Raises:
        ValueError: `values` are not the model's.
    """
    if isinstance(dynamics, Pools):
        return dynamics.pooled_tracker(num_prompts, values=values, dtype=dtype)
    if not is_fitted(dynamics):
        return None
    kinds = kinds_of(dynamics, num_prompts, values)
    return None if kinds is None else PooledTracker(dynamics, num_prompts, kinds=kinds, values=values, dtype=dtype)
