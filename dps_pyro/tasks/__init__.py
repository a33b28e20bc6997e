"""Tasks: problems with stable ids and verifiable rewards."""

from dps_pyro.tasks.base import Prompt, PromptSet, Reward, Task, feature_columns
from dps_pyro.tasks.countdown import Countdown

__all__ = ["Countdown", "Prompt", "PromptSet", "Reward", "Task", "feature_columns"]
