"""Ids in columns are looked up as in a dictionary, take little memory, and travel with a sampler's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro import PromptSampler, RolloutHistory
from dps_pyro.history import names as module
from dps_pyro.history.names import Names, ids_of
from dps_pyro.models import SolvingProgress
from dps_pyro.storage import load_state, save_state

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=30, deadline=None)
@given(strings=st.lists(texts, unique=True, max_size=40), asked=st.lists(texts, max_size=20), data=st.data())
def test_names_are_a_list_and_its_dictionary(strings: list[str], asked: list[str], data: Any) -> None:
    found = Names("ids", strings)
    row = {name: at for at, name in enumerate(strings)}
    assert list(found) == strings
    assert found == strings
    assert found.rows([*strings, *asked]).tolist() == [row.get(name, -1) for name in [*strings, *asked]]
    assert [name in found for name in asked] == [name in row for name in asked]
    for at in range(-len(strings), len(strings)):
        assert found[at] == strings[at]
    first, last = data.draw(st.integers(-9, 9)), data.draw(st.integers(-9, 9))
    assert found[first:last] == strings[first:last]
    assert Names.of_state(found.state_dict()) == found


def test_strings_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hash", len, raising=False)
    strings = [f"{letter}{digit}" for letter in "abc" for digit in "0123456789"] + ["long", "longer"]
    found = Names("ids", strings)
    assert found.rows([*strings, "d0", "none"]).tolist() == [*range(len(strings)), -1, -1]
    with pytest.raises(ValueError, match="ids: expected distinct ids, got 'b3' twice"):
        Names("ids", [*strings, "b3"])


def test_what_is_no_list_of_distinct_strings_is_refused() -> None:
    with pytest.raises(ValueError, match="ids: expected distinct ids, got 'a' twice"):
        Names("ids", ["a", "b", "a"])
    with pytest.raises(ValueError, match=r"ids: expected a number or a list of ids \(strings\), got 3"):
        Names("ids", ["a", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"ids: expected ids \(strings\), got None"):
        Names("ids", pa.array(["a", None]))
    with pytest.raises(ValueError, match="row: expected a whole number"):
        Names("ids", ["a"])[1]
    state = Names("ids", ["a", "bc"]).state_dict()
    with pytest.raises(ValueError, match="ids: expected saved ids, got damaged ones"):
        Names.of_state({**state, "ends": torch.tensor([0, 3, 1])})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 50)


def go(sampler: PromptSampler, steps: range) -> list[list[str]]:
    chosen = []
    for step in steps:
        assert sampler.ids is not None
        names = [sampler.ids[row] for row in sampler.select(7).tolist()]
        sampler.observe(names, [(step + k) % 9 for k in range(7)], 8)
        chosen.append(names)
    return chosen


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("pooled", [True, False])
def test_a_sampler_of_many_ids_is_the_sampler_of_a_list(
    pooled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strings = [f"prompt {k * 7919 % 1000}" for k in range(60)]
    many = PromptSampler(SolvingProgress(), strings, pooled=pooled, seed=1)
    assert isinstance(many.ids, Names)
    assert isinstance(PromptSampler(SolvingProgress(), pa.array(strings)).ids, Names)
    with monkeypatch.context() as patch:
        patch.setattr(module, "MANY", 1000)
        plain = PromptSampler(SolvingProgress(), strings, pooled=pooled, seed=1)
        assert go(plain, range(4)) == go(many, range(4))
        plain.add(["new", "newer"])
    with pytest.raises(ValueError, match="expected new ids, got 'prompt 0', which is there already"):
        many.add(["newest", "prompt 0"])
    with pytest.raises(ValueError, match=r"prompts: expected one of 60 known ids, got 'new'"):
        many.observe(["prompt 0", "new"], [1, 2], 8)
    many.add(["new", "newer"])
    many.retire(["new"])
    plain.retire(["new"])
    save_state(tmp_path, many.state_dict())
    again = PromptSampler(SolvingProgress(), [*strings, "new", "newer"], pooled=pooled)
    again.load_state_dict(load_state(tmp_path))
    assert go(again, range(4, 8)) == go(plain, range(4, 8))
    other = PromptSampler(SolvingProgress(), ["new", *strings, "newer"], pooled=True)
    with pytest.raises(ValueError, match="expected the same prompt ids in the same order"):
        other.load_state_dict(load_state(tmp_path))


@pytest.mark.usefixtures("few")
def test_a_log_of_many_ids_is_kept(tmp_path: Path) -> None:
    strings = [f"p{k}" for k in range(64)]
    log = RolloutHistory(strings)
    log.append(["p5", "p63"], step=0, solved=[1, 2], trials=8)
    again = RolloutHistory.from_parquet(log.to_parquet(tmp_path / "log.parquet"))
    assert isinstance(again.ids, Names)
    assert again.ids == log.ids
    assert again.events.prompt.tolist() == [5, 63]


def test_many_ids_take_a_third_of_the_memory_of_their_dictionary() -> None:
    import sys

    strings = [f"dataset/{k:08d}" for k in range(200_000)]
    found = ids_of("ids", strings)
    assert isinstance(found, Names)
    table = {name: row for row, name in enumerate(strings)}
    plain = sys.getsizeof(strings) + sys.getsizeof(table) + sum(map(sys.getsizeof, strings))
    assert 3 * found.nbytes < plain
    rows = np.random.default_rng(0).integers(0, len(strings), 1000)
    assert found.rows([strings[row] for row in rows]).tolist() == rows.tolist()
