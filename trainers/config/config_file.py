"""A run's configuration as a YAML file, and what a resumed run may change of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from dps_pyro.trainers.config.settings import TrainConfig

__all__ = ["check_resumed", "load_config", "save_config"]

_KEPT = (
    "model", "lora_rank", "lora_targets", "task", "task_args", "data", "max_prompt_tokens", "dynamics", "dynamics_args",
    "groups", "prior", "read_prompts",
)  # fmt: skip
"""What a resumed run cannot change: its checkpoint is of these."""


def load_config(path: Path) -> TrainConfig:
    """Read a configuration file (YAML); settings left out keep their defaults.

    Raises:
        ValueError: the file is no mapping, names a setting that does not exist, or holds a wrong value.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: expected settings, one a line as `name: value`, got {type(loaded).__name__}")
    known = {item.name for item in dataclasses.fields(TrainConfig)}
    unknown = sorted(str(name) for name in set(loaded) - known)
    if unknown:
        raise ValueError(f"{path}: expected settings among {', '.join(sorted(known))}; got {', '.join(unknown)}")
    try:
        return TrainConfig(**loaded)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save_config(config: TrainConfig) -> str:
    """The configuration as YAML that `load_config` reads; `resume` is of one invocation, and left out.

    Raises:
        ValueError: `task_args` or `dynamics_args` hold something that YAML does not.
    """
    plain = {name: _plain(value) for name, value in dataclasses.asdict(config).items() if name != "resume"}
    try:
        return yaml.safe_dump(plain, sort_keys=False)
    except yaml.YAMLError as error:
        raise ValueError(f"task_args, dynamics_args: expected numbers, strings, lists and mappings: {error}") from error


def _plain(value: Any) -> Any:
    """Paths and tuples as YAML has them."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def check_resumed(before: TrainConfig, now: TrainConfig) -> None:
    """Check that a run can go on with the settings it is given.

    Raises:
        ValueError: one of those differs that its checkpoints depend on.
    """
    for name in _KEPT:
        was, wanted = (_plain(getattr(config, name)) for config in (before, now))
        if was != wanted:
            raise ValueError(f"{name}: expected the run's own, {was!r}, to resume it, got {wanted!r}")
