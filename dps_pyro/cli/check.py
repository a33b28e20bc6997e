"""`dps-pyro check`: test whether your own model keeps the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

__all__ = ["Options", "run"]


@dataclass
class Options:
    """Test whether a model keeps the contract of `Dynamics`: shapes, probabilities, the order of the states, gradients,
    draws, the likelihood and the filter (compared with a sum over all paths), and a few steps of a fit. The test takes
    seconds."""

    model: Annotated[str, tyro.conf.Positional]
    """The model: path/to/file.py:Name, or a name in dps_pyro.models."""
    model_args: str = "{}"
    """Arguments for the constructor of the model, as YAML. Columns of the prompts are lists of at least --prompts
    entries."""
    prompts: int = 6
    """The number of prompts in the test, at least 3."""
    steps: int = 5
    """The number of steps in the test, at least 2."""
    columns: tuple[str, ...] = ()
    """The names of step columns that the model asks for (`step.columns`)."""
    features: tuple[str, ...] = ()
    """The names of numeric prompt features that the model asks for in `step.columns`. Their values are drawn at
    random."""
    quick: bool = False
    """Run only the quick checks, which `dps-pyro fit` and `dps-pyro train` also run before they start."""
    seed: int = 0
    """The random seed of the test."""


def run(arguments: list[str]) -> int:
    """Check, and say what is wrong; 0 if nothing is, 1 otherwise."""
    options = tyro.cli(Options, prog="dps-pyro check", args=arguments)

    import sys

    import torch

    from dps_pyro.cli.inputs import read_model
    from dps_pyro.history.log import RolloutHistory
    from dps_pyro.testing import DynamicsError, check_dynamics, check_quickly

    model = read_model(options.model, options.model_args, RolloutHistory(options.prompts))
    drawn = torch.randn(len(options.features), options.prompts, generator=torch.Generator().manual_seed(options.seed))
    features = dict(zip(options.features, drawn.tolist(), strict=True))
    asked: dict[str, Any] = {"num_prompts": options.prompts, "columns": options.columns, "features": features}
    try:
        if options.quick:
            check_quickly(model, **asked)
        else:
            check_dynamics(model, **asked, num_steps=options.steps, seed=options.seed)
    except DynamicsError as error:
        print(f"dps-pyro check: {error}", file=sys.stderr)
        return 1
    print(f"{options.model} keeps the contract.")
    return 0
