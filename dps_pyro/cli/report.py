"""`dps-pyro report`: a run as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["Options", "run"]


@dataclass
class Options:
    """Draw the report of a run, as report.html in its folder, with other runs beside it."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    compare: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders that are drawn beside it."""


def run(arguments: list[str]) -> int:
    """Draw it, and print where it is."""
    options = tyro.cli(Options, prog="dps-pyro report", args=arguments)

    from dps_pyro.report import write_report
    from dps_pyro.trainers.run.seals import SEAL, seal_run

    print(write_report(options.run, options.compare))
    if (options.run / SEAL).is_file():  # the run is finished, and its checksums are of the report that was there
        seal_run(options.run)
    return 0
