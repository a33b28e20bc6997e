"""`dps-pyro simulate`: a log drawn from a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

__all__ = ["Options", "run"]


@dataclass
class Options:
    """Draw a log from a model, to try `dps-pyro replay` and `dps-pyro fit` on. The parameters behind the log are saved
    beside it, in a folder named like OUT with -truth in place of .parquet. The options --prior and --values of other
    commands take that folder."""

    out: Path
    """The Parquet file to write."""
    model: str = "LogitWalk"
    """The model: a name in dps_pyro.models, or path/to/file.py:Name."""
    model_args: str = "{}"
    """Arguments for the constructor of the model, as YAML: "{groups: group}". The value of groups or features is the
    name of a feature of the prompts."""
    prompts: int = 512
    """The number of prompts."""
    steps: int = 120
    """The number of training steps."""
    trials: int = 8
    """The number of rollouts per group."""
    groups: int = 0
    """The number of labels of a prompt feature named "group", for models that take groups or features. Prompts get the
    labels in turn. With 0 there is no such feature."""
    like: Path | None = None
    """A log from which prompts and features are taken, instead of --prompts and --groups."""
    values: Path | None = None
    """A folder that `dps-pyro fit` wrote. Its point estimates become the parameters. By default, parameters are drawn
    from the prior."""
    centre: bool = False
    """Set parameters that are not in --values to the centre of the prior, instead of drawing them from it."""
    observed: float = 1.0
    """The chance that a prompt is rolled out in a step. With 1 the log is full, as `dps-pyro replay` needs it."""
    trained: float = 1.0
    """The chance that the policy is updated on a group, for models that use it."""
    progress: tuple[float, float] | None = None
    """The policy's overall progress at the first and at the last step, for models that use it. It rises evenly in
    between."""
    shift_at: int | None = None
    """A step at which some prompts get new states, drawn from the initial distribution."""
    shift_share: float = 0.5
    """The share of prompts that get new states at --shift-at."""
    seed: int = 0
    """The random seed of all draws."""


def run(arguments: list[str]) -> int:
    """Draw, write, and say where."""
    options = tyro.cli(Options, prog="dps-pyro simulate", args=arguments)

    import torch

    from dps_pyro.cli.inputs import read_predictor
    from dps_pyro.dynamics.contract import Dynamics
    from dps_pyro.evaluation.simulation import simulate
    from dps_pyro.history.foreign import read_log
    from dps_pyro.history.log import RolloutHistory
    from dps_pyro.inference.posterior import Posterior
    from dps_pyro.support import checks

    if options.like is None:
        prompts, groups = checks.count("prompts", options.prompts, 1), checks.count("groups", options.groups, 0)
        features = {"group": [str(row % groups) for row in range(prompts)]} if groups else {}
        like = RolloutHistory(prompts, features=features)
    else:
        like = read_log(options.like)
    progress = None if options.progress is None else torch.linspace(*options.progress, max(options.steps, 1))
    given = None if options.values is None else Posterior.load(options.values)
    model = read_predictor(options.model, options.model_args, like, given)
    if not isinstance(model, Dynamics):
        raise ValueError(f"model: expected one that draws outcomes, got {options.model}, which only predicts")
    log, truth, shifted = simulate(
        model,
        like.ids if like.ids is not None else like.num_prompts,
        options.steps,
        options.trials,
        values=None if given is None else given.point,
        centre=options.centre,
        observed=options.observed,
        trained=options.trained,
        progress=progress,
        shift_at=options.shift_at,
        shift_share=options.shift_share,
        features=like.features,
        seed=options.seed,
    )
    log.to_parquet(options.out)
    folder = truth.save(options.out.with_name(f"{options.out.stem}-truth"))
    events = log.events
    useful = float(events.useful.double().mean()) if len(log) else 0.0
    moved = f", {len(shifted)} prompts shifted at step {options.shift_at}" if len(shifted) else ""
    print(f"{options.out}: {len(log):,} groups of {log.num_prompts:,} prompts, {useful:.0%} useful{moved}")
    print(f"{folder}: the parameters")
    return 0
