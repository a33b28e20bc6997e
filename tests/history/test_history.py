"""The event log, in memory and in Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import oracle

from dps_pyro import RolloutHistory


def small(prompts: Any = 3) -> RolloutHistory:
    history = RolloutHistory(prompts, num_steps=5)
    history.append([2, 0], step=1, solved=[1, 2.5], trials=[4, 8], predicted=torch.tensor([0.5, 0.25]))
    history.append([1], step=0, solved=[0], trials=8)
    return history


def columns(history: RolloutHistory) -> list[list[float]]:
    return [column.nan_to_num(-1).tolist() for column in history.events]


def test_the_log_keeps_its_order_and_the_rectangles_their_places() -> None:
    history = small()
    assert columns(history)[:5] == [[2, 0, 1], [1, 1, 0], [1, 2.5, 0], [4, 8, 8], [0.5, 0.25, -1]]
    assert columns(history)[5] == [True, True, True]
    assert len(history) == 3
    solved, trials, *_ = history.dense()
    assert trials.tolist() == [[0, 8, 0, 0, 0], [8, 0, 0, 0, 0], [0, 4, 0, 0, 0]]
    assert solved is not None
    assert solved.tolist() == [[0, 2.5, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]


def test_groups_of_one_prompt_at_one_step_add_up() -> None:
    history = small()
    history.append([2], step=1, solved=[2], trials=2)
    solved, trials, *_ = history.dense()
    assert solved is not None
    assert (solved[2, 1], trials[2, 1]) == (3, 6)


def test_rectangles_and_events_are_two_views_of_one_log() -> None:
    solved, trials = oracle.random_groups(4, 6)
    history = RolloutHistory.from_dense(solved, trials)
    assert torch.equal(history.dense().trials, trials)
    assert torch.equal(history.dense().solved, solved.float())
    assert len(history) == int((trials > 0).sum())
    assert torch.equal(RolloutHistory.from_dense(solved, 12).dense().trials, torch.full((4, 6), 12))
    with pytest.raises(ValueError, match=r"expected \[prompts, steps\]"):
        RolloutHistory.from_dense(solved[0], 12)


def test_some_prompts_groups_are_renumbered_in_the_order_asked_for() -> None:
    events = small().rows(torch.tensor([1, 2]))
    assert events.prompt.tolist() == [1, 0]
    assert events.solved.tolist() == [1, 0]


def test_a_schedule_has_the_rollouts_and_not_their_outcomes() -> None:
    history = small(["a", "b", "c"])
    schedule = history.schedule()
    assert schedule.dense().solved is None
    assert bool(schedule.events.solved.isnan().all())
    assert not bool(history.events.solved.isnan().any())
    assert torch.equal(schedule.dense().trials, history.dense().trials)
    assert (schedule.num_steps, schedule.ids) == (5, ["a", "b", "c"])
    history.append([0], step=3, solved=[1], trials=2)
    assert int(schedule.dense().trials[0, 3]) == 0


def test_prompts_can_be_added_where_they_have_no_names() -> None:
    history = small()
    assert history.dense().trials.shape == (3, 5)
    history.add(2)
    assert history.dense().trials.shape == (5, 5)
    with pytest.raises(ValueError, match=r"prompts: expected a number, got \['d'\]"):
        history.add(["d"])
    with pytest.raises(ValueError, match="prompts: expected a whole number of at least 0, got -1"):
        history.add(-1)
    named = small(["a", "b", "c"])
    for wrong, message in ((1, "prompts: expected ids, got 1"), (["d", "a"], "'a' twice")):
        with pytest.raises(ValueError, match=message):
            named.add(wrong)  # type: ignore[arg-type]
    named.add(["d", "e"])
    assert named.ids == ["a", "b", "c", "d", "e"]
    named.append(["e"], step=0, solved=[1], trials=2)
    assert named.dense().trials[:, 0].tolist() == [0, 8, 0, 0, 2]


@pytest.mark.parametrize(
    ("prompts", "num_steps", "message"),
    [
        (["a", "b", "a"], 0, "prompts: expected distinct ids, got 'a' twice"),
        (["a", 1], 0, r"prompts: expected a number or a list of ids \(strings\), got 1"),
        (-1, 0, "prompts: expected a whole number of at least 0, got -1"),
        (2.5, 0, "prompts: .* got 2.5"),
        ("abc", 0, "prompts: .* got 'abc'"),
        (3, -1, "num_steps: .* got -1"),
        (3, 1.5, "num_steps: .* got 1.5"),
    ],
)
def test_sizes_and_ids_are_checked(prompts: Any, num_steps: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RolloutHistory(prompts, num_steps=num_steps)


@pytest.mark.parametrize("kind", [np.int64, torch.tensor])
def test_sizes_may_be_integers_of_any_kind(kind: Any) -> None:
    history = RolloutHistory(kind(3), num_steps=kind(5))
    history.append([0], step=kind(6), solved=[1], trials=kind(2))
    assert (history.num_prompts, history.num_steps) == (3, 7)
    assert type(history.num_prompts) is type(history.num_steps) is int


def test_groups_may_be_recorded_by_id() -> None:
    by_row, by_id = small(["a", "b", "c"]), small(["a", "b", "c"])
    by_row.append([2, 0], step=3, solved=[1, 2], trials=4)
    by_id.append(["c", "a"], step=3, solved=[1, 2], trials=4)
    assert columns(by_row) == columns(by_id)
    with pytest.raises(ValueError, match="prompts: expected one of 3 known ids, got 'd'"):
        by_id.append(["d"], step=3, solved=[1], trials=4)
    with pytest.raises(ValueError, match="prompts: expected rows, as these prompts have no ids, got 'a'"):
        small().append(["a"], step=3, solved=[1], trials=4)


def test_the_log_keeps_copies_of_what_it_is_given() -> None:
    history = RolloutHistory(3)
    rows, solved, chance = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.float64), torch.zeros(2)
    history.append(rows, step=0, solved=solved, trials=torch.tensor([4, 4]), predicted=chance)
    rows += 1
    solved += 1
    chance += 1
    assert columns(history)[:5] == [[0, 1], [0, 0], [0, 0], [4, 4], [0, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [3, 0]}, r"rows in 0\.\.2"),
        ({"prompts": [-1, 0]}, "prompts: expected whole numbers in 0.*, got -1"),
        ({"prompts": [0.5, 1]}, "prompts: expected whole numbers"),
        ({"solved": [9, 0]}, "solved"),
        ({"solved": [-1, 0]}, "solved"),
        ({"solved": [float("nan"), 0]}, "solved"),
        ({"solved": [1]}, "2 prompts, 1 solved"),
        ({"trials": [8, 8, 8]}, "3 trials"),
        ({"trials": [8.5, 8]}, "trials: expected whole numbers"),
        ({"trials": -1}, "solved"),
        ({"step": -1}, "step"),
        ({"predicted": torch.zeros(3)}, "3 predicted"),
    ],
)
def test_groups_out_of_range_are_refused_and_leave_the_log_as_it_was(arguments: dict[str, Any], message: str) -> None:
    history = small()
    before = columns(history)
    with pytest.raises(ValueError, match=message):
        history.append(**{"prompts": [0, 1], "step": 2, "solved": [0, 0], "trials": 8, **arguments})
    assert columns(history) == before
    assert history.num_steps == 5


@pytest.mark.parametrize("prompts", [3, ["a", "β/γ", 'c "d"']])
def test_parquet_gives_back_the_same_log(prompts: Any, tmp_path: Path) -> None:
    history = small(prompts)
    again = RolloutHistory.from_parquet(history.to_parquet(tmp_path / "new" / "history.parquet"))
    assert columns(again) == columns(history)
    assert all(one.dtype == other.dtype for one, other in zip(again.events, history.events, strict=True))
    assert (again.ids, again.num_prompts, again.num_steps) == (history.ids, 3, 5)
    schema = pq.read_schema(tmp_path / "new" / "history.parquet")
    assert [str(schema.field(k).type) for k in range(5)] == ["int32", "int32", "double", "int32", "float"]


def test_an_empty_log_can_be_kept(tmp_path: Path) -> None:
    again = RolloutHistory.from_parquet(RolloutHistory(7).to_parquet(tmp_path / "empty.parquet"))
    assert (len(again), again.num_prompts) == (0, 7)


@pytest.mark.parametrize("kind", [np.int64, np.uint16, np.uint32, np.float32])
def test_plain_parquet_from_elsewhere_is_read(kind: Any, tmp_path: Path) -> None:
    given = {
        "subject": ["algebra", "geometry", "algebra"],
        "solved": np.array([1, 0, 2], kind),
        "prompt": np.array([4, 0, 4], kind),
        "step": np.array([0, 0, 2], kind),
        "trials": np.array([2, 2, 2], kind),
    }
    pq.write_table(pa.table(given), tmp_path / "log.parquet")
    history = RolloutHistory.from_parquet(tmp_path / "log.parquet")
    assert (history.num_prompts, history.num_steps, history.ids) == (5, 3, None)
    assert history.dense().trials[4].tolist() == [2, 0, 2]
    assert bool(history.events.predicted.isnan().all())


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("trials", None, "trials not among prompt, step, solved"),
        ("prompt", [0, -1], "prompts: .* got -1"),
        ("step", [0, -2], "step: expected 0 or more, got -2"),
        ("step", [0, 0.5], "whole numbers in step"),
        ("prompt", [[1], [2]], "columns of numbers"),
        ("prompt", [0, None], "whole numbers in prompt"),
        ("solved", [0, 9], "solved"),
        ("solved", [0, None], "solved"),
    ],
)
def test_parquet_that_is_no_log_is_refused(column: str, values: Any, message: str, tmp_path: Path) -> None:
    given = {"prompt": [0, 0], "step": [0, 1], "solved": [0, 0], "trials": [8, 8], column: values}
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({name: value for name, value in given.items() if value is not None}), path)
    with pytest.raises(ValueError, match=message):
        RolloutHistory.from_parquet(path)


HOSTILE = {
    "a prompt that is an id": (
        {"prompt": [0, 2**31]},
        {},
        "expected numbers below 100,000,000 in prompt, got 2,147,483",
    ),
    "a step that is a time": ({"step": [0, 10**9]}, {}, "expected numbers below 10,000,000 in step, got 1,000,000,000"),
    "groups without end": ({"trials": [8, 2**40]}, {}, "in trials, got 1,099,511,627,776"),
    "times": ({"step": pa.array([0, 1], pa.timestamp("s"))}, {}, r"got step of timestamp"),
    "lists": ({"solved": [[0], [1]]}, {}, "got solved of list<"),
    "no sizes": ({"trials": None}, {}, "trials not among .*the sizes of the groups"),
    "half of JSON": ({}, b"{", "metadata: expected JSON"),
    "a list": ({}, [1], "metadata: expected {name: value}, got list"),
    "deep": ({}, b"[" * 100_000, "metadata: expected JSON"),
    "terabytes": ({}, {"num_prompts": 2**40}, "num_prompts: expected a whole number in 0..100000000"),
    "steps": ({}, {"num_steps": 10**12}, "num_steps: expected a whole number in 0..10000000"),
    "words": ({}, {"num_steps": "7"}, "num_steps: expected a whole number"),
    "fewer": ({}, {"num_prompts": 0}, "expected the 1 prompts of the rows at least, got num_prompts 0"),
    "other ids": ({}, {"ids": ["a", "b"], "num_prompts": 3}, "got num_prompts 3 and 2 ids"),
    "ids that are none": ({}, {"ids": 7}, "ids: expected a list of ids, got 7"),
    "numbers as ids": ({}, {"ids": [1, 2]}, r"ids: expected a number or a list of ids \(strings\), got 1"),
    "features": ({}, {"num_prompts": 2, "features": {"level": [1.0]}}, "features: expected 2 values of 'level'"),
}


@pytest.mark.parametrize(("columns", "about", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_would_take_all_memory_or_means_nothing_is_refused_by_name(
    columns: dict[str, Any], about: Any, message: str, tmp_path: Path
) -> None:
    given = {"prompt": [0, 0], "step": [0, 1], "solved": [0, 0], "trials": [8, 8], **columns}
    table = pa.table({name: value for name, value in given.items() if value is not None})
    metadata = about if isinstance(about, bytes) else json.dumps(about).encode()
    path = tmp_path / "log.parquet"
    pq.write_table(table.replace_schema_metadata({"dps_pyro": metadata}) if about else table, path)
    with pytest.raises(ValueError, match=message) as caught:
        RolloutHistory.from_parquet(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "flip", "other", "empty"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    history = RolloutHistory(500)
    for step in range(20):
        history.append(torch.randperm(500)[:200], step=step, solved=torch.randint(9, [200]), trials=8)
    path = history.to_parquet(tmp_path / "history.parquet")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 3] ^= 1
    path.write_bytes({"cut": content[:-100], "flip": content, "other": b"solved,trials", "empty": b""}[damage])
    with pytest.raises(ValueError, match=f"{path}: expected a whole Parquet file"):
        RolloutHistory.from_parquet(path)


def test_rectangles_that_no_machine_holds_are_refused() -> None:
    history = RolloutHistory(50_000_000, num_steps=5_000_000)
    with pytest.raises(ValueError, match="50,000,000 prompts at 5,000,000 steps would take 3,958,121 GiB"):
        history.dense()
    with pytest.raises(ValueError, match="step: expected at most 9,999,999, got 1,700,000,000: is it an id, or a time"):
        history.append([0], step=1_700_000_000, solved=[1], trials=4)


def test_a_state_goes_back_in_whole() -> None:
    history, other = small(), RolloutHistory(3)
    other.load_state_dict(history.state_dict())
    assert columns(other) == columns(history)
    assert other.num_steps == 5
    broken = {name: value for name, value in history.state_dict().items() if name != "num_steps"}
    fresh = RolloutHistory(3)
    with pytest.raises(ValueError, match="got one without num_steps"):
        fresh.load_state_dict(broken)
    assert len(fresh) == 0
