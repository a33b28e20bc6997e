"""`dps-pyro train`: fine-tune a policy on prompts predicted to be partially solved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from dps_pyro.trainers.config.settings import TrainConfig

__all__ = ["read_settings", "run"]


def run(arguments: list[str]) -> int:
    """Train, or resume training."""
    from dps_pyro.trainers.grpo import train

    train(read_settings(arguments))
    return 0


def read_settings(arguments: list[str]) -> TrainConfig:
    """Return the configuration that a command line and its --config file give.

    Raises:
        ValueError: A file or a setting is wrong.
    """
    from dps_pyro.trainers.config.config_file import load_config
    from dps_pyro.trainers.config.settings import TrainConfig
    from dps_pyro.trainers.run.seals import check_text

    file, rest = _take(arguments, "--config")
    out, _ = _take(rest, "--out")
    if file is None and "--resume" in rest and out is not None and (Path(out) / "config.yaml").is_file():
        file = str(Path(out) / "config.yaml")  # a resumed run keeps its configuration
        check_text(Path(file))
    if file is not None and not Path(file).is_file():
        raise ValueError(f"config: expected a YAML file, got {file}")
    start = TrainConfig() if file is None else load_config(Path(file))
    description = f"""{TrainConfig.__doc__}

Settings come from --config FILE (YAML, in the sections below, names with underscores) and from the options below.
The options replace the settings of the file. task_args, dynamics_args and vllm_args can be set only in the file, for
instance `task: {{task_args: {{train_size: 4096}}}}`."""
    return tyro.cli(
        TrainConfig,
        prog="dps-pyro train",
        args=rest,
        default=start,
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _take(arguments: list[str], option: str) -> tuple[str | None, list[str]]:
    """The value of an option, and the arguments without it."""
    for place, argument in enumerate(arguments):
        if argument == option:
            if place + 1 == len(arguments):
                raise ValueError(f"{option[2:]}: expected a path after {option}, got nothing")
            return arguments[place + 1], arguments[:place] + arguments[place + 2 :]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2], arguments[:place] + arguments[place + 1 :]
    return None, arguments
