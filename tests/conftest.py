"""One thread, the same examples every time, and no state that leaks from test to test."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pyro
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25, database=None)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Exempt from garbage collection what was imported to collect the tests, half a million objects that stay, and
    collect less often: at Python's own threshold of 700 objects it takes a tenth of the suite's processor time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a report's figures without drawing them, which takes most of its time, for tests of the text around them."""
    from dps_pyro.report import canvas

    monkeypatch.setattr(canvas, "to_svg", lambda *_: "<svg></svg>")
    monkeypatch.setattr(canvas, "to_png", lambda *_: None)
