"""`dps-pyro replay`: predictors side by side on full logs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from dps_pyro.cli.inputs import LogOptions

if TYPE_CHECKING:
    from rich.table import Table

    from dps_pyro.evaluation.replays import Replay
    from dps_pyro.history.log import RolloutHistory
    from dps_pyro.inference.posterior import Posterior
    from dps_pyro.report.replay import Spread

__all__ = ["Options", "run"]

LEGEND = (
    "For log score and Brier, 0 is perfect. Early: the log score of the first steps. Unvisited: the log score of "
    "prompts that were not shown before. Top: the share of useful groups among the likeliest prompts. Chosen: the "
    "share among the shown prompts"
)


@dataclass(kw_only=True)
class Options(LogOptions):
    """Replay models on full logs, in which every prompt was rolled out at every step. Each model sees only what was
    selected, and its predictions are scored on all prompts. The command prints a table, and writes replay.json and
    replay.png."""

    log: tuple[Path, ...]
    """One or more full logs: a run with --full-log, its full_log.parquet, or the output of `dps-pyro simulate`."""
    out: Path
    """The folder for replay.json and replay.png."""
    models: tuple[str, ...] = ("LogitWalk", "SolvingProgress", "BetaBernoulli", "PaperDPS")
    """The models: names in dps_pyro.models, or path/to/file.py:Name."""
    model_args: str = "{}"
    """Arguments for the constructors of the models, as YAML: "{LogitWalk: {groups: operands}}". The value of groups or
    features is the name of a feature in the log."""
    prior: tuple[Path, ...] = ()
    """Folders that `dps-pyro fit` wrote. Each model is replayed with its own prior, and again with each of these
    posteriors that was fitted with that model. What a fit learned about single prompts is not used, except the truth
    that `dps-pyro simulate` writes for its own log."""
    acquisition: str = "soft"
    """The acquisition with which models select: variance, soft, covering, thompson, top, target,
    priority, entropy or uniform."""
    refit_every: int | None = None
    """The number of steps between refits of each model to what it has seen. Baselines are not fitted. By default there
    are no refits."""
    selection: Literal["own", "recorded", "uniform"] = "uniform"
    """The prompts that a model sees: "own" is its own selection, "recorded" the batches that the run was trained on,
    and "uniform" the same random batches for all models."""
    batch_size: int = 32
    """The number of prompts that are shown per step. It does not apply to recorded batches."""
    first: int = 15
    """The number of first steps over which the early score is computed."""
    target: int | None = None
    """The number of useful groups to which rollouts are counted. The default is a quarter of the groups shown."""
    shift_at: int | None = None
    """The step at which the distribution of the log shifted, to measure how fast models recover from it."""
    seed: int = 0
    """The random seed of the selections."""


def run(arguments: list[str]) -> int:
    """Replay, show, write."""
    options = tyro.cli(Options, prog="dps-pyro replay", args=arguments)

    from dps_pyro.cli.inputs import read_history
    from dps_pyro.inference.posterior import Posterior
    from dps_pyro.report.replay import draw, spreads
    from dps_pyro.storage import atomic_path, strict_json
    from dps_pyro.support.console import plain_console

    console = plain_console()
    console = console if console.is_terminal else plain_console(width=120)  # in a file nothing is to be cut off
    say = partial(console.print, highlight=False, soft_wrap=True)
    logs = {_name(path, options.log): read_history(path, options, say, "full_log.parquet") for path in options.log}
    priors = {path: _population(Posterior.load(path)) for path in options.prior}
    arguments_of = _arguments(options.model_args, options.models)
    replays = {
        label: [_play(name, arguments_of.get(name, {}), posterior, log, options) for log in logs.values()]
        for label, name, posterior in _entries(options.models, priors)
    }
    measured: dict[str, Any] = {"first": options.first, "target": options.target, "shift": options.shift_at}
    summaries = {label: [one.summary(**measured) for one in made] for label, made in replays.items()}
    rows = {label: spreads(found) for label, found in summaries.items()}
    shown = {"own": f"its own selection ({options.acquisition})", "recorded": "the recorded batches"}
    title = f"shown {shown.get(options.selection, 'random batches')}, scored on all prompts"
    result = {
        "selection": options.selection,
        "acquisition": options.acquisition,
        "logs": list(logs),
        "models": {
            label: {
                "spreads": {title: spread._asdict() for title, spread in rows[label].items()},
                "replays": {name: one.to_dict(**measured) for name, one in zip(logs, made, strict=True)},
            }
            for label, made in replays.items()
        },
    }
    with atomic_path(options.out / "replay.json") as aside:
        aside.write_text(strict_json(result, indent=1) + "\n", encoding="utf-8")
    draw(replays, options.out / "replay.png", f"{', '.join(logs)}: {title}")
    console.print(_table(rows, title, len(logs), options.selection == "own"))
    console.print(f"{options.out}: replay.json, replay.png", soft_wrap=True)
    return 0


def _name(path: Path, among: Sequence[Path]) -> str:
    """What to call a file or a folder: its name, or its whole path where others of them have that name."""
    alike = [other for other in among if other.stem == path.stem]
    return path.stem if len(alike) == 1 else str(path)


def _arguments(text: str, models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The arguments of each model's constructor, by its name."""
    from dps_pyro.support.files.yaml_files import load_yaml

    given = load_yaml(text, "model-args")
    if not isinstance(given, dict) or not all(isinstance(settings, dict) for settings in given.values()):
        raise ValueError(f"model-args: expected settings by model, as {{Model: {{name: value}}}}, got {text!r}")
    strange = [name for name in given if name not in models]
    if strange:
        raise ValueError(f"model-args: expected models among {', '.join(models)}, got {strange[0]!r}")
    return given


def _entries(models: Sequence[str], priors: dict[Path, Posterior]) -> Iterator[tuple[str, str, Posterior | None]]:
    """A label, a model's name, and what it starts from: each model once from its own prior, and once from each that was
    fitted with it."""
    short = {model: model.rpartition(":")[2].rpartition(".")[2] for model in models}
    alike = {name for name in short.values() if list(short.values()).count(name) > 1}
    for path, posterior in priors.items():
        if not _fitted_as(posterior) & set(short.values()):
            fitted, names = posterior.about.get("model"), ", ".join(models)
            raise ValueError(f"prior: expected one of {names}, got {path}, which was fitted with {fitted}")
    for model, name in short.items():
        label = model if name in alike else name
        yield label, model, None
        for path, posterior in priors.items():
            if name in _fitted_as(posterior):
                yield f"{label} ({_name(path, list(priors))})", model, posterior


def _fitted_as(posterior: Posterior) -> set[str]:
    """The names of the model that was fitted, and of the one that was asked for where that only filters with it."""
    asked = str((posterior.about.get("made") or {}).get("model", ""))
    return {str(posterior.about.get("model")), asked.rpartition(":")[2].rpartition(".")[2]}


def _population(posterior: Posterior) -> Posterior:
    """Without what was learned of single prompts, who are others; a simulated log's truth is of its own prompts."""
    return posterior if posterior.about.get("method") == "simulated" else posterior.population()


def _play(
    name: str, arguments: dict[str, Any], posterior: Posterior | None, log: RolloutHistory, options: Options
) -> Replay:
    from dps_pyro.evaluation.replays import replay
    from dps_pyro.models.by_name import make
    from dps_pyro.selection.sampler import PromptSampler
    from dps_pyro.tracking.tracker import fitted_part

    model = make(name, arguments, log.features, posterior=posterior)
    sampler = PromptSampler(
        model,
        log.ids if log.ids is not None else log.num_prompts,
        acquisition=options.acquisition,
        trials=int(log.events.trials.median()) if len(log) else 1,
        posterior=posterior,
        features=log.features,
        refit_every=options.refit_every if fitted_part(model) is not None else None,
        seed=options.seed,
    )
    return replay(log, sampler, selection=options.selection, batch_size=options.batch_size, seed=options.seed)


def _table(rows: dict[str, dict[str, Spread]], title: str, num_logs: int, own: bool) -> Table:
    """The rows, the best of each column in bold and marked; over several logs with their standard deviation. What the
    selection decides is shown of models that selected on their `own`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from dps_pyro.report.replay import COLUMNS, best

    columns = [
        column
        for column in COLUMNS
        if (own or not column.of_selection) and any(column.title in row for row in rows.values())
    ]
    over = f"mean, and standard deviation over {num_logs} logs" if num_logs > 1 else "one log"
    table = Table("model", title=title, caption=f"{over}; * best. {LEGEND}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.columns[0].overflow, table.columns[0].min_width = "fold", 9
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    leaders = best(rows)
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["log score"].mean):
        cells = []
        for column in columns:
            mean, deviation = row.get(column.title, (math.nan, math.nan))
            text = "–" if math.isnan(mean) else f"{mean:.{column.digits}f}"
            cell = Text(f"{text}*", style="bold") if name in leaders[column.title] else Text(text)
            cells.append(cell.append(f"\n±{deviation:.{column.digits}f}", style="dim") if num_logs > 1 else cell)
        table.add_row(name, *cells)
    return table
