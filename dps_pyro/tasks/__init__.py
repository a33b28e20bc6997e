"""Tasks: problems with stable ids and verifiable rewards."""

from dps_pyro.support.files.records import read_records
from dps_pyro.tasks.base import Prompt, PromptSet, Reward, Task, feature_columns, judge
from dps_pyro.tasks.geometry.task import Geometry
from dps_pyro.tasks.mathematics.task import Math
from dps_pyro.tasks.planning.blocks import BlocksWorld
from dps_pyro.tasks.planning.countdown import Countdown

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
