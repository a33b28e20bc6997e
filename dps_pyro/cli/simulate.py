"""`dps-pyro simulate`: a log drawn from a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

__all__ = ["Options", "run"]


@dataclass
class Options:
    """Draw a log from a model, for dps-pyro replay and dps-pyro fit to be tried on. What it was drawn from is written
    beside it, as a folder that --prior and --values take: OUT without .parquet, and -truth."""

    out: Path
    """The Parquet file to write."""
    model: str = "LogitWalk"
    """A name in dps_pyro.models, or path/to/file.py:Name."""
    model_args: str = "{}"
    """Arguments of its constructor, as YAML: "{groups: group}". Features go by their names."""
    prompts: int = 512
    """How many prompts."""
    steps: int = 120
    """How many training steps."""
    trials: int = 8
    """Rollouts a group."""
    groups: int = 0
    """The prompts get a feature named group, of this many labels in turn, for models that take groups or features."""
    like: Path | None = None
    """A log whose prompts and features to take instead of --prompts and --groups."""
    values: Path | None = None
    """A folder of dps-pyro fit: its point estimates are the parameters. Without it they are drawn from the prior."""
    centre: bool = False
    """Parameters that are not among the values stand at the prior's centre, rather than being drawn from it."""
    observed: float = 1.0
    """The chance that a prompt is rolled out in a step. At 1 the log is full, as dps-pyro replay wants it."""
    trained: float = 1.0
    """The chance that the policy is updated on a group, for models that ask."""
    progress: tuple[float, float] | None = None
    """The policy's overall progress at the first and at the last step, for models that ask; it rises evenly."""
    shift_at: int | None = None
    """A step at which prompts' states are drawn anew from the initial distribution."""
    shift_share: float = 0.5
    """The share of prompts that this befalls."""
    seed: int = 0
    """Of everything."""


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
