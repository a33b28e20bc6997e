"""What training makes of the embedded policies: the page shows the result file, and every task learned."""

from __future__ import annotations

import json
import statistics

import pytest

from benchmarks.docs import evidence
from benchmarks.learning import tasks
from dps_pyro.policies.embedded import EMBEDDED

RESULT = json.loads(tasks.RESULT.read_text(encoding="utf-8"))


def test_the_page_shows_the_result_file() -> None:
    page = (evidence.DOCS / "trainer" / "tasks.md").read_text(encoding="utf-8")
    assert tasks.table(RESULT) in page and evidence.render(page) == page, "python -m benchmarks.docs.evidence writes it"


@pytest.mark.parametrize("task", list(RESULT["runs"]))
def test_a_task_is_learned_on_seeds_that_nothing_was_tuned_on(task: str) -> None:
    assert task in EMBEDDED
    runs = RESULT["runs"][task]
    assert len({run["seed"] for run in runs}) == len(runs) and tasks.TUNED_ON not in {run["seed"] for run in runs}
    gains = [run["accuracy_after"] - run["accuracy_before"] for run in runs]
    assert statistics.fmean(gains) > max(run["stderr_after"] for run in runs)
    assert all(run["stderr_after"] < 0.03 for run in runs)
