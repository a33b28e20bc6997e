"""`dps-pyro cost`: what runs cost, and what they save against others to the same accuracy."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["Options", "run"]


@dataclass
class Options:
    """Print the tokens, rollouts, GPU-hours and money that finished runs took, with the spread over seeds. With
    --against, also print how much less they cost than other runs to reach the same held-out accuracy."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of the same settings with different seeds."""
    against: Annotated[tuple[Path, ...], tyro.conf.arg(name="against")] = ()
    """Run folders to compare with, for instance of runs with uniform selection."""
    accuracy: float | None = None
    """The held-out accuracy at which costs are compared. The default is the mean final accuracy of the runs in
    --against."""
    gpu_hour: float = 2.0
    """The price of one GPU for one hour, in any currency."""
    gpus: int = 1
    """The number of GPUs that a run occupies. It is used if --drawing and --training are not given."""
    drawing: float | None = None
    """The number of tokens that a GPU generates per second. By default, GPU-hours come from the time that the run
    took."""
    training: float | None = None
    """The number of tokens that a GPU trains on per second. It is needed together with --drawing."""
    json: bool = False
    """Print JSON instead of a table."""


def run(arguments: list[str]) -> int:
    """Print the bill."""
    options = tyro.cli(Options, prog="dps-pyro cost", args=arguments)
    if (options.drawing is None) != (options.training is None):
        raise ValueError("drawing, training: expected both throughputs or none, got one")
    for name in ("gpu_hour", "gpus", "drawing", "training"):
        if (value := getattr(options, name)) is not None and not value > 0:
            raise ValueError(f"{name}: expected more than 0, got {value}")

    from dps_pyro.report.cost import Bill, Prices, bill, compare

    prices = Prices(options.gpu_hour, options.gpus, options.drawing, options.training)
    bills: dict[str, Bill] = {"these runs": bill(options.runs, prices)}
    found = None
    if options.against:
        bills["the others"] = bill(options.against, prices)
        found = compare(options.runs, options.against, prices, options.accuracy)
        bills[f"these, to {found.target:.3f}"] = found.own
        bills[f"the others, to {found.target:.3f}"] = found.other
    if options.json:
        told = {name: {key: part._asdict() for key, part in one._asdict().items()} for name, one in bills.items()}
        saving = None if found is None else {"target": found.target, "saved": found.saved, "half": found.saved_half}
        plain = {"prices": prices._asdict(), "bills": told, "saving": saving}
        print(json.dumps(plain, indent=1).replace("NaN", "null"))
        return 0

    from rich.table import Table

    from dps_pyro.support.console import plain_console

    console = plain_console()
    table = Table(title="Means over runs, with 95 % confidence intervals")
    for column in ("", "runs", "accuracy", "rollouts", "tokens drawn", "tokens trained on", "GPU-hours", "money"):
        table.add_column(column, justify="left" if not column else "right")
    for name, one in bills.items():
        cells = (one.accuracy, one.rollouts, one.generated, one.trained, one.hours, one.money)
        table.add_row(name, str(one.money.runs), *map(str, cells))
    console.print(table)
    if found is not None:
        console.print(_sentence(found.saved, found.saved_half, found.reached, options))
    return 0


def _sentence(saved: float, half: float, reached: tuple[int, int], options: Options) -> str:
    counts = (
        f"{reached[0]} of {len(options.runs)} of these runs and {reached[1]} of {len(options.against)} of the others "
        "reached that accuracy"
    )
    if math.isnan(saved):
        return f"There is nothing to compare: {counts}."
    spread = "" if math.isnan(half) else f" ± {half:.0%}"
    what = "saved" if saved >= 0 else "paid on top"
    sure = "" if math.isnan(half) or abs(saved) > half else " That is within the spread of the seeds."
    whole = reached == (len(options.runs), len(options.against))
    unmet = "" if whole else " What the rest would cost is not known, and left out."
    return f"To the same accuracy {abs(saved):.0%}{spread} of the bill is {what}; {counts}.{sure}{unmet}"
