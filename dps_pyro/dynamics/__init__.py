"""The contract of a dynamics model, and the exact likelihood that follows from it."""

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.features import Design, Groups, design_matrix, design_of
from dps_pyro.dynamics.forward import Conditioned, Filtered, condition, filter_all, log_likelihood, predict
from dps_pyro.dynamics.ladders import concentrations, even_gaps, even_start, level_names
from dps_pyro.dynamics.progress import Progress
from dps_pyro.dynamics.step import Step

__all__ = [
    "Conditioned",
    "Design",
    "Dynamics",
    "Filtered",
    "Groups",
    "Progress",
    "Step",
    "concentrations",
    "condition",
    "design_matrix",
    "design_of",
    "even_gaps",
    "even_start",
    "filter_all",
    "level_names",
    "log_likelihood",
    "predict",
]
