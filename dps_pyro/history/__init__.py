"""The log of rollouts that models are fitted to and trackers replay, and the logs of other training loops."""

from dps_pyro.history.counts import Counts, count_groups
from dps_pyro.history.foreign import FORMATS, read_log
from dps_pyro.history.layouts import Layout
from dps_pyro.history.log import Events, Features, Outcomes, RolloutHistory
from dps_pyro.history.rollouts import Rollout, history_of, prompt_id

__all__ = [
    "FORMATS",
    "Counts",
    "Events",
    "Features",
    "Layout",
    "Outcomes",
    "Rollout",
    "RolloutHistory",
    "count_groups",
    "history_of",
    "prompt_id",
    "read_log",
]
