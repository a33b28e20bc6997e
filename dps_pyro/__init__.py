"""Predict, before any rollout, which prompts a policy partially solves now.

The solving progress of each prompt is a hidden Markov model written in Pyro. An exact online filter keeps a belief
about every prompt, and the beliefs choose the prompts that reinforcement learning rolls out. Start with `PromptSampler`
to use the package, and with `Dynamics` to write your own model.

A name is imported when it is first used: a process that needs no model, such as one that judges rewards, does not load
PyTorch and Pyro.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dps_pyro.dynamics.contract import Dynamics
    from dps_pyro.dynamics.forward import Conditioned, condition, predict
    from dps_pyro.dynamics.progress import Progress
    from dps_pyro.dynamics.step import Step
    from dps_pyro.history.log import RolloutHistory
    from dps_pyro.inference.fitting import fit
    from dps_pyro.inference.methods import NUTS, SVI, Laplace
    from dps_pyro.inference.posterior import Posterior
    from dps_pyro.inference.refit import Refit
    from dps_pyro.selection.sampler import PromptSampler
    from dps_pyro.tracking.tracker import Tracker, track

__version__ = "0.1.0"

__all__ = [
    "NUTS",
    "SVI",
    "Conditioned",
    "Dynamics",
    "Laplace",
    "Posterior",
    "Progress",
    "PromptSampler",
    "Refit",
    "RolloutHistory",
    "Step",
    "Tracker",
    "condition",
    "fit",
    "predict",
    "track",
]

_PLACES = {
    "NUTS": "dps_pyro.inference.methods",
    "SVI": "dps_pyro.inference.methods",
    "Conditioned": "dps_pyro.dynamics.forward",
    "Dynamics": "dps_pyro.dynamics.contract",
    "Laplace": "dps_pyro.inference.methods",
    "Posterior": "dps_pyro.inference.posterior",
    "Progress": "dps_pyro.dynamics.progress",
    "PromptSampler": "dps_pyro.selection.sampler",
    "Refit": "dps_pyro.inference.refit",
    "RolloutHistory": "dps_pyro.history.log",
    "Step": "dps_pyro.dynamics.step",
    "Tracker": "dps_pyro.tracking.tracker",
    "condition": "dps_pyro.dynamics.forward",
    "fit": "dps_pyro.inference.fitting",
    "predict": "dps_pyro.dynamics.forward",
    "track": "dps_pyro.tracking.tracker",
}
"""The module that holds each public name."""


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
