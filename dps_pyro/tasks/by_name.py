"""Makes a task by its name, as configurations and command lines give it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dps_pyro.support import plugins
from dps_pyro.tasks.base import Task
from dps_pyro.tasks.geometry.task import Geometry
from dps_pyro.tasks.gym.task import PREFIX, ReasoningGym
from dps_pyro.tasks.mathematics.task import Math
from dps_pyro.tasks.planning.blocks import BlocksWorld
from dps_pyro.tasks.planning.countdown import Countdown

__all__ = ["TASKS", "make"]

TASKS: Mapping[str, Callable[..., Task]] = {
    "countdown": Countdown,
    "math": Math,
    "blocks": BlocksWorld,
    "geometry": Geometry,
}
"""The tasks that come with the package."""


def make(name: str, arguments: Mapping[str, Any] | None = None, optional: Mapping[str, Any] | None = None) -> Task:
    """A task by name: one of `TASKS` (``countdown``), one of reasoning-gym (``reasoning-gym:spell_backward``), or of a
    file (``my_task.py:MyTask``).

    Args:
        name: The name of the task. In a file it may be a class or any function that makes a task.
        arguments: The arguments of its constructor. ``preset`` names another constructor, one of the class's
            `presets`: ``{"preset": "three_to_four", "train_size": 512}``.
        optional: More arguments, for those constructors that take them. `arguments` goes before them.

    Raises:
        ValueError: There is no such task, what was made is no task, or its arguments are wrong.
    """
    found: Any
    if name.startswith(PREFIX):
        found = partial(ReasoningGym, name.removeprefix(PREFIX))
    else:
        found = plugins.load("task", name) if ":" in name else TASKS.get(name)
    if not callable(found):
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, or path/to/file.py:Name, got {name!r}")
    given = dict(arguments or {})
    if (preset := given.pop("preset", None)) is not None:
        presets = tuple(getattr(found, "presets", ()))
        if preset not in presets:
            raise ValueError(f"task_args: expected a preset among {', '.join(presets) or 'none'}, got {preset!r}")
        found = getattr(found, preset)
    taken = inspect.signature(found).parameters
    given = {key: value for key, value in (optional or {}).items() if key in taken} | given
    task = plugins.call("task_args", found, given)
    if not isinstance(task, Task):
        raise ValueError(f"task: expected one with name, prompts(split) and reward(prompt, completion), got {task!r}")
    return task
