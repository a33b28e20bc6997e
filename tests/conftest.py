"""One thread, the same examples every time, and no state that leaks from test to test."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

LONG = (
    "tests/integrations/test_trl.py",
    "tests/trainers/run/test_resume.py",
    "tests/tasks/own/test_task_process.py",
    "tests/benchmarks/test_torture.py",
    "tests/evaluation/test_sbc.py",
    "tests/inference/",
    "tests/trainers/",
    "tests/test_docs.py",
    "tests/test_core.py",
    "tests/test_package.py",
    "tests/models/test_prompt_types.py",
    "tests/models/test_hierarchical.py",
    "tests/models/test_logit_walk.py",
    "tests/evaluation/",
    "tests/serve/",
    "tests/tasks/grading/",
)
"""Files and folders with tests that take longest, the longest first."""


def pytest_configure(config: pytest.Config) -> None:
    """Set up a process that runs tests. The one that hands them out to others (`-n 3`) imports nothing: they wait for
    it, and it would take three seconds."""
    if config.getoption("numprocesses", None):
        return
    import torch
    from hypothesis import settings

    torch.set_num_threads(1)
    settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25, database=None)
    settings.load_profile("suite")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first, as wholes, so that of several test processes none is left with a long test at the end."""

    def place(item: pytest.Item) -> int:
        return next((at for at, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Exempt from garbage collection what was imported to collect the tests, half a million objects that stay, and
    collect less often: at Python's own threshold of 700 objects it takes a tenth of the suite's processor time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    import pyro
    import torch

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
