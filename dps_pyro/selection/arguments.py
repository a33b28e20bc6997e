"""Checks of what users pass to a prompt sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.history.values import useful_by_sum
from dps_pyro.inference.refit import Refit, Refitter
from dps_pyro.selection.acquisition import ACQUISITIONS, Acquisition
from dps_pyro.support import checks
from dps_pyro.tracking.over_draws import spread_out
from dps_pyro.tracking.predictor import Filter, Predictor
from dps_pyro.tracking.tracker import Tracker, fitted_part, is_fitted

if TYPE_CHECKING:
    from dps_pyro.inference.posterior import Posterior

__all__ = [
    "Groups",
    "acquisition_of",
    "coming_step",
    "few_draws",
    "groups_given",
    "refitter_of",
    "site_values",
]

LONGEST_GAP = 100_000
"""Steps that may pass between two observations. A larger number is taken for a mistake."""


def acquisition_of(given: str | Acquisition) -> Acquisition:
    """An acquisition, given itself or by its name."""
    found = ACQUISITIONS.get(given) if isinstance(given, str) else given
    if not callable(found):
        raise ValueError(f"acquisition: expected one of {', '.join(ACQUISITIONS)}, or a function, got {given!r}")
    return found


class Groups(NamedTuple):
    """The groups of one step, checked."""

    rows: Tensor  # long [V], distinct
    solved: Tensor  # float [V], within 0..trials
    trials: Tensor  # long [V]
    trained: Tensor | None  # bool [V]; None if the caller did not say
    useful: Tensor  # bool [V]


def groups_given(
    tracker: Filter,
    prompts: Tensor | Sequence[int] | Sequence[str],
    solved: Tensor | Sequence[float],
    trials: Tensor | Sequence[int] | int,
    *,
    trained: Tensor | Sequence[bool] | None,
    useful: Tensor | Sequence[bool] | None,
) -> Groups:
    """The groups that a user gave to `observe`.

    Raises:
        ValueError: an argument is invalid.
    """
    rows = tracker.history.locate(prompts)
    ordered = np.sort(rows.numpy())
    again = ordered[1:] == ordered[:-1]
    if again.any():
        raise ValueError(f"prompts: expected each prompt once, got row {ordered[1:][again][0]} repeated")
    size = checks.whole_numbers("trials", trials)
    size = size.expand(len(rows)) if size.ndim == 0 else size
    count = checks.numbers("solved", solved)
    for name, column in (("solved", count), ("trials", size)):
        if column.shape != rows.shape:
            raise ValueError(
                f"{name}: expected shape ({len(rows)},), one entry per prompt, got shape {tuple(column.shape)}"
            )
    within = (count.numpy() >= 0) & (count.numpy() <= size.numpy())  # NaN is neither
    if not within.all():
        worst = int(within.argmin())
        raise ValueError(
            f"solved: expected numbers within 0..trials, got {count[worst].item():g} of {int(size[worst])} "
            f"at position {worst}"
        )
    differ = booleans("useful", useful, rows)
    if differ is None:
        differ = useful_by_sum(count, size, tracker.tolerance)
    elif bool((differ & (size < 2)).any()):
        raise ValueError("useful: expected groups of at least two rollouts to be useful, got a smaller one")
    return Groups(rows, count, size, booleans("trained", trained, rows), differ)


def coming_step(step: int | None, now: int) -> int:
    """The number of an observed step: `now`, the coming step, if none is given.

    Raises:
        ValueError: the step is negative, or too far ahead.
    """
    step = now if step is None else checks.count("step", step, 0)
    if step > now + LONGEST_GAP:
        raise ValueError(f"step: expected at most {LONGEST_GAP:,} steps past the coming one, {now}, got {step}")
    return step


def booleans(name: str, values: Tensor | Sequence[bool] | None, rows: Tensor) -> Tensor | None:
    """A column of booleans, one for each of `rows`; None if `values` is None."""
    column = None if values is None else torch.as_tensor(values)
    if column is not None and (column.dtype != torch.bool or column.shape != rows.shape):
        raise ValueError(f"{name}: expected {len(rows)} booleans, one per prompt, got {values!r}")
    return column


def site_values(dynamics: Dynamics[Any] | Predictor, posterior: Posterior | None) -> dict[str, Tensor] | None:
    """The site values at which a sampler filters: those of the posterior, without sites that belong to a single run.

    Raises:
        ValueError: `posterior` is no posterior, or was fitted with other columns than the model has.
    """
    if posterior is None:
        return None
    if not isinstance(getattr(posterior, "point", None), Mapping):
        raise ValueError(f"posterior: expected a Posterior (Posterior.load reads one), got {posterior!r}")
    learned = dynamics if isinstance(dynamics, Dynamics) else fitted_part(dynamics)
    if learned is not None:
        same_columns(learned, posterior)
    runs = () if learned is None else learned.run_sites
    return {name: value for name, value in posterior.point.items() if name not in runs}


def refitter_of(
    tracker: Filter,
    dynamics: Dynamics[Any] | Predictor,
    refit_every: int | None,
    refit: Refit,
    posterior: Posterior | None,
    device: str | torch.device | None = None,
) -> Refitter | None:
    """What refits the model of a sampler; None if `refit_every` is None.

    Raises:
        ValueError: the model is not fitted to logs, because it learns while it filters.
    """
    if refit_every is None:
        return None
    learned = fitted_part(dynamics)
    if not isinstance(tracker, Tracker) or learned is None:
        name = type(dynamics).__name__
        raise ValueError(f"refit_every: expected None, as {name} learns while it filters, got {refit_every}")
    return Refitter(learned, checks.instance("refit", refit, Refit), posterior, device)


def few_draws(
    dynamics: Dynamics[Any] | Predictor,
    posterior: Posterior | None,
    count: int | None,
    pooled: bool | None,
    refit_every: int | None,
) -> dict[str, Tensor] | None:
    """`count` of a posterior's draws, site name -> [count, ...], without the sites that belong to a single run; None if
    `count` is None.

    Raises:
        ValueError: there is no posterior, or an argument is given that a filter over draws does not allow.
    """
    if count is None:
        return None
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
    """Raise a ValueError if the values mean something else in this model than in the model that was fitted."""
    fitted, own = posterior.about.get("columns"), dynamics.carried()
    if fitted and own and fitted != own:
        name = type(dynamics).__name__
        what = ", ".join(f"{key}={value!r}" if key == "labels" else f"another {key}" for key, value in own.items())
        raise ValueError(
            f"posterior: expected one fitted with the same {' and '.join(own)}; this {name} has {what}: make it with "
            f'{name}(..., **posterior.about["columns"])'
        )
