"""The inputs of commands: logs, and models by their names. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dps_pyro.dynamics.contract import Dynamics
    from dps_pyro.history.log import RolloutHistory
    from dps_pyro.inference.posterior import Posterior
    from dps_pyro.tracking.predictor import Predictor

__all__ = ["LogOptions", "contents", "read_history", "read_model", "read_predictor"]


@dataclass(kw_only=True)
class LogOptions:
    """Settings for the logs of other training loops."""

    format: Literal["auto", "history", "trl", "verl", "wandb", "prime-rl", "open-instruct", "openrlhf", "nemo-rl"] = (
        "auto"
    )
    """The format of the log. "auto" recognizes it by its content."""
    reward: str | None = None
    """The column with the reward that decides whether a completion is right. The default is verl's acc, or the only
    reward there is."""
    id_column: str | None = None
    """The column with the prompts' ids. The default is prompt_id, problem_id or example_id, or a hash of the prompt."""
    solved_at: float = 1.0
    """The smallest reward with which a completion counts as right."""
    partial: bool = False
    """Read rewards within 0..1 as partial solutions, for the model DenseReward. --solved-at is then ignored."""
    every: int = 1
    """The number of optimizer steps per generation, if the loop uses its rollouts for several steps."""


def read_history(
    path: Path, options: LogOptions, say: Callable[[str], None] = print, of_run: str = "history.parquet"
) -> RolloutHistory:
    """Read a log, ours or another loop's, and say how many rollouts were solved and how many groups are useful.

    Args:
        path: A file or a folder. The folder of a run of this package stands for the run's own log.
        options: How the log of another loop is read.
        say: Is told what the log holds.
        of_run: The name of the log in the folder of a run.

    Raises:
        ValueError: The file is not a log, or what counts as solved is on another scale than its rewards.
        OSError: The file cannot be read.
    """
    path = _log_of(path, of_run)
    from dps_pyro.history.foreign import read_log

    history = read_log(
        path,
        options.format,
        reward=options.reward,
        id_column=options.id_column,
        solved_at=None if options.partial else options.solved_at,
        every=options.every,
    )
    say(f"{path}: {contents(history)}")
    return history


def _log_of(path: Path, name: str) -> Path:
    """The log that a path stands for: itself, or for a run's folder the log of that name in it."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a log, found nothing there")
    if not ((path / "run_id").exists() and (path / "config.yaml").exists()):
        return path
    if not (path / name).is_file():
        way = (
            "a run with --full-log writes it" if name.startswith("full") else "dps-pyro train --resume writes it again"
        )
        raise FileNotFoundError(f"{path}: expected {name} in this run folder, found none; {way}")
    return path / name


def contents(history: RolloutHistory) -> str:
    """Say in a sentence what a log holds; and a warning where it holds nothing that tells prompts apart."""
    events = history.events
    rollouts, solved = int(events.trials.sum()), float(events.solved.sum())
    groups, useful = int((events.trials > 0).sum()), int(events.useful.sum())
    text = (
        f"{solved:,.10g} of {rollouts:,} rollouts solved their prompt, and {useful:,} of {groups:,} groups are useful."
    )
    if groups and solved in (0, rollouts):
        which = "No rollout" if solved == 0 else "Every rollout"
        return f"{text} {which} counts as solved: is --solved-at, or --reward, the right one?"
    if groups and useful == 0:
        return (
            f"{text} No group is useful. Does every group have one rollout only, or does every prompt get a new id in "
            f"each step?"
        )
    return text


def read_predictor(
    name: str, arguments: str, history: RolloutHistory, posterior: Posterior | None = None
) -> Dynamics[Any] | Predictor:
    """Make a model, or a baseline that brings its own filter, for the prompts of a log.

    Args:
        name: a name in dps_pyro.models, or path/to/file.py:Name.
        arguments: the arguments for its constructor, as YAML.
        history: the log. The arguments `groups` and `features` name its features.
        posterior: the posterior that the model will use. It knows the labels of groups and the average features.

    Raises:
        ValueError: there is no such model, or it does not take these arguments.
    """
    from dps_pyro.models.by_name import make
    from dps_pyro.support.files.yaml_files import load_yaml

    given = load_yaml(arguments, "model-args")
    if not isinstance(given, dict):
        raise ValueError(f"model-args: expected settings, as {{name: value}}, got {arguments!r}")
    return make(name, given, history.features, posterior=posterior)


def read_model(name: str, arguments: str, history: RolloutHistory, posterior: Posterior | None = None) -> Dynamics[Any]:
    """Make a model that can be fitted: the model itself, or the part of it whose parameters a fit learns.

    Raises:
        ValueError: as in `read_predictor`, or the model is a baseline that learns while it filters.
    """
    from dps_pyro.tracking.tracker import fitted_part

    found = fitted_part(read_predictor(name, arguments, history, posterior))
    if found is None:
        raise ValueError(f"model: expected one that is fitted, got {name}, which learns while it filters")
    return found
