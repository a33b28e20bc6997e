"""What runs cost, by hand, and on a real run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from helpers.runs.tiny import call, metrics, tiny

from dps_pyro.history.log import RolloutHistory
from dps_pyro.report import write_report
from dps_pyro.report.bills import cost_rows
from dps_pyro.report.cost import Prices, bill, compare, interval, spent, spent_by
from dps_pyro.report.run import read_run
from dps_pyro.trainers.grpo import train


def write_run(folder: Path, accuracies: list[float], rollouts: int = 10, length: float = 5.0) -> Path:
    """A run of two steps between evaluations, with `rollouts` of `length` tokens a step, one group of 4 trained on."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    steps = 2 * (len(accuracies) - 1)
    history = RolloutHistory(8)
    for step in range(steps + 1):
        if step % 2 == 0:
            lines.append({"kind": "eval", "step": step, "accuracy": accuracies[step // 2]})
        if step < steps:
            seconds = {"seconds/rollout": 30.0, "seconds/update": 20.0, "seconds/reward": 10.0}
            total = rollouts * (step + 1)
            lines.append({"kind": "train", "step": step, "rollouts": total, "length": length, **seconds})
            history.append([0, 1], step=step, solved=[1, 0], trials=[4, 4], trained=[True, False])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    history.to_parquet(folder / "history.parquet")
    return folder


def test_a_run_by_hand(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [0.1, 0.3, 0.5])
    whole = spent(folder)
    assert whole == (4, 40, 200, 4 * 4 * 5, 120, 80, 40, 0.5)
    # 0.4 is half way between the evaluations at steps 2 and 4.
    part = spent(folder, 0.4)
    assert part is not None
    assert part[:7] == pytest.approx((3, 30, 150, 60, 90, 60, 30))
    assert spent(folder, 0.1) == (0, 0, 0, 0, 0, 0, 0, 0.1)
    assert spent(folder, 0.6) is None
    assert whole is not None
    assert whole.hours(Prices(gpus=8)) == pytest.approx(8 * 240 / 3600)
    assert whole.hours(Prices(drawing=100.0, training=20.0)) == pytest.approx((200 / 100 + 80 / 20) / 3600)


@pytest.mark.parametrize(("told", "counted"), [(3, 3), (0, 0), (None, 4), ("3", 4), (math.nan, 4)])
def test_a_line_that_says_how_many_completions_were_trained_on_is_believed(told: Any, counted: int) -> None:
    """Not all of a group are, with `thinning`. The log, which says 4 here, knows groups only."""
    line = {"step": 0, "rollouts": 8, "length": 5.0, "trained": told}
    found = spent_by([line], [{"step": 0, "accuracy": 0.1}, {"step": 1, "accuracy": 0.2}], {0: 4.0})
    assert found is not None
    assert found.trained == 5 * counted


@pytest.mark.parametrize("damage", ['{"kind": "tr', "[1]", '{"kind": "train", "step": 1}', "[" * 100_000, "\x00"])
def test_damaged_metrics_are_named_with_the_way_out(damage: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [0.1, 0.3])
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(damage)
    with pytest.raises(ValueError, match=r"metrics.jsonl: expected a run's step .* in line 5; dps-pyro train --resume"):
        spent(folder)


def test_intervals_are_students() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    low, high = scipy.stats.t.interval(0.95, 3, loc=3.75, scale=scipy.stats.sem(values))
    found = interval(values)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), rel=1e-3)
    assert math.isnan(interval([3.0]).half)
    assert interval([]).runs == 0
    for count in range(2, 18):
        spread = interval([0.0] * (count - 1) + [1.0])
        factor = spread.half / (scipy.stats.sem([0.0] * (count - 1) + [1.0]))
        assert factor == pytest.approx(scipy.stats.t.ppf(0.975, count - 1), rel=0.1 if count > 16 else 1e-3)


def test_the_saving_is_to_the_same_accuracy(tmp_path: Path) -> None:
    own = [write_run(tmp_path / f"own{k}", [0.1, 0.3 + shift, 0.5]) for k, shift in enumerate((0.0, 0.05))]
    other = [write_run(tmp_path / f"other{k}", [0.1, 0.2, 0.3]) for k in range(2)]
    found = compare(own, other, Prices())
    assert found.target == pytest.approx(0.3)
    assert found.reached == (2, 2)
    steps = [2.0, 2 * 0.2 / 0.25]
    assert found.own.rollouts.mean == pytest.approx(10 * sum(steps) / 2)
    assert found.saved == pytest.approx(1 - sum(steps) / 2 / 4)
    assert found.saved_half > 0
    nobody = compare(own, other, Prices(), target=0.9)
    assert nobody.reached == (0, 0)
    assert math.isnan(nobody.saved)
    dearer = compare(other, own, Prices(), target=0.3)
    assert dearer.saved < 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = write_run(tmp_path / "own", [0.1, 0.5]), write_run(tmp_path / "other", [0.1, 0.3])
    status, out, _ = call(capsys, "cost", str(own), "--against", str(other), "--gpu-hour", "3")
    assert status == 0
    assert "50% of the bill is saved" in out
    status, out, _ = call(capsys, "cost", str(own), "--json", "--drawing", "100", "--training", "20")
    told = json.loads(out)
    assert told["bills"]["these runs"]["generated"]["mean"] == 100
    assert told["saving"] is None
    for wrong in (["--drawing", "5"], ["--gpu-hour", "0"]):
        assert call(capsys, "cost", str(own), *wrong)[0] == 2
    assert call(capsys, "cost", str(tmp_path))[0] == 2


def test_the_reports_rows(tmp_path: Path) -> None:
    """Two runs are compared at the lower of their last accuracies; one that is unfinished in its lines is left out."""
    runs = [(name, read_run(write_run(tmp_path / name, ends))) for name, ends in (("a", [0.1, 0.5]), ("b", [0.1, 0.3]))]
    rows, target = cost_rows(runs)
    assert target == 0.3
    assert [row.whole.generated for row in rows] == [100, 100]
    assert [row.whole.trained for row in rows] == [40, 40]
    assert [row.reached.rollouts for row in rows if row.reached is not None] == pytest.approx([10, 20])
    alone, none = cost_rows(runs[:1])
    assert alone[0].reached is None
    assert math.isnan(none)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/metrics.jsonl").write_text('{"kind": "train", "step": 0, "rollouts": 4}\n', encoding="utf-8")
    assert cost_rows([("c", read_run(tmp_path / "c"))])[0] == []


@pytest.mark.usefixtures("undrawn")
def test_a_real_run(tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", steps=2))
    line = metrics(tmp_path / "run")[-2]
    assert 'id="cost"' in write_report(tmp_path / "run").read_text(encoding="utf-8")
    found = bill([tmp_path / "run"], Prices())
    assert found.rollouts.mean == 32
    assert 32 <= found.generated.mean <= 32 * 24
    assert found.trained.mean <= found.generated.mean + 1e-6
    assert found.hours.mean > 0
    assert line["kind"] == "train"
