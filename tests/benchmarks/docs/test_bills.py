"""The share of a bill that is saved: exact on curves made by hand, and open where an accuracy is not reached."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.docs import bills
from benchmarks.docs.bills import Arm, Ratio, ratios
from dps_pyro.trainers.bench.curves import Curve

STEPS = 4


def _arm(
    heights: list[list[float]], *, length: float, useful: float, group_size: int = 8, batch: int = 2, full: bool = False
) -> Arm:
    """Runs of 4 steps, evaluated before and after each: `batch` groups per step, completions of `length` tokens."""
    rollouts = [step * batch * group_size for step in range(STEPS + 1)]
    shares = [useful] * STEPS
    trained = STEPS * batch if full else round(sum(shares) * batch)
    runs = {
        str(seed): Curve(
            list(range(STEPS + 1)), rollouts, [length * number for number in rollouts], accuracy, shares, shares,
            [1.0] * STEPS, trained, 0.0,
        )
        for seed, accuracy in enumerate(heights)
    }  # fmt: skip
    return Arm(runs, group_size, full)


SLOW = [[0.0, 0.1, 0.2, 0.3, 0.4]] * 3
FAST = [[0.0, 0.2, 0.4, 0.5, 0.5]] * 3


def test_the_bill_is_that_of_tokens_and_of_completions_trained_on() -> None:
    uniform = _arm(SLOW, length=2.0, useful=0.5)
    own = _arm(FAST, length=3.0, useful=1.0, group_size=4, batch=4)
    # 0.4 is had after 2 of 4 steps of 16 rollouts: 96 of 128 tokens, and 2 * 4 * 4 of 4 * 1 * 8 completions.
    found = ratios(own, uniform, (0.0, 0.5, 1.0), draws=50)
    assert [one.mean for one in found] == pytest.approx([1.0, 0.875, 0.75])
    for one in found:  # all seeds are alike
        assert one.low == pytest.approx(one.mean) == pytest.approx(one.high)


def test_dynamic_sampling_learns_from_a_whole_batch_in_every_step() -> None:
    dynamic = _arm(SLOW, length=2.0, useful=0.25, full=True)
    own = _arm(FAST, length=2.0, useful=0.5)
    assert ratios(own, dynamic, (0.0,), draws=10)[0].mean == pytest.approx(2 * 0.5 * 2 / (4 * 2))


def test_groups_of_one_learn_from_every_completion() -> None:
    uniform = _arm(SLOW, length=2.0, useful=0.5)  # 4 * 8 completions trained on, of 64
    single = _arm(FAST, length=2.0, useful=0.0, group_size=1, batch=16)
    single = single._replace(runs={seed: run._replace(trained=64) for seed, run in single.runs.items()})
    # 0.4 is had after 2 of 4 steps of 16 rollouts.
    assert ratios(single, uniform, (0.0,), draws=10)[0].mean == pytest.approx(32 / 32)


def test_a_bill_is_open_where_the_accuracy_is_not_reached() -> None:
    uniform = _arm(SLOW, length=2.0, useful=0.5)
    never = _arm([[0.0, 0.1, 0.1, 0.1, 0.1]] * 3, length=2.0, useful=0.5)
    assert ratios(never, uniform, (0.5,), draws=10)[0] == Ratio(math.inf, math.inf, math.inf)
    assert ratios(never, uniform, (0.5,), draws=10)[0].saved == "not reached"
    assert ratios(never, uniform, (0.0,), draws=10)[0].mean == math.inf
    some = _arm([*FAST[:2], [0.0, 0.1, 0.2, 0.3, 0.3]], length=2.0, useful=0.5)
    found = ratios(some, uniform, (0.5,), draws=400)[0]
    assert math.isfinite(found.mean) and math.isfinite(found.low) and math.isinf(found.high)
    assert "not certain" in found.saved


@given(st.integers(1, 8), st.floats(0.0, 1.0), st.floats(0.1, 10.0))
def test_nothing_is_saved_against_oneself(size: int, share: float, length: float) -> None:
    arm = _arm(SLOW, length=length, useful=0.5, group_size=size)
    assert ratios(arm, arm, (share,), draws=5)[0].mean == pytest.approx(1.0)


def test_the_money_follows_from_the_assumptions() -> None:
    lab = bills.Lab("tiny", gpus=2, gpu_hour=3.0, rollouts=3600, tokens=100, speed=50.0)  # two GPU-hours of generation
    settings = {name: {"group_size": 8} for name in (bills.THINNED, "uniform")}
    arms = {"uniform": _arm(SLOW, length=2.0, useful=0.5), bills.THINNED: _arm(FAST, length=2.0, useful=0.5)}
    curves = {name: {seed: run._asdict() for seed, run in arm.runs.items()} for name, arm in arms.items()}
    result: dict[str, Any] = {"settings": {"planning": settings}, "curves": {"planning": curves}}
    lines = bills.bill(result, [lab]).splitlines()
    assert "| tiny | 50% | 4 | $12 | $6 | $6 ($6 to $6) |" in lines
    assert "1.0 hours of generation" in lines[-1]


def test_every_testbed_has_its_rows_and_what_is_not_reached_is_said() -> None:
    uniform = _arm(SLOW, length=2.0, useful=0.5)
    arms = {"uniform": uniform, bills.OURS: _arm([[0.0, 0.0, 0.0, 0.0, 0.1]] * 3, length=2.0, useful=0.5)}
    arms["dynamic sampling"] = _arm([[0.0] * 5] * 3, length=2.0, useful=0.5, full=True)  # it ends where it starts
    settings: dict[str, Any] = {name: {"group_size": 8} for name in arms}
    settings["dynamic sampling"]["dynamic_sampling"] = 0
    curves = {name: {seed: run._asdict() for seed, run in arm.runs.items()} for name, arm in arms.items()}
    told = {"machine": "a machine", "date": "a day"}
    result = {"settings": {"flat": settings}, "curves": {"flat": curves}, **told}
    rows = bills.shares([result]).splitlines()[2:4]
    assert rows[0] == "| flat | uniform | 1 |" + " not reached |" * 5
    assert rows[1] == "| flat | dynamic sampling | 1 |" + " 100% |" * 3 + " 0% (0% to 0%) |" * 2


def test_where_nothing_is_gained_the_table_says_so() -> None:
    def arm(accuracy: list[float], rollouts: list[int]) -> dict[str, Any]:
        return {"accuracy": [accuracy] * 2, "rollouts_by_step": [rollouts] * 2}

    result = {
        "arms": {
            "uniform": arm([0.0, 0.2, 0.4], [0, 10, 20]),
            "dear": arm([0.0, 0.2, 0.4], [0, 20, 40]),
            "flat": arm([0.0, 0.1, 0.2], [0, 10, 20]),
        },
        "seeds": [0, 1], "configuration": {"batch_size": 32, "group_size": 8}, "machine": "a machine", "date": "a day",
    }  # fmt: skip
    lines = bills.nothing(result).splitlines()
    assert lines[2:5] == [
        "| uniform | 100% |", "| dear | 200% (200% to 200%) |", "| flat | not reached (∞ to ∞) |",
    ]  # fmt: skip
