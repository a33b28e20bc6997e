"""Logs of other people's loops as histories, so that what one run has learned is a prior for the next.

`read_log` reads what TRL, verl and W&B write. Of any other log make `Rollout`s, and `history_of` them.
"""

from dps_pyro.logs.read import FORMATS, read_log
from dps_pyro.logs.rollouts import Rollout, history_of, prompt_id

__all__ = ["FORMATS", "Rollout", "history_of", "prompt_id", "read_log"]
