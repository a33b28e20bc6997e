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
    """Fit a dynamics model to logged rollouts. The result is a prior for `dps-pyro train --prior`."""

    history: Path
    """The log: the folder of a run, a history.parquet with the columns prompt, step, solved and trials, or the log of
    another training loop (TRL's completions folder, verl's rollout_data_dir, the rollouts of prime-rl, open-instruct,
    NeMo-RL or OpenRLHF, or a table exported from W&B)."""
    out: Path
    """The folder that the posterior is written to."""
    model: str = "LogitWalk"
    """The model: a name in dps_pyro.models, or path/to/file.py:Name."""
    model_args: str = "{}"
    """Arguments for the constructor of the model, as YAML: "{groups: operands}". The value of groups or features is the
    name of a feature in the history."""
    method: Literal["laplace", "svi", "nuts"] | None = None
    """The method of the fit: laplace (a normal approximation around the most probable point), svi (stochastic
    variational inference) or nuts (sampling, for small histories). The default is laplace for up to 256 shared
    parameters and up to 4096 prompts, and svi otherwise. A setting that belongs to another method is an error."""
    guide: Literal["normal", "low_rank", "delta"] | None = None
    """The approximation that svi fits: normal (independent normals), low_rank (normals with correlations) or delta (the
    most probable point). The default is normal if prompts have parameters of their own or there are more than 256
    parameters, and low_rank otherwise."""
    restarts: int | None = None
    """The number of searches that svi begins with. It continues with the best one. The default is 1."""
    batch_size: int | None = None
    """The number of prompts per mini-batch of svi. The default is all prompts if there are up to 4096, and 2048
    otherwise."""
    seconds: float | None = None
    """The time limit in seconds for the search of laplace or svi. There is none by default."""
    chains: int | None = None
    """The number of chains of nuts. Two or more chains are compared with each other. The default is 1."""
    processes: int | None = None
    """The number of processes that run the chains of nuts. The default is 1."""
    target_accept: float | None = None
    """The acceptance probability to which nuts adapts its step size. The default is 0.8. Use a higher value if
    transitions diverge."""
    start: Path | None = None
    """The folder of an earlier posterior of the same model. The search or the chains start there."""
    prior: Path | None = None
    """The folder of an earlier posterior of the same model. It becomes the prior of this fit, widened by --widen."""
    widen: float = 1.5
    """The factor that multiplies the standard deviations of --prior."""
    steps: int | None = None
    """The largest number of steps of laplace (default 1000) or svi (default 2000), which end sooner if the loss is
    flat, or the number of warm-up steps of nuts (default 200)."""
    draws: int = 200
    """The number of posterior draws to keep. With nuts, this is the number per chain."""
    seed: int = 0
    """The random seed of the fit."""
    device: str | None = None
    """The device that computes the fit, such as cuda. The default is the CPU."""
    check: bool = True
    """Check first that the model keeps the contract. These are the quick checks of `dps-pyro check`."""


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
    posterior = fit(model, history, method, prior=prior, widen=options.widen, seed=options.seed, device=options.device)
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
            "nuts": f"the draws are not reliable ({found}): try more --steps and --draws",
        }
    about = posterior.about
    console.print(f"{options.out}: {about['steps']} steps, {about['seconds']} s; {ended[about['method']]}.")
    return 0


def _text(value: Tensor) -> str:
    """The numbers with three digits. A matrix has one line per row."""
    if value.ndim == 0:
        return f"{value:.3f}"
    rows = value.reshape(-1, value.shape[-1]).tolist()
    return "\n".join(f"[{', '.join(f'{number:.3f}' for number in row)}]" for row in rows)
