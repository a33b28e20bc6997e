"""Batches chosen without a look at every prompt: for prompt sets in which many prompts share one belief."""

from dps_pyro.selection.pooling.choice import PooledChoice
from dps_pyro.selection.pooling.waits import rule_of

__all__ = ["PooledChoice", "rule_of"]
