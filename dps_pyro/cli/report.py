"""`dps-pyro report`: a run as pictures."""

from __future__ import annotations

import sys
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
    from dps_pyro.trainers.run.seals import SEAL, broken_seal, seal_run

    finished = (options.run / SEAL).is_file()
    broken = broken_seal(options.run, "report.html") if finished else None
    print(write_report(options.run, options.compare))
    if broken is not None:
        print(
            f"dps-pyro report: {options.run / broken} is not what the run wrote. The report says what it left out, and "
            f"the checksums stay as they are. `dps-pyro train --resume --out {options.run}` heals what can be healed.",
            file=sys.stderr,
        )
    elif finished:  # the checksums are of the report that was there
        seal_run(options.run)
    return 0
