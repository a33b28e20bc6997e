"""`dps-pyro compare`: which model predicts a log best."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from dps_pyro.cli.inputs import LogOptions

if TYPE_CHECKING:
    from dps_pyro.dynamics.contract import Dynamics
    from dps_pyro.history.log import RolloutHistory
    from dps_pyro.tracking.predictor import Predictor

__all__ = ["Options", "run"]


@dataclass(kw_only=True)
class Options(LogOptions):
    """Fit models to a log, score how well they predict data that was left out, and rank them."""

    history: Path
    """The folder of a run, a history.parquet with the columns prompt, step, solved and trials, or the log of another
    training loop, as for `dps-pyro fit`."""
    models: tuple[str, ...] = ("LogitWalk", "SolvingProgress")
    """The models: names in dps_pyro.models, or path/to/file.py:Name. Arguments for the constructor may follow a name as
    YAML: "LogitWalk{groups: operands}". The value of groups or features is the name of a feature in the history."""
    score: Literal["loo", "prequential", "held-out"] = "loo"
    """What is left out and predicted. "loo" leaves out one prompt at a time (PSIS-LOO, from one fit). "prequential"
    filters a random half of the prompts online, and can also score baselines, which are not fitted. "held-out" predicts
    the logs of that half as a whole."""
    method: Literal["laplace", "svi", "nuts"] | None = None
    """The method of the fits: laplace, svi or nuts. By default it is chosen for each model as `dps-pyro fit` does."""
    guide: Literal["normal", "low_rank"] | None = None
    """The approximation that svi fits: normal (independent normals) or low_rank (normals with correlations)."""
    steps: int | None = None
    """The largest number of steps of laplace or svi, or the number of warm-up steps of nuts."""
    draws: int | None = None
    """The number of posterior draws to keep. The default is 200."""
    seed: int = 0
    """The random seed of the fits and of the random half."""
    out: Path | None = None
    """A PNG file for a drawing of the differences."""


def run(arguments: list[str]) -> int:
    """Fit, rank, show, draw."""
    options = tyro.cli(Options, prog="dps-pyro compare", args=arguments)

    from rich.table import Table

    from dps_pyro.cli.inputs import read_history
    from dps_pyro.evaluation.comparison import compare
    from dps_pyro.inference.methods import method_named
    from dps_pyro.support.console import plain_console

    console = plain_console()
    history = read_history(options.history, options, partial(console.print, highlight=False, soft_wrap=True))
    settings = {"guide": options.guide, "steps": options.steps, "draws": options.draws}
    if options.method is None and any(setting is not None for setting in settings.values()):
        raise ValueError("method: expected one of laplace, svi and nuts with settings of a method, got none")
    method = None if options.method is None else method_named(options.method, **settings)
    models = {name: _read(name, history) for name in options.models}
    ranked = compare(models, history, score=options.score, method=method, seed=options.seed)
    table = Table(title=f"{options.score}: log predictive density of {len(ranked[0].elpd.rows)} prompts, in nats")
    for heading in ("model", "elpd", "behind the best", "± se", "per group", "bad k", "fit, s"):
        table.add_column(heading, justify="left" if heading == "model" else "right", overflow="fold")
    for one in ranked:
        bad = "" if one.elpd.pareto_k is None else f"{len(one.elpd.bad)}"
        behind = ("", "") if one is ranked[0] else (f"{one.behind.total:.1f}", f"{one.behind.standard_error:.1f}")
        table.add_row(one.name, f"{one.elpd.total:.1f}", *behind, f"{one.per_group:.4f}", bad, f"{one.seconds:.1f}")
    console.print(table)
    for line in _notes(ranked):
        console.print(line, highlight=False)
    if options.out is not None:
        from dps_pyro.report.diagnosis import draw_comparison

        options.out.parent.mkdir(parents=True, exist_ok=True)
        console.print(f"{draw_comparison(ranked, options.score, options.out)}", soft_wrap=True)
    return 0


def _read(text: str, history: RolloutHistory) -> Dynamics[Any] | Predictor:
    from dps_pyro.cli.inputs import read_predictor

    name, brace, rest = text.partition("{")
    return read_predictor(name.strip(), brace + rest if brace else "{}", history)


def _notes(ranked: list[Any]) -> list[str]:
    """What the table does not say by itself."""
    notes = []
    if len(ranked) > 1:
        best, behind = ranked[0], ranked[1].behind
        clear = abs(behind.total) > 2 * behind.standard_error
        verdict = "ahead of" if clear else "not told apart (within two standard errors) from"
        notes.append(f"{best.name} is {verdict} {ranked[1].name}.")
    bad = [one.name for one in ranked if len(one.elpd.bad)]
    if bad:
        notes.append(f"Bad Pareto k of some prompts, see --score held-out: {', '.join(bad)}.")
    moving = [one.name for one in ranked if not one.converged]
    if moving:
        notes.append(f"The fit had not converged, try more --steps: {', '.join(moving)}.")
    return notes
