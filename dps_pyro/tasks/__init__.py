"""Tasks: problems with stable ids and verifiable rewards."""

from dps_pyro.tasks.base import Prompt, PromptSet, Reward, Task, feature_columns, judge
from dps_pyro.tasks.blocks import BlocksWorld
from dps_pyro.tasks.countdown import Countdown
from dps_pyro.tasks.data import read_records
from dps_pyro.tasks.geometry import Geometry
from dps_pyro.tasks.mathematics import Math

__all__ = [
    "BlocksWorld",
    "Countdown",
    "Geometry",
    "Math",
    "Prompt",
    "PromptSet",
    "Reward",
    "Task",
    "feature_columns",
    "judge",
    "read_records",
]
