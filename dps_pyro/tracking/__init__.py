"""The exact online filter: the beliefs of all prompts, step by step."""

from dps_pyro.tracking.groups import State
from dps_pyro.tracking.over_draws import TrackerOverDraws
from dps_pyro.tracking.predictor import Filter, Predictor
from dps_pyro.tracking.tracker import Tracker, fitted_part, is_fitted, track

__all__ = ["Filter", "Predictor", "State", "Tracker", "TrackerOverDraws", "fitted_part", "is_fitted", "track"]
