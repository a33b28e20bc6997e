"""`dps-pyro bench`: what it runs, what it makes of the curves, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro.cli import main
from dps_pyro.trainers.bench.curves import Curve
from dps_pyro.trainers.bench.measures import average, crossing, ranks, saving, summary
from dps_pyro.trainers.bench.plan import read_plan
from dps_pyro.trainers.bench.results import write

TINY: dict[str, Any] = {
    "seeds": [3, 4],
    "shared": {"steps": 2, "batch_size": 2, "group_size": 2, "eval_every": 1, "eval_samples": 1},
    "testbeds": {"few/prompts": {"task": "math", "task_args": {"train_size": 16, "test_size": 8}}},
    "arms": {"uniform": {"acquisition": "uniform"}, "more": {"acquisition": "uniform", "dynamic_sampling": 2}},
    "against": ["uniform", "more"],
}


def written(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False), encoding="utf-8")
    return path


def curve(accuracy: list[float], each: int = 100) -> Curve:
    steps = list(range(len(accuracy)))
    share = [0.5] * max(len(steps) - 1, 1)
    return Curve(steps, [each * step for step in steps], [0.0] * len(steps), accuracy, share, share, share, 1, 0.0)


# ------------------------------------------------------------------------------------------------------ what is run


def test_an_arms_settings_come_before_its_testbeds_and_those_before_the_shared_ones(tmp_path: Path) -> None:
    plan = read_plan(
        written(
            tmp_path / "plan.yaml",
            shared={"steps": 2, "batch_size": 2, "group_size": 2},
            testbeds={"one": {"task": "math", "steps": 3, "group_size": 3}},
            arms={"a": {"group_size": 4}, "b": None},
            against=["a"],
        )
    )
    assert [(job.arm, job.seed) for job in plan.jobs] == [("a", 3), ("b", 3), ("a", 4), ("b", 4)]
    assert [job.settings["steps"] for job in plan.jobs] == [3] * 4
    assert [job.settings["group_size"] for job in plan.jobs] == [4, 3, 4, 3]
    assert len({job.slug for job in plan.jobs}) == 4


def test_runs_of_other_settings_are_other_runs_and_names_never_leave_the_folder(tmp_path: Path) -> None:
    before = read_plan(written(tmp_path / "a.yaml"))
    after = read_plan(written(tmp_path / "b.yaml", shared={**TINY["shared"], "steps": 3}))
    assert not {job.slug for job in before.jobs} & {job.slug for job in after.jobs}
    hostile = read_plan(written(tmp_path / "c.yaml", testbeds={"../../up": {"task": "math"}}))
    assert all("/" not in job.slug and "." not in job.slug for job in hostile.jobs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, "expected seeds, shared"),
        ({"seeds": []}, "seeds: expected"),
        ({"seeds": [1, 1]}, "each once"),
        ({"seeds": ["1"]}, "seeds: expected"),
        ({"arms": {}}, "arms: expected"),
        ({"arms": {"a": {"seed": 3}}, "against": ["a"]}, "expected no seed"),
        ({"arms": {"a": {"sharpnes": 3}}, "against": ["a"]}, "sharpnes"),
        ({"arms": {"a": {"steps": 0}}, "against": ["a"]}, "steps: expected 1"),
        ({"arms": {"a": [1]}, "against": ["a"]}, "expected settings"),
        ({"against": ["b"]}, "against: expected names among uniform, more"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        read_plan(written(tmp_path / "plan.yaml", **changes))


# ------------------------------------------------------------------------------------------------- what curves say


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=8),
    st.floats(0, 1),
)
def test_a_crossing_is_where_the_interpolated_curve_first_has_the_accuracy(heights: list[float], target: float) -> None:
    rollouts, accuracy = np.arange(len(heights)) * 100.0, np.array(heights)
    at = crossing(rollouts, accuracy, target)
    if max(heights) < target:
        assert at == math.inf
        return
    assert 0 <= at <= rollouts[-1]
    assert float(np.interp(at, rollouts, accuracy)) >= target - 1e-9
    before = np.linspace(0, at, 50, endpoint=False) if at > 0 else np.array([])
    assert (np.interp(before, rollouts, accuracy) <= target + 1e-9).all()


def test_an_arm_that_learns_twice_as_fast_takes_half_of_the_rollouts() -> None:
    slow = {seed: curve([0.1, 0.2, 0.3, 0.4, 0.5]) for seed in range(5)}
    fast = {seed: curve([0.1, 0.3, 0.5, 0.5, 0.5]) for seed in range(5)}
    found = saving(fast, slow)
    assert (found.target, found.own, found.other) == pytest.approx((0.5, 200, 400))
    assert (found.share, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert saving(slow, slow).share == 1
    never = saving({seed: curve([0.1, 0.2, 0.2, 0.2, 0.2]) for seed in range(5)}, slow)
    assert never.own == never.share == never.low == never.high == math.inf


def test_the_interval_widens_with_the_spread_over_seeds_and_says_where_an_accuracy_may_not_be_reached() -> None:
    slow = {seed: curve([0.1, 0.2, 0.3, 0.4, 0.5]) for seed in range(4)}
    mixed = {seed: curve([0.1, 0.3, 0.5, 0.7, 0.9 if seed < 2 else 0.12]) for seed in range(4)}
    found = saving({0: curve([0.1, 0.2, 0.2, 0.2, 0.2]), 1: mixed[1], 2: mixed[2], 3: mixed[3]}, slow)
    assert found.low == pytest.approx(0.5)
    assert found.share < found.high == math.inf
    single = saving({0: mixed[0]}, {0: slow[0]})
    assert single.share == pytest.approx(0.5)
    assert math.isnan(single.low)
    with pytest.raises(ValueError, match="a seed in common"):
        saving({0: mixed[0]}, {1: slow[1]})


def test_averages_are_over_the_rollouts_that_all_arms_spent() -> None:
    assert average(curve([0.0, 1.0, 1.0]), 100) == pytest.approx(0.5)
    assert average(curve([0.0, 1.0, 1.0]), 150) == pytest.approx(2 / 3)
    assert average(curve([0.25, 0.25]), 0) == 0.25
    rows = summary({"short": {0: curve([0.0, 1.0])}, "long": {0: curve([0.0, 0.2], each=400)}})
    assert rows["short"].average.mean == pytest.approx(0.5)
    assert rows["long"].average.mean == pytest.approx(0.025)
    tie = summary({"a": {0: curve([0.0, 0.2])}, "b": {0: curve([0.0, 0.2])}, "c": {0: curve([0.0, 0.1])}})
    assert ranks({"one": tie, "two": tie}) == {"a": 1.5, "b": 1.5, "c": 3.0}


def test_an_oracle_and_an_arm_that_goes_on_with_another_have_no_rank(tmp_path: Path) -> None:
    arms = {**TINY["arms"], "uniform, longer": {"acquisition": "uniform", "steps": 4}}
    arms["oracle"] = {"dynamics": "Oracle", "oracle_rollouts": 2}
    plan = read_plan(written(tmp_path / "plan.yaml", seeds=[3], arms=arms))
    accuracy = {"uniform": [0.0, 0.1], "more": [0.0, 0.2], "uniform, longer": [0.0, 0.1, 0.9], "oracle": [0.0, 0.8]}
    curves = {"few/prompts": {arm: {3: curve(values)} for arm, values in accuracy.items()}}
    assert write(tmp_path / "results.json", plan, curves)["ranks"] == {"more": 1.0, "uniform": 2.0}


# ----------------------------------------------------------------------------------------------------- the command


@pytest.mark.timeout(900)
def test_it_runs_what_is_missing_and_nothing_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"more": TINY["arms"]["more"]}
    plan, out = written(tmp_path / "plan.yaml", seeds=[3], arms=one, against=["more"]), tmp_path / "out"
    assert main(["bench", str(plan), "--out", str(out), "--table"]) == 2
    assert "expected runs that have ended" in capfd.readouterr().err

    assert main(["bench", str(plan), "--out", str(out)]) == 0
    shown = capfd.readouterr().out
    assert "1 of 1: few/prompts, more, seed 3" in shown
    assert "| more | 1 |" in shown
    whole = json.loads((out / "results.json").read_text(encoding="utf-8"))
    found = whole["curves"]["few/prompts"]["more"]["3"]
    assert found["steps"] == [0, 1, 2]
    assert 8 <= found["rollouts"][-1] <= 16
    assert found["generated"][0] == 0 < found["generated"][1] < found["generated"][2]
    assert whole["savings"]["few/prompts"]["more"]["more"]["share"] == 1
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert not any((out / "curves/runs").iterdir())

    # Another arm is missing now, and cannot be run; the one that has ended is not run again.
    monkeypatch.setattr("sys.executable", script(tmp_path, "echo no such luck >&2; exit 3"))
    more = written(tmp_path / "more.yaml", seeds=[3], arms={**one, "uniform": {}}, against=["more"])
    with pytest.raises(RuntimeError, match=r"few/prompts, uniform, seed 3: the run failed:\nno such luck"):
        main(["bench", str(more), "--out", str(out)])
    assert main(["bench", str(more), "--out", str(out), "--table"]) == 0
    assert "2 runs, of which 1 have ended" in capfd.readouterr().out
    assert json.loads((out / "results.json").read_text(encoding="utf-8"))["curves"] == whole["curves"]


def script(folder: Path, line: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)
