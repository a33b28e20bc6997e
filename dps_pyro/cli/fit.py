"""`dps-pyro fit`: a prior for the next run, from logged rollouts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from dps_pyro.cli.inputs import LogOptions

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Options", "run"]


@dataclass(kw_only=True)
class Options(LogOptions):
    """Fit a dynamics model to logged rollouts; the result is a prior for `dps-pyro train --prior`."""

    history: Path
    """A history.parquet (columns prompt, step, solved, trials), or another loop's log: TRL's completions folder, verl's
    rollout_data_dir, the rollouts of prime-rl, open-instruct, NeMo-RL or OpenRLHF, a table exported from W&B."""
    out: Path
    """The folder to write the posterior to."""
    model: str = "SolvingProgress"
    """A name in dps_pyro.models, or path/to/file.py:Name."""
    model_args: str = "{}"
    """Arguments of its constructor, as YAML: "{groups: operands}". Features of the history go by their names."""
    method: Literal["laplace", "svi", "nuts"] | None = None
    """How to fit: around the most probable point (laplace), by stochastic variational inference (svi), or by sampling,
    for small histories (nuts). If left out: laplace for up to 256 parameters that all prompts share and up to 4,096
    prompts, and svi for the others. A setting that the method does not have is refused."""
    guide: Literal["normal", "low_rank", "delta"] | None = None
    """The approximation that svi fits: independent normals, normals with correlations, or the most probable point. If
    left out: low_rank, but normal where prompts have parameters of their own or there are more than 256 parameters."""
    restarts: int | None = None
    """The number of searches that svi begins with; the best one goes on. If left out: 1."""
    batch_size: int | None = None
    """The number of prompts in a mini-batch of svi. If left out: all of up to 4,096 prompts, and 2,048 of more."""
    seconds: float | None = None
    """The search of laplace or svi ends after that time, if it has not before."""
    chains: int | None = None
    """The number of chains of nuts; from 2 on they are compared. If left out: 1."""
    processes: int | None = None
    """The number of processes that the chains of nuts run in. If left out: 1."""
    target_accept: float | None = None
    """The acceptance probability that nuts adapts its step size to. If left out: 0.8. Raise it where transitions
    diverge."""
    start: Path | None = None
    """The folder of an earlier posterior of the same model, from which the search or the chains start."""
    prior: Path | None = None
    """The folder of an earlier posterior of the same model, which becomes the prior of this fit, widened by --widen."""
    widen: float = 1.5
    """The factor by which the standard deviations of --prior are multiplied."""
    steps: int | None = None
    """The most steps that laplace or svi take (they end sooner when the loss is flat), or the warm-up steps of nuts. If
    left out: 1000, 2000 or 200."""
    draws: int = 200
    """The number of posterior draws to keep; from each chain, with nuts."""
    seed: int = 0
    """The random seed of the fit."""
    check: bool = True
    """Check first that the model keeps the contract (the cheap half of `dps-pyro check`)."""


def run(arguments: list[str]) -> int:
    """Fit, save, and show what was learned."""
    options = tyro.cli(Options, prog="dps-pyro fit", args=arguments)

    from rich.table import Table

    from dps_pyro.cli.inputs import read_history, read_model
    from dps_pyro.inference.fitting import fit, suits_laplace
    from dps_pyro.inference.methods import method_named
    from dps_pyro.inference.posterior import Posterior
    from dps_pyro.support.console import plain_console
    from dps_pyro.testing import check_quickly

    console = plain_console()
    history = read_history(options.history, options, partial(console.print, highlight=False, soft_wrap=True))
    start, prior = (None if path is None else Posterior.load(path) for path in (options.start, options.prior))
    model = read_model(options.model, options.model_args, history, prior or start)
    if options.check:
        check_quickly(model, num_prompts=history.num_prompts)
    method = method_named(
        options.method or ("laplace" if suits_laplace(model, history) else "svi"),
        guide=options.guide,
        restarts=options.restarts,
        batch_size=options.batch_size,
        seconds=options.seconds,
        chains=options.chains,
        processes=options.processes,
        target_accept=options.target_accept,
        start=start,
        steps=options.steps,
        draws=options.draws,
    )
    posterior = fit(model, history, method, prior=prior, widen=options.widen, seed=options.seed)
    made = {"model": options.model, "model_args": options.model_args}
    posterior = replace(posterior, about={**posterior.about, "made": made})
    posterior.save(options.out)
    table = Table("site", "mean", "standard deviation", title=f"{options.model} on {len(history)} groups")
    for name, draws in posterior.draws.items():
        shown = draws if draws[0].numel() <= 25 else draws.reshape(len(draws), -1)[:, :3]
        table.add_row(name, _text(shown.mean(0)), _text(shown.std(0)) if len(draws) > 1 else "")
    console.print(table)
    ended = {"svi": "the ELBO is flat", "laplace": "the search is at the top", "nuts": "the draws agree"}
    if not posterior.converged:
        found = f"{posterior.about.get('divergences')} divergences, R-hat {posterior.about.get('r_hat')}"
        ended = {
            "svi": "the ELBO was still moving: try more --steps",
            "laplace": "the search was still rising: try more --steps",
            "nuts": f"the draws are not to be relied on ({found}): try more --steps and --draws",
        }
    about = posterior.about
    console.print(f"{options.out}: {about['steps']} steps, {about['seconds']} s; {ended[about['method']]}.")
    return 0


def _text(value: Tensor) -> str:
    """Three digits; of a matrix a row a line."""
    if value.ndim == 0:
        return f"{value:.3f}"
    rows = value.reshape(-1, value.shape[-1]).tolist()
    return "\n".join(f"[{', '.join(f'{number:.3f}' for number in row)}]" for row in rows)
