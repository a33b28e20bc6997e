"""Histories of the reference model, and fits by stochastic variational inference in one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dps_pyro import SVI, Dynamics, Posterior, Progress, RolloutHistory, Step, fit
from dps_pyro.models import SolvingProgress

TRUTH = {
    "gaps": torch.tensor([0.08, 0.37, 0.47, 0.08]),
    "initial": torch.tensor([0.6, 0.3, 0.1]),
    "transition": torch.tensor([[0.9, 0.09, 0.01], [0.03, 0.85, 0.12], [0.0, 0.04, 0.96]]),
}


def simulated(num_prompts: int, num_steps: int, missing: float = 0.5) -> RolloutHistory:
    model = SolvingProgress()
    trials = torch.where(torch.rand(num_prompts, num_steps) < missing, 0, 8)
    law = Progress(model, model.parameters(num_prompts, TRUTH), Step(trials))
    return RolloutHistory.from_dense(law.sample().double(), trials)


def svi(model: Dynamics[Any], history: RolloutHistory, **settings: Any) -> Posterior:
    """`fit(model, history, SVI(...), ...)` without a progress bar."""
    own = {name: settings.pop(name) for name in ("prior", "widen", "seed") if name in settings}
    settings.pop("progress", None)
    return fit(model, history, SVI(**settings), progress=False, **own)


BY_DEFAULT_AND_BY_SVI = [None, pytest.param("svi", marks=pytest.mark.slow)]
"""How a fit is held against the truth: by the method that `fit` uses unless another is asked for, which takes a second
or two; and in the long version of the test by SVI too, which takes ten times as long."""


def fitted(model: Dynamics[Any], history: RolloutHistory, method: str | None, **settings: Any) -> Posterior:
    """A fit by the default method (None), or by SVI with the settings."""
    return fit(model, history, progress=False) if method is None else svi(model, history, **settings)


def points(model: Any, history: RolloutHistory, seeds: range | None, steps: int = 150) -> list[dict[str, torch.Tensor]]:
    """The points that fits by SVI from several seeds find, for one history; or the one that the default method finds,
    which depends on no seed."""
    if seeds is None:
        return [dict(fit(model, history, progress=False).point)]
    return [dict(svi(model, history, seed=seed, steps=steps, learning_rate=0.1, draws=50).point) for seed in seeds]


def all_near(
    found: list[dict[str, torch.Tensor]], expected: dict[str, torch.Tensor], tolerances: dict[str, float]
) -> None:
    """Each of some points has the expected values of the sites that have a tolerance."""
    for point in found:
        for name, tolerance in tolerances.items():
            torch.testing.assert_close(point[name], expected[name], atol=tolerance, rtol=0)


def quick(history: RolloutHistory, model: Any = None, **options: Any) -> Posterior:
    """A short fit by SVI, of `SolvingProgress` unless another model is given."""
    return svi(model or SolvingProgress(), history, **{"steps": 40, "draws": 20, **options})
