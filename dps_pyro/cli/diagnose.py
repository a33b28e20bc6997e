"""`dps-pyro diagnose`: whether a fit can be trusted, and whether its model describes the log."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from dps_pyro.cli.inputs import LogOptions

if TYPE_CHECKING:
    from dps_pyro.inference.posterior import Posterior

__all__ = ["Options", "run"]


@dataclass(kw_only=True)
class Options(LogOptions):
    """Diagnose a fit: how it ended, how well it predicts, and what the model cannot describe. The command prints
    tables. With --out it also writes diagnosis.png and groups.nc, which ArviZ reads."""

    history: Path
    """The log that the model was fitted to: the folder of a run, a history.parquet, or the log of another training
    loop."""
    posterior: Path
    """The folder that `dps-pyro fit` wrote."""
    model: str | None = None
    """The model that was fitted: a name in dps_pyro.models, or path/to/file.py:Name. The default is the model that the
    posterior names."""
    model_args: str | None = None
    """Arguments for the constructor of the model, as YAML. They must be the arguments of the fit. By default they are
    the arguments that the posterior names."""
    out: Path | None = None
    """The folder for diagnosis.png and groups.nc."""
    seed: int = 0
    """The random seed of the replicated logs."""


def run(arguments: list[str]) -> int:
    """Diagnose, show, write; 0 whatever is found."""
    options = tyro.cli(Options, prog="dps-pyro diagnose", args=arguments)

    from rich.table import Table
    from rich.text import Text

    from dps_pyro.cli.inputs import read_history, read_model
    from dps_pyro.evaluation.diagnosis import diagnose
    from dps_pyro.inference.posterior import Posterior
    from dps_pyro.support.console import plain_console

    console = plain_console()
    history = read_history(options.history, options, partial(console.print, highlight=False, soft_wrap=True))
    posterior = Posterior.load(options.posterior)
    name, made_with = _fitted(options, posterior)
    model = read_model(name, made_with, history, posterior)
    found = diagnose(model, history, posterior, seed=options.seed)

    scores = Table("score", "total", "standard error", "per group", title=f"{name} on {len(history)} groups")
    groups = int(found.prequential.groups.sum())
    weighted = " (weighted)" if found.loo.corrected else ""
    for name, elpd in ((f"PSIS-LOO{weighted}", found.loo), ("prequential", found.prequential.elpd)):
        scores.add_row(name, f"{elpd.total:.1f}", f"{elpd.standard_error:.1f}", f"{elpd.total / groups:.4f}")
    console.print(scores)

    checks = Table("posterior predictive check", "the log", "replications, 95 %", "tail", title="Like the log?")
    for check in found.checks:
        low, high = check.band()
        one = len(check.at) == 1
        seen = (
            f"{float(check.observed):.3f}"
            if one
            else f"{int(((check.observed >= low) & (check.observed <= high)).sum())}"
        )
        shown = f"{float(low):.3f} to {float(high):.3f}" if one else f"of {len(check.at)} points within"
        checks.add_row(check.name, seen, shown, f"{check.tail:.3f}")
    console.print(checks)

    for finding in found.findings():
        mark, colour = {True: ("good", "green"), False: ("bad ", "red"), None: ("?   ", "yellow")}[finding.good]
        console.print(Text.assemble((mark, colour), f"  {finding.what}"))
        if finding.then:
            console.print(f"      → {finding.then}", highlight=False)

    if options.out is not None:
        from dps_pyro.evaluation.arviz import to_arviz, to_netcdf
        from dps_pyro.report.diagnosis import draw_diagnosis

        options.out.mkdir(parents=True, exist_ok=True)
        console.print(f"{draw_diagnosis(found, options.out / 'diagnosis.png')}", soft_wrap=True)
        try:
            written = to_netcdf(to_arviz(model, history, posterior, seed=options.seed), options.out / "groups.nc")
            console.print(f"{written}", soft_wrap=True)
        except ImportError as error:
            console.print(f"groups.nc is not written: {error}")
    return 0


def _fitted(options: Options, posterior: Posterior) -> tuple[str, str]:
    """The model that was fitted, and its arguments: as the options name them, or else as the posterior does."""
    made = posterior.about.get("made") or {}
    name = options.model or made.get("model") or posterior.about.get("model")
    if not isinstance(name, str):
        raise ValueError(f"model: expected the name of the model, as {options.posterior} does not tell it, got none")
    same = options.model in (None, made.get("model"))
    told = str(made.get("model_args", "{}")) if same else "{}"
    return name, told if options.model_args is None else options.model_args
