"""A small torture; the large one is `python -m benchmarks.torture`, whose result is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.torture.__main__ import misses
from benchmarks.torture.damages import cut, damage_files
from benchmarks.torture.kills import kill_runs
from benchmarks.torture.pairs import start_pairs
from benchmarks.torture.runs import CONFIGURATIONS

pytestmark = pytest.mark.no_cover

FILES = ("metrics.jsonl", "summary.json", "completions/step-000000.parquet", "checkpoints/step-000003/checksums.json")


@pytest.mark.timeout(1200)  # dozens of runs, on a machine that may be busy
def test_killed_runs_are_the_run_that_nobody_killed(tmp_path: Path) -> None:
    ((name, found),) = kill_runs(tmp_path / "kills", ["plain"], kills=2, seed=1)
    assert name == "plain"
    assert found["kills"] >= 2
    assert found["wrong"] == []


@pytest.mark.timeout(1200)
def test_of_two_that_start_at_once_one_runs(tmp_path: Path) -> None:
    said: list[str] = []
    found = start_pairs(tmp_path / "pairs", 1, said.append)
    assert found["ended"] == {"1 ran, 1 refused": 1}
    assert found["wrong"] == said == []


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("files", "ways"), [(FILES[::3], [cut]), pytest.param(FILES, [cut, Path.unlink], marks=pytest.mark.slow)]
)
def test_damage_is_named_or_healed(files: tuple[str, ...], ways: list[Callable[[Path], None]], tmp_path: Path) -> None:
    said: list[str] = []
    found = damage_files(tmp_path / "damages", said.append, files, ways)
    assert said == []
    assert all(state["wrong"] == [] for state in found.values())
    cases = sum(number for state in found.values() for number in state["outcomes"].values())
    assert cases >= len(ways) * len(files)


def test_the_kept_result_has_nothing_amiss() -> None:
    result = json.loads(Path("benchmarks/results/torture.json").read_text(encoding="utf-8"))
    assert set(result["kills"]) == set(CONFIGURATIONS)
    assert sum(found["kills"] for found in result["kills"].values()) >= 200
    assert result["pairs"]["pairs"] >= 100
    assert set(result["damages"]) == {"killed", "ended"}
    assert misses(result) == []
