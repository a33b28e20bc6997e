"""What the tests of the report share: one drawn page."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.runs.report_runs import make_run

from dps_pyro.report import write_report


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the run that `make_run` makes. Tests read it and leave it as it is."""
    return write_report(make_run(tmp_path_factory.mktemp("report") / "run"))
