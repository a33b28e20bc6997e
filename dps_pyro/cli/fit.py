"""`dps-pyro fit`: a prior for the next run, from logged rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Options", "run"]


@dataclass
class Options:
    """Fit a dynamics model to logged rollouts; the result is a prior for `dps-pyro train --prior`."""

    history: Path
    """A history.parquet (columns prompt, step, solved, trials), or another loop's log: TRL's completions folder, verl's
    rollout_data_dir, a table exported from W&B."""
    out: Path
    """The folder to write the posterior to."""
    model: str = "SolvingProgress"
    """A name in dps_pyro.models, or path/to/file.py:Name."""
    model_args: str = "{}"
    """Arguments of its constructor, as YAML: "{groups: operands}". Features of the history go by their names."""
    method: Literal["svi", "nuts"] = "svi"
    """Stochastic variational inference, or sampling (small histories)."""
    guide: Literal["normal", "low_rank", "delta"] | None = None
    """SVI's approximation: independent normals, normals with correlations, or the most probable point. If left out
    low_rank, but normal where prompts have parameters of their own or there are more than 256."""
    restarts: int = 1
    """SVI runs to begin with; the best goes on."""
    batch_size: int | None = None
    """Prompts in an SVI mini-batch; if left out 512, and all where there are up to 2048."""
    seconds: float | None = None
    """SVI stops after that time, if it has not before."""
    chains: int = 1
    """NUTS chains; from 2 on they are compared."""
    start: Path | None = None
    """An earlier posterior of the same model to start SVI from."""
    steps: int | None = None
    """SVI steps at most (it stops when the ELBO is flat), or NUTS warm-up steps; 2000 or 200 if left out."""
    draws: int = 200
    """Posterior draws to keep."""
    seed: int = 0
    """Of the fit."""
    # Of another loop's log:
    format: Literal["auto", "history", "trl", "verl", "wandb"] = "auto"
    """What the log is; told by its content if left out."""
    reward: str | None = None
    """The column with the reward that tells what is solved, where there are several."""
    id_column: str | None = None
    """The column with the prompts' ids; a hash of the prompt if left out."""
    solved_at: float = 1.0
    """A completion with at least this reward solved its prompt."""
    partial: bool = False
    """Rewards within 0..1 are partial solutions (for DenseReward); solved_at is left aside."""
    every: int = 1
    """Optimizer steps a generation, where the loop uses rollouts for several."""


def run(arguments: list[str]) -> int:
    """Fit, save, and show what was learned."""
    options = tyro.cli(Options, prog="dps-pyro fit", args=arguments)

    from rich.console import Console
    from rich.table import Table

    from dps_pyro.cli.inputs import read_model
    from dps_pyro.history.foreign import read_log
    from dps_pyro.inference.fitting import fit
    from dps_pyro.inference.posterior import Posterior

    history = read_log(
        options.history,
        options.format,
        reward=options.reward,
        id_column=options.id_column,
        solved_at=None if options.partial else options.solved_at,
        every=options.every,
    )
    start = None if options.start is None else Posterior.load(options.start)
    posterior = fit(
        read_model(options.model, options.model_args, history, start),
        history,
        options.method,
        guide=options.guide,
        restarts=options.restarts,
        batch_size=options.batch_size,
        seconds=options.seconds,
        chains=options.chains,
        start=start,
        steps=options.steps,
        draws=options.draws,
        seed=options.seed,
    )
    posterior.save(options.out)
    table = Table("site", "mean", "standard deviation", title=f"{options.model} on {len(history)} groups")
    for name, draws in posterior.draws.items():
        shown = draws if draws[0].numel() <= 25 else draws.reshape(len(draws), -1)[:, :3]
        table.add_row(name, _text(shown.mean(0)), _text(shown.std(0)) if len(draws) > 1 else "")
    console = Console()
    console.print(table)
    ended = {"svi": "the ELBO is flat", "nuts": "the draws agree"}
    if not posterior.converged:
        found = f"{posterior.about.get('divergences')} divergences, R-hat {posterior.about.get('r_hat')}"
        ended = {
            "svi": "the ELBO was still moving: try more --steps",
            "nuts": f"the draws are not to be relied on ({found}): try more --steps and --draws",
        }
    console.print(
        f"{options.out}: {posterior.about['steps']} steps, {posterior.about['seconds']} s; {ended[options.method]}."
    )
    return 0


def _text(value: Tensor) -> str:
    """Three digits; of a matrix a row a line."""
    if value.ndim == 0:
        return f"{value:.3f}"
    rows = value.reshape(-1, value.shape[-1]).tolist()
    return "\n".join(f"[{', '.join(f'{number:.3f}' for number in row)}]" for row in rows)
