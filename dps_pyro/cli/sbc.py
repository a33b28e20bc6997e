"""`dps-pyro sbc`: simulation-based calibration of a model and its fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

__all__ = ["Options", "run"]


@dataclass
class Options:
    """Simulation-based calibration (Talts et al. 2018): draw parameters from the prior and a log from the parameters,
    fit, and see whether the ranks of the parameters among the fit's draws are uniform."""

    model: str = "LogitWalk"
    """A name in dps_pyro.models, or path/to/file.py:Name."""
    model_args: str = "{}"
    """Arguments of its constructor, as YAML. The simulated prompts have the features group (a, b) and difficulty."""
    simulations: int = 200
    """How many logs to simulate and fit."""
    prompts: int = 16
    """Prompts of each."""
    steps: int = 12
    """Steps of each; every prompt is rolled out in half of them."""
    trials: int = 8
    """Rollouts a group."""
    method: Literal["hmc", "nuts", "svi"] = "hmc"
    """How to fit: hmc samples all posteriors side by side, nuts one after the other (slow), svi is approximate."""
    draws: int = 99
    """Posterior draws of each; one less than a multiple of --bins."""
    thin: int = 3
    """Iterations of a chain a draw."""
    warmup: int = 300
    """Iterations of a chain before the first; SVI steps at most."""
    powers: tuple[float, ...] = (1.0,)
    """Of the likelihood, falling from 1, for hmc: tempered copies of each chain, where posteriors have several modes.
    Each is as much work again."""
    bins: int = 20
    """Of the rank histograms that the chi-square tests are of."""
    seed: int = 0
    """Of the whole."""
    out: Path | None = None
    """The folder to write sbc.json and sbc.png to."""


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
