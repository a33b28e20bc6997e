"""The published selectors that are no hidden Markov models, as trackers: baselines to be measured against.

Each is small, cites its paper, and says which of its details were read in the authors' code and which are assumed.
"""

from dps_pyro.models.selectors.greso import GRESO
from dps_pyro.models.selectors.history_resampling import HistoryResampling
from dps_pyro.models.selectors.oracle import Oracle
from dps_pyro.models.selectors.spo import SPO

__all__ = ["GRESO", "SPO", "HistoryResampling", "Oracle"]
