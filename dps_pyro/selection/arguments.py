"""Arguments of a prompt sampler, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics

if TYPE_CHECKING:
    from dps_pyro.inference.posterior import Posterior

__all__ = ["booleans", "check_columns"]


def booleans(name: str, values: Tensor | Sequence[bool] | None, rows: Tensor) -> Tensor | None:
    """Bool [V], one a prompt, or None where nothing was given.

    Raises:
        ValueError: something else was given.
    """
    column = None if values is None else torch.as_tensor(values)
    if column is not None and (column.dtype != torch.bool or column.shape != rows.shape):
        raise ValueError(f"{name}: expected {len(rows)} booleans, one a prompt, got {values!r}")
    return column


def check_columns(dynamics: Dynamics[Any], posterior: Posterior) -> None:
    """Check that the values mean in this model what they meant in the one that was fitted.

    Raises:
        ValueError: the model has other labels or features.
    """
    fitted, own = posterior.about.get("columns"), dynamics.carried()
    if fitted and own and fitted != own:
        name = type(dynamics).__name__
        what = ", ".join(f"{key}={value!r}" if key == "labels" else f"another {key}" for key, value in own.items())
        raise ValueError(
            f"posterior: expected one fitted with the same {' and '.join(own)}; this {name} has {what}: make it with "
            f'{name}(..., **posterior.about["columns"])'
        )
