"""Rows of a result file: made once, kept as they are made, of the same settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.inference.rows import Rows

WAYS = ("guide", ("normal", "low_rank"))


def test_a_cut_off_benchmark_goes_on_with_the_rows_that_are_missing(tmp_path: Path) -> None:
    path, settings = tmp_path / "out" / "rows.json", {"configuration": {"steps": 3}, "seed": 1}
    rows = Rows(path, "numbers", settings, WAYS)
    assert list(rows.missing(["B", "A"])) == [("B", "normal"), ("B", "low_rank"), ("A", "normal"), ("A", "low_rank")]
    for model, guide in (("B", "low_rank"), ("A", "low_rank"), ("B", "normal")):
        rows.add({"model": model, "guide": guide})
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {name: found[name] for name in ("what", *settings)} == {"what": "numbers", **settings}
    assert [tuple(row.values()) for row in found["rows"]] == [("A", "low_rank"), ("B", "normal"), ("B", "low_rank")]
    assert list(Rows(path, "numbers", settings, WAYS).missing(["A", "B"])) == [("A", "normal")]
    anew = Rows(path, "numbers", settings, WAYS, anew=["B"])
    assert list(anew.missing(["B"])) == [("B", "normal"), ("B", "low_rank")]
    with pytest.raises(SystemExit, match=r"expected results of .*'steps': 4.*, got others; remove it first"):
        Rows(path, "numbers", {**settings, "configuration": {"steps": 4}}, WAYS)


def test_without_a_file_nothing_is_kept() -> None:
    rows = Rows(None, "numbers", {}, WAYS)
    rows.add({"model": "A", "guide": "normal"})
    assert list(rows.missing(["A"])) == [("A", "low_rank")]
