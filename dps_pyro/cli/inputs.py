"""Models, as commands name them."""

from __future__ import annotations

from typing import Any

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.posterior import Posterior
from dps_pyro.support.yaml_files import load_yaml
from dps_pyro.tracking.predictor import Predictor
from dps_pyro.tracking.tracker import is_fitted

__all__ = ["read_model", "read_predictor"]


def read_predictor(
    name: str, arguments: str, history: RolloutHistory, posterior: Posterior | None = None
) -> Dynamics[Any] | Predictor:
    """A model, or a baseline that brings its own filter, for the prompts of a log.

    Args:
        name: in dps_pyro.models, or path/to/file.py:Name.
        arguments: of its constructor, as YAML.
        history: whose features `groups` and `features` name.
        posterior: that it is to be run at, which knows the labels of groups and what an average feature is.

    Raises:
        ValueError: there is no such model, or the arguments are not its.
    """
    from dps_pyro.models.by_name import make

    given = load_yaml(arguments, "model-args")
    if not isinstance(given, dict):
        raise ValueError(f"model-args: expected settings, as {{name: value}}, got {arguments!r}")
    return make(name, given, history.features, posterior=posterior)


def read_model(name: str, arguments: str, history: RolloutHistory, posterior: Posterior | None = None) -> Dynamics[Any]:
    """A model that can be fitted.

    Raises:
        ValueError: as `read_predictor`, or it is a baseline that learns while it filters.
    """
    found = read_predictor(name, arguments, history, posterior)
    if not is_fitted(found):
        raise ValueError(f"model: expected one that is fitted, got {name}, which learns while it filters")
    return found
