"""The inputs of commands: logs, and models by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.posterior import Posterior
from dps_pyro.support.yaml_files import load_yaml
from dps_pyro.tracking.predictor import Predictor
from dps_pyro.tracking.tracker import is_fitted

__all__ = ["read_history", "read_model", "read_predictor"]


def read_history(path: Path) -> RolloutHistory:
    """Read a log of this package, or one that `dps_pyro.history.foreign.read_log` reads without further settings.

    Raises:
        ValueError: the file is not a log.
        OSError: the file cannot be read.
    """
    from dps_pyro.history.foreign import read_log

    return read_log(path)


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

    given = load_yaml(arguments, "model-args")
    if not isinstance(given, dict):
        raise ValueError(f"model-args: expected settings, as {{name: value}}, got {arguments!r}")
    return make(name, given, history.features, posterior=posterior)


def read_model(name: str, arguments: str, history: RolloutHistory, posterior: Posterior | None = None) -> Dynamics[Any]:
    """Make a model that can be fitted.

    Raises:
        ValueError: as in `read_predictor`, or the model is a baseline that learns while it filters.
    """
    found = read_predictor(name, arguments, history, posterior)
    if not is_fitted(found):
        raise ValueError(f"model: expected one that is fitted, got {name}, which learns while it filters")
    return found
