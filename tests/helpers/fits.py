"""Fits by stochastic variational inference, with the settings of the method and of the fit side by side."""

from __future__ import annotations

from typing import Any

from dps_pyro import SVI, Dynamics, Posterior, RolloutHistory, fit


def svi(model: Dynamics[Any], history: RolloutHistory, **settings: Any) -> Posterior:
    """`fit(model, history, SVI(...), ...)` without a progress bar."""
    own = {name: settings.pop(name) for name in ("prior", "widen", "seed") if name in settings}
    settings.pop("progress", None)
    return fit(model, history, SVI(**settings), progress=False, **own)
