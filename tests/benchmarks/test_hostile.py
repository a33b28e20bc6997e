"""The hostile benchmark, small: its oracle and the tasks agree on every completion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import hostile, pairs


def test_no_task_raises_or_pays_wrongly() -> None:
    found = hostile.measure(total=160, compared=24, seed=1)
    assert len(found) == 6
    for name, one in found.items():
        assert one["raised"] == [], name
        assert one["examples_paid"] == [], name
        assert one["examples_refused"] == [], name
        assert one["over_limit"] == 0, name
        assert 0.2 < one["right_by_construction"] / one["completions"] < 0.8, name


def test_the_oracle_of_plans() -> None:
    assert hostile.carried_out(("ab", "c"), ("a", "cb"), [("b", "c")])
    assert not hostile.carried_out(("ab", "c"), ("a", "cb"), [("a", "c")])
    assert not hostile.carried_out(("ab", "c"), ("a", "cb"), [("b", "_")])
    assert not hostile.carried_out(("ab", "c"), ("ab", "c"), [("c", "_")])


def test_pairs_are_counted_and_those_left_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = [
        {"gold": "7", "completion": r"\boxed{7}", "right": True},
        {"gold": "7", "completion": r"\boxed{8}", "right": False},
        {"gold": "7", "completion": r"\boxed{8}", "right": True},
        {"gold": "7", "completion": r"\boxed{7}", "right": False},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(listed), encoding="utf-8")
    pairs.main([str(tmp_path / "pairs.json"), "--out", str(tmp_path / "result.json")])
    said = capsys.readouterr().out
    assert "| correct | 1 | 1 |" in said
    assert said.count("wrong value") == 2  # in the table of reasons, and of the pair that is left
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (result["judged_right"], len(result["left"])) == (2, 2)
