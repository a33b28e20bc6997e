"""Checks of what users hand to a prompt sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.selection.acquisition import ACQUISITIONS, Acquisition
from dps_pyro.support import checks
from dps_pyro.tracking.over_draws import spread_out
from dps_pyro.tracking.predictor import Predictor
from dps_pyro.tracking.tracker import is_fitted

if TYPE_CHECKING:
    from dps_pyro.inference.posterior import Posterior

__all__ = ["acquisition_of", "booleans", "few_draws", "same_columns"]


def acquisition_of(given: str | Acquisition) -> Acquisition:
    """An acquisition, given itself or by its name."""
    found = ACQUISITIONS.get(given) if isinstance(given, str) else given
    if not callable(found):
        raise ValueError(f"acquisition: expected one of {', '.join(ACQUISITIONS)}, or a function, got {given!r}")
    return found


def booleans(name: str, values: Tensor | Sequence[bool] | None, rows: Tensor) -> Tensor | None:
    """A column of booleans, one for each of `rows`; None if `values` is None."""
    column = None if values is None else torch.as_tensor(values)
    if column is not None and (column.dtype != torch.bool or column.shape != rows.shape):
        raise ValueError(f"{name}: expected {len(rows)} booleans, one per prompt, got {values!r}")
    return column


def few_draws(
    dynamics: Dynamics[Any] | Predictor, posterior: Posterior | None, count: int, pooled: bool | None, refit_every: Any
) -> dict[str, Tensor]:
    """`count` of a posterior's draws, site name -> [count, ...], without the sites that are a run's own.

    Raises:
        ValueError: there is no posterior, or something else is asked for that a filter over draws does not do.
    """
    count = checks.count("posterior_draws", count, 1)
    if not is_fitted(dynamics):
        name = type(dynamics).__name__
        raise ValueError(f"posterior_draws: expected a model that is fitted to logs, got {name}")
    if posterior is None:
        raise ValueError("posterior_draws: expected a posterior to take draws of, got posterior=None")
    for name, other in (("pooled", pooled), ("refit_every", refit_every)):
        if other:
            unless = "None or False" if name == "pooled" else "None"
            raise ValueError(f"{name}: expected {unless} with posterior_draws, got {other}")
    return spread_out({name: of for name, of in posterior.draws.items() if name not in dynamics.run_sites}, count)


def same_columns(dynamics: Dynamics[Any], posterior: Posterior) -> None:
    """Whether the values mean in this model what they meant in the one that was fitted."""
    fitted, own = posterior.about.get("columns"), dynamics.carried()
    if fitted and own and fitted != own:
        name = type(dynamics).__name__
        what = ", ".join(f"{key}={value!r}" if key == "labels" else f"another {key}" for key, value in own.items())
        raise ValueError(
            f"posterior: expected one fitted with the same {' and '.join(own)}; this {name} has {what}: make it with "
            f'{name}(..., **posterior.about["columns"])'
        )
