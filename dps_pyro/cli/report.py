"""`dps-pyro report`: a run as pictures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dps_pyro.support.files.file_errors import said_of

__all__ = ["Options", "run"]


@dataclass
class Options:
    """Draw the report of a run, as report.html in its folder, with other runs beside it."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    compare: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders of other runs, which the report draws beside this run."""


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
    elif finished and (changed := _changed(options.run / "config.yaml")) is not None:
        print(f"dps-pyro report: {changed}", file=sys.stderr)
    if finished and broken is None:  # the checksums are of the report that was there
        seal_run(options.run)
    return 0


def _changed(config: Path) -> str | None:
    """Say that a run's configuration is not as the run wrote it; None if it is."""
    from dps_pyro.trainers.run.seals import check_text

    try:
        check_text(config)
    except OSError as error:
        return f"{said_of(error)}. The report is without it"
    except ValueError:
        return (
            f"{config} is not what the run wrote: it is damaged, or was changed by hand. The report shows it as it is"
        )
    return None
