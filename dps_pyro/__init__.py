"""Predict, before any rollout, which prompts a policy partially solves now.

The solving progress of each prompt is a hidden Markov model written in Pyro. An exact online filter keeps a belief
about every prompt, and the beliefs choose the prompts that reinforcement learning rolls out. Start with `PromptSampler`
to use the package, and with `Dynamics` to write your own model.
"""

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
