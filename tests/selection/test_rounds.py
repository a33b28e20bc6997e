"""How many candidates a round of dynamic sampling has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro.selection import completing


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 20))
def test_a_round_is_as_large_as_it_can_be_without_more_groups_than_are_missing(
    given: list[float], missing: int
) -> None:
    chances = torch.tensor(given, dtype=torch.float64)
    count = completing(chances, missing)
    expected = chances.cumsum(0)
    assert 1 <= count <= len(chances)
    assert count == 1 or expected[count - 1] <= missing
    assert count == len(chances) or expected[count] > missing
    assert count >= min(missing, len(chances))  # no chance is above 1


def test_rounds_of_calibrated_chances_waste_few_useful_groups() -> None:
    """Simulated: whole batches of 8 waste twice as many."""
    generator = torch.Generator().manual_seed(0)
    wasted = {"missing": 0, "batch": 0}
    for _ in range(300):
        chances = torch.rand(400, generator=generator) * 0.8
        useful = torch.rand(400, generator=generator) < chances
        for way in wasted:
            done, missing = 0, 8
            while missing > 0:
                count = completing(chances[done:], missing) if way == "missing" else 8
                missing -= int(useful[done : done + count].sum())
                done += count
            wasted[way] -= missing
    assert wasted["missing"] / 300 < 0.8
    assert wasted["batch"] > 1.8 * wasted["missing"]


def test_there_have_to_be_candidates_and_missing_groups() -> None:
    with pytest.raises(ValueError, match=r"chances: expected shape \[candidates\] with at least one, got \[0\]"):
        completing(torch.zeros(0), 1)
    with pytest.raises(ValueError, match="missing: expected at least 1, got 0"):
        completing(torch.ones(3), 0)
