"""Predict, before any rollout, which prompts a policy partially solves now.

Each prompt's solving progress is a hidden Markov model written in Pyro, filtered exactly online; the beliefs choose the
prompts that reinforcement learning rolls out. See `PromptSampler` to use it, `Dynamics` to write a model of one's own.
"""

from dps_pyro.dynamics import Conditioned, Dynamics, Progress, Step, condition, predict
from dps_pyro.fit import Posterior, fit
from dps_pyro.history import RolloutHistory
from dps_pyro.refit import Refit
from dps_pyro.sampler import PromptSampler
from dps_pyro.tracker import Tracker, track

__version__ = "0.1.0"

__all__ = [
    "Conditioned",
    "Dynamics",
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
