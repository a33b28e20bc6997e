"""`dps-pyro sbc`: simulation-based calibration of a model and its fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

__all__ = ["Options", "run"]


@dataclass
class Options:
    """Run simulation-based calibration (Talts et al. 2018): draw parameters from the prior and a log from the
    parameters, fit the model, and test whether the parameters' ranks among the draws of the fit are uniform."""

    model: str = "LogitWalk"
    """The model: a name in dps_pyro.models, or path/to/file.py:Name."""
    model_args: str = "{}"
    """Arguments for the constructor of the model, as YAML. The simulated prompts have the features group (a or b) and
    difficulty."""
    simulations: int = 200
    """The number of logs to simulate and fit."""
    prompts: int = 16
    """The number of prompts per log."""
    steps: int = 12
    """The number of steps per log. Every prompt is rolled out in half of them."""
    trials: int = 8
    """The number of rollouts per group."""
    method: Literal["hmc", "nuts", "svi"] = "hmc"
    """The method of the fits: "hmc" samples all posteriors side by side, "nuts" samples one after the other (slow), and
    "svi" is approximate."""
    draws: int = 99
    """The number of posterior draws per fit. It must be one less than a multiple of --bins."""
    thin: int = 3
    """The number of iterations of a chain per draw that is kept."""
    warmup: int = 300
    """The number of iterations of a chain before the first draw, or the largest number of steps of svi."""
    powers: tuple[float, ...] = (1.0,)
    """Powers of the likelihood for tempered copies of each chain of hmc, falling from 1. They help if posteriors have
    several modes. Each copy takes as long as the chain itself."""
    bins: int = 20
    """The number of bins in the rank histograms of the chi-square tests."""
    seed: int = 0
    """The random seed of the simulations and the fits."""
    out: Path | None = None
    """The folder for sbc.json and sbc.png."""


def run(arguments: list[str]) -> int:
    """Calibrate, show, write; 1 where ranks are not uniform."""
    options = tyro.cli(Options, prog="dps-pyro sbc", args=arguments)

    import json

    import torch
    from rich.table import Table

    from dps_pyro.cli.inputs import read_model
    from dps_pyro.evaluation.sbc_ranks import design, sbc
    from dps_pyro.support.console import plain_console

    if (options.draws + 1) % max(options.bins, 1):
        raise ValueError(f"draws: expected one less than a multiple of {options.bins} bins, got {options.draws}")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # small chances round to 0 in float32
    try:
        schedule = design(options.prompts, options.steps, options.trials, seed=options.seed)
        ranks = sbc(
            read_model(options.model, options.model_args, schedule),
            schedule,
            simulations=options.simulations,
            draws=options.draws,
            thin=options.thin,
            warmup=options.warmup,
            method=options.method,
            powers=options.powers,
            seed=options.seed,
        )
    finally:
        torch.set_default_dtype(before)
    summary = ranks.summary(options.bins)
    table = Table("scalar", "p", "effective draws", title=f"{options.model}: {options.simulations} simulations")
    for name, row in summary["scalars"].items():
        table.add_row(name, f"{row['p']:.3f}", f"{row['effective_draws'][0]:.0f} of {options.draws}")
    console = plain_console()
    console.print(table)
    divergences = f"; {summary['divergences']} divergences" if "divergences" in summary else ""
    verdict = "uniform" if summary["uniform"] else "NOT uniform"
    count = len(summary["scalars"])
    console.print(
        f"Ranks are {verdict}: the smallest of {count} p-values is {summary['smallest_p']:.4f} (calibrated, "
        f"it is below {summary['level'] / count:.5f} once in a hundred runs){divergences}; {summary['seconds']} s.",
        highlight=False,
    )
    if options.out is not None:
        from dps_pyro.report.diagnosis import draw_ranks

        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "sbc.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        console.print(f"{draw_ranks(ranks, options.bins, options.out / 'sbc.png')}", soft_wrap=True)
    return 0 if summary["uniform"] else 1
