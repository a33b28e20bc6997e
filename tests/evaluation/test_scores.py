"""Scores against the schoolbook, and what makes them scores."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro.evaluation.scores import CLAMP, brier_score, calibration, log_score, quality

CHANCE = st.floats(0, 1) | st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 1.0])
PAIRS = st.lists(st.tuples(CHANCE, st.booleans()), min_size=1, max_size=60)


def columns(pairs: list[tuple[float, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    chance, happened = zip(*pairs, strict=True)
    return torch.tensor(chance, dtype=torch.float64), torch.tensor(happened)


@given(PAIRS)
def test_scores_are_the_schoolbook_s(pairs: list[tuple[float, bool]]) -> None:
    chance, happened = columns(pairs)
    kept = [(min(max(p, CLAMP), 1 - CLAMP), came) for p, came in pairs]
    logs = [math.log(p if came else 1 - p) for p, came in kept]
    assert log_score(chance, happened).tolist() == pytest.approx(logs)
    assert brier_score(chance, happened).tolist() == pytest.approx([(p - came) ** 2 for p, came in pairs])
    found = quality(chance, happened)
    assert found.size == len(pairs)
    assert found.log_score == pytest.approx(sum(logs) / len(logs))
    assert found.happened == pytest.approx(sum(came for _, came in pairs) / len(pairs))


@given(PAIRS, st.integers(1, 20))
def test_the_calibration_error_is_the_binned_distance(pairs: list[tuple[float, bool]], bins: int) -> None:
    by_bin: dict[int, list[tuple[float, bool]]] = {}
    for p, came in pairs:
        by_bin.setdefault(min(int(p * bins), bins - 1), []).append((p, came))
    distance = sum(abs(sum(p for p, _ in one) - sum(came for _, came in one)) for one in by_bin.values())
    found = calibration(*columns(pairs), bins)
    assert found.error == pytest.approx(distance / len(pairs), abs=1e-12)
    assert found.size.tolist() == [len(by_bin[place]) for place in sorted(by_bin)]
    assert (found.predicted.diff() > 0).all()


@given(PAIRS, st.integers(1, 12))
def test_bins_of_equal_count_keep_equal_chances_together(pairs: list[tuple[float, bool]], bins: int) -> None:
    chance, happened = columns(pairs)
    found = calibration(chance, happened, bins, "count")
    assert int(found.size.sum()) == len(pairs)
    assert len(found.size) <= bins
    # Bins are ranges: together they are the sorted chances, cut only where these rise.
    parts = chance.sort().values.split(found.size.tolist())
    assert all(before[-1] < after[0] for before, after in itertools.pairwise(parts))
    assert torch.stack([part.mean() for part in parts]).tolist() == pytest.approx(found.predicted.tolist())


def test_distinct_chances_fill_the_bins_evenly() -> None:
    chance = torch.rand(1003, dtype=torch.float64)
    sizes = calibration(chance, chance > 2, 10, "count").size
    assert len(sizes) == 10
    assert set(sizes.tolist()) == {100, 101}


@settings(max_examples=30)
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_nothing_scores_better_than_the_truth(truth: float, said: float) -> None:
    def expected(chance: float, score: object) -> float:
        both = torch.tensor([chance, chance], dtype=torch.float64)
        right, wrong = score(both, torch.tensor([True, False])).tolist()  # type: ignore[operator]
        return float(truth * right + (1 - truth) * wrong)

    assert expected(truth, log_score) >= expected(said, log_score) - 1e-12
    assert expected(truth, brier_score) <= expected(said, brier_score) + 1e-12


def test_a_calibrated_forecast_has_next_to_no_error_and_a_bold_one_has() -> None:
    chance = torch.rand(200_000, dtype=torch.float64)
    happened = torch.rand(200_000, dtype=torch.float64) < chance
    found = quality(chance, happened)
    assert found.ece < 0.01 > found.ece_deciles
    bold = quality((chance > 0.5).double(), happened)
    assert bold.ece == pytest.approx(0.25, abs=0.01)
    assert bold.log_score < -3 < found.log_score


def test_forecasts_may_be_views_of_one_number() -> None:
    constant = torch.tensor([[0.25], [0.75]]).expand(2, 4)
    found = quality(constant, torch.tensor([[True, False, False, False], [True, True, True, False]]))
    assert found.ece == found.ece_deciles == 0


def test_a_certainty_that_fails_costs_a_finite_price() -> None:
    assert log_score(torch.tensor([0.0, 1.0]), torch.tensor([True, False])).tolist() == pytest.approx(
        [math.log(CLAMP)] * 2
    )


def test_of_nothing_there_is_no_score() -> None:
    found = quality(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert found.size == 0
    assert all(math.isnan(value) for value in found[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bins": 0}, "bins: expected a whole number of at least 1, got 0"),
        ({"equal": "size"}, "equal: expected 'width' or 'count', got 'size'"),
        ({"happened": torch.ones(2, dtype=torch.bool)}, r"happened: expected shape \(3,\), got \(2,\)"),
        ({"chance": torch.tensor([0.1, 0.2, float("nan")])}, "chance: expected probabilities"),
        ({"chance": torch.tensor([0.1, 0.2, 1.2])}, "chance: expected probabilities"),
    ],
)
def test_what_is_no_forecast_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"chance": torch.tensor([0.1, 0.2, 0.3]), "happened": torch.ones(3, dtype=torch.bool)} | change
    with pytest.raises(ValueError, match=message):
        calibration(**arguments)  # type: ignore[arg-type]
