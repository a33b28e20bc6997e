"""A run's configuration as a YAML file, and what a resumed run may change of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dps_pyro.support.files.yaml_files import dump_yaml, load_yaml
from dps_pyro.trainers.config.sections import SECTION_OF, SECTIONS
from dps_pyro.trainers.config.settings import TrainConfig, sectioned

__all__ = ["check_resumed", "load_config", "save_config"]

_KEPT = (
    "model", "lora_rank", "lora_targets", "task", "task_args", "data", "max_prompt_tokens", "dynamics", "dynamics_args",
    "groups", "prior", "read_prompts",
)  # fmt: skip
"""Settings that a resumed run cannot change, because its checkpoint depends on them."""


def load_config(path: Path) -> TrainConfig:
    """Read a configuration file (YAML). Settings that are left out keep their defaults.

    The settings may stand in sections or flat, by their short names, as earlier versions wrote them.

    Raises:
        ValueError: the file is no mapping, names a setting that does not exist, or holds a wrong value.
    """
    try:
        loaded = load_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: expected settings, one per line as `name: value`, got {type(loaded).__name__}")
    try:
        return TrainConfig(**sectioned(loaded))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save_config(config: TrainConfig) -> str:
    """Write the configuration as YAML in sections, which `load_config` reads.

    `resume` belongs to one invocation and is left out.

    Raises:
        ValueError: `task_args`, `dynamics_args` or `vllm_args` hold something that YAML cannot write.
    """
    plain = {
        key: {name: _plain(getattr(getattr(config, key), name)) for name in section.model_fields if name != "resume"}
        for key, section in SECTIONS.items()
    }
    try:
        return dump_yaml(plain)
    except yaml.YAMLError as error:
        raise ValueError(f"task_args, dynamics_args: expected numbers, strings, lists and mappings: {error}") from error


def _plain(value: Any) -> Any:
    """Turn paths and tuples into what YAML writes."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def check_resumed(before: TrainConfig, now: TrainConfig) -> None:
    """Check that a run can continue with the settings that it is given.

    Raises:
        ValueError: a setting differs on which the run's checkpoints depend.
    """
    for name in _KEPT:
        was, wanted = (_plain(getattr(getattr(config, SECTION_OF[name]), name)) for config in (before, now))
        if was != wanted:
            raise ValueError(f"{name}: expected the run's own, {was!r}, to resume it, got {wanted!r}")
