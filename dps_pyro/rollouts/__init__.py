"""Rollout engines: completions of prompts drawn from the policy.

The engines import their libraries, so they are imported where they are used:
`from dps_pyro.rollouts.transformers import TransformersEngine`.
"""

from dps_pyro.lm.inputs import Query
from dps_pyro.rollouts.base import EngineError, RolloutEngine, Rollouts, Sampling, Sleeps, closing, concatenate, queries

__all__ = [
    "EngineError",
    "Query",
    "RolloutEngine",
    "Rollouts",
    "Sampling",
    "Sleeps",
    "closing",
    "concatenate",
    "queries",
]
