"""The command line: `dps-pyro train | demo | fit | report`.

Errors that a user can mend are one line; everything else keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 fine, 1 numbers broke down or the demo failed, 2 what the user can
    mend, 130 Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"train": _train, "demo": _demo, "fit": _fit, "report": _report}
    if not given or given[0] not in commands:
        return _usage(given)
    try:
        return commands[given[0]](given[1:])
    except KeyboardInterrupt as stop:
        return _say(given[0], "stopped", stop, 130)
    except FloatingPointError as error:
        again = "" if given[0] == "fit" else "\nResumed as it is, it would end here again: try a lower --learning-rate."
        return _say(given[0], f"{error}{again}", error, 1)
    except (ValueError, OSError) as error:
        if not _ours(error):
            raise
        return _say(given[0], error, error, 2)


def _say(command: str, message: object, error: BaseException, status: int) -> int:
    print(f"dps-pyro {command}: {message}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
    return status


def _ours(error: Exception) -> bool:
    """Whether the message is meant for the user: the file system's, or raised here and not in a library's depths."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return isinstance(error, OSError) or raised.partition(".")[0] == "dps_pyro" or raised == "__main__"


def _usage(given: Sequence[str]) -> int:
    import dps_pyro

    if given[:1] == ["--version"]:
        print(dps_pyro.__version__)
        return 0
    text = """Predict which prompts are worth a rollout, before any rollout.

  dps-pyro demo                   fine-tune the embedded policy, beside a short uniform arm, and draw a report
  dps-pyro train                  fine-tune a language model on prompts predicted to be partially solved
  dps-pyro fit                    fit a dynamics model to logged rollouts: a prior for the next run
  dps-pyro report RUN [RUN ...]   draw the report of a run, others beside it

Each has --help. dps-pyro --version prints the version."""
    if given[:1] in ([], ["-h"], ["--help"]):
        print(text)
        return 0
    print(f"dps-pyro: expected a command, got {given[0]!r}\n\n{text}", file=sys.stderr)
    return 2


# ------------------------------------------------------------------------------------------------------------ train


def _train(arguments: list[str]) -> int:
    from dps_pyro.trainers.config import TrainConfig, load_config

    file, rest = _take(arguments, "--config")
    out, _ = _take(rest, "--out")
    if file is None and "--resume" in rest and out is not None and (Path(out) / "config.yaml").is_file():
        file = str(Path(out) / "config.yaml")  # a resumed run keeps its configuration
    if file is not None and not Path(file).is_file():
        raise ValueError(f"config: expected a YAML file, got {file}")
    start = TrainConfig() if file is None else load_config(Path(file))
    description = f"""{TrainConfig.__doc__}

Settings come from --config FILE (YAML, one `name: value` a line, names with underscores), where given, and from the
options below, which come first. task_args and dynamics_args are for the file: `task_args: {{train_size: 4096}}`."""
    config = tyro.cli(TrainConfig, prog="dps-pyro train", args=rest, default=start, description=description)

    from dps_pyro.trainers.grpo import train

    train(config)
    return 0


def _take(arguments: list[str], option: str) -> tuple[str | None, list[str]]:
    """The value of an option, and the arguments without it."""
    for place, argument in enumerate(arguments):
        if argument == option:
            if place + 1 == len(arguments):
                raise ValueError(f"{option[2:]}: expected a path after {option}, got nothing")
            return arguments[place + 1], arguments[:place] + arguments[place + 2 :]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2], arguments[:place] + arguments[place + 1 :]
    return None, arguments


# ------------------------------------------------------------------------------------------------------- the others


@dataclass
class _FitOptions:
    """Fit a dynamics model to logged rollouts; the result is a prior for `dps-pyro train --prior`."""

    history: Path
    """A history.parquet: columns prompt, step, solved, trials."""
    out: Path
    """The folder to write the posterior to."""
    model: str = "LogitWalk"
    """A name in dps_pyro.models, or path/to/file.py:Name."""
    method: Literal["svi", "nuts"] = "svi"
    """Stochastic variational inference, or sampling (small histories)."""
    steps: int | None = None
    """SVI steps at most (it stops when the ELBO is flat), or NUTS warm-up steps; 2000 or 200 if left out."""
    draws: int = 200
    """Posterior draws to keep."""
    seed: int = 0
    """Of the fit."""


def _fit(arguments: list[str]) -> int:
    options = tyro.cli(_FitOptions, prog="dps-pyro fit", args=arguments)

    import pyarrow as pa
    import torch
    from rich.console import Console
    from rich.table import Table

    from dps_pyro.fit import fit
    from dps_pyro.history import RolloutHistory
    from dps_pyro.trainers.config import make_dynamics

    try:
        history = RolloutHistory.from_parquet(options.history)
    except pa.ArrowInvalid as error:
        raise ValueError(f"history: expected a Parquet file, got {options.history}: {error}") from error
    posterior = fit(
        make_dynamics(options.model),
        history,
        options.method,
        steps=options.steps,
        draws=options.draws,
        seed=options.seed,
    )
    posterior.save(options.out)
    table = Table("site", "mean", "standard deviation", title=f"{options.model} on {len(history)} groups")
    torch.set_printoptions(precision=3, sci_mode=False)
    for name, draws in posterior.draws.items():
        shown = draws if draws[0].numel() <= 25 else draws.reshape(len(draws), -1)[:, :3]
        values = [str(part.tolist() if part.ndim == 0 else part) for part in (shown.mean(0), shown.std(0))]
        table.add_row(name, *(value.replace("tensor(", "").rstrip(")") for value in values))
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


@dataclass
class _ReportOptions:
    """Draw the report of a run (report.html in its folder), with other runs beside it."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    compare: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Runs to draw beside it."""


def _report(arguments: list[str]) -> int:
    options = tyro.cli(_ReportOptions, prog="dps-pyro report", args=arguments)

    from dps_pyro.report import write_report

    print(write_report(options.run, options.compare))
    return 0


def _demo(arguments: list[str]) -> int:
    from dps_pyro.trainers.demo import DemoOptions, demo

    return demo(tyro.cli(DemoOptions, prog="dps-pyro demo", args=arguments))


if __name__ == "__main__":
    sys.exit(main())
