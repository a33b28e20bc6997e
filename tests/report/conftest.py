"""What the tests of the report share: one drawn page, and pages whose figures are not drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.report_runs import make_run

from dps_pyro.report import canvas, write_report


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the run that `make_run` makes. Tests read it and leave it as it is."""
    return write_report(make_run(tmp_path_factory.mktemp("report") / "run"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make figures without drawing them, which takes most of a report's time, for tests of the text around them."""
    monkeypatch.setattr(canvas, "to_svg", lambda *_: "<svg></svg>")
    monkeypatch.setattr(canvas, "to_png", lambda *_: None)
