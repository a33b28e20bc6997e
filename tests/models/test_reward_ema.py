"""The moving averages, and the law of success rates that they are read as."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs.tiny import metrics, tiny
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro import PromptSampler, track
from dps_pyro.models import RewardEMA
from dps_pyro.tracking.predictor import Predictor
from dps_pyro.tracking.tracker import is_fitted
from dps_pyro.trainers.grpo import train

GROUP = st.sampled_from([1, 2, 8, 16]).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
VISITS = st.lists(st.dictionaries(st.integers(0, 3), GROUP), min_size=1, max_size=12)
STARTS = st.sampled_from([(0.5, 0.25), (0.5, 1 / 6), (0.2, 0.01)])


def averages(groups: list[tuple[float, int]], decay: float, start: tuple[float, float]) -> tuple[float, float]:
    """Mean and variance after one prompt's groups: as weighted sums over all of them, the start as the first."""
    rewards = [k / n for k, n in groups]
    means, variances = [start[0], *rewards], [start[1], *(m * (1 - m) for m in rewards)]
    weights = [1.0]
    for seen in range(len(groups)):
        gain = max(1 - decay, 1 / (seen + 2))
        weights = [weight * (1 - gain) for weight in weights] + [gain]
    mean, variance = (
        sum(weight * value for weight, value in zip(weights, values, strict=True)) for values in (means, variances)
    )
    return mean, variance


def state(sampler: PromptSampler) -> dict[str, Any]:
    filtered: dict[str, Any] = sampler.tracker.state_dict()["filter"]
    return filtered


@given(VISITS, st.sampled_from([0.7, 0.5, 1.0, 0.0]), STARTS)
def test_the_averages_are_weighted_sums_over_a_prompts_groups(visits: Any, decay: float, start: Any) -> None:
    sampler = PromptSampler(RewardEMA(decay, start), 4, dtype=torch.float64)
    for groups in visits:
        sampler.observe(list(groups), [k for k, _ in groups.values()], [n for _, n in groups.values()])
    each = [[groups[row] for groups in visits if row in groups] for row in range(4)]
    expected = [averages(groups, decay, start) for groups in each]
    np.testing.assert_allclose(state(sampler)["mean"], [mean for mean, _ in expected], atol=1e-12)
    np.testing.assert_allclose(state(sampler)["variance"], [variance for _, variance in expected], atol=1e-12)
    assert state(sampler)["seen"].tolist() == list(map(len, each))


def test_by_hand_the_start_counts_as_one_group() -> None:
    sampler = PromptSampler(RewardEMA(0.6, (0.5, 0.25)), 2, dtype=torch.float64)
    assert sampler.informative(8).tolist() == [1 - 2 * 0.5**8] * 2
    for solved, mean, variance in (
        (0, 0.25, 0.125),  # a half of each
        (8, 0.25 * 0.6 + 0.4, 0.125 * 0.6),  # 0.4 is more than a third
    ):
        sampler.observe([0], [solved], 8)
        sampler.observe([], [], 8)  # time alone changes nothing
        assert float(state(sampler)["mean"][0]) == pytest.approx(mean)
        assert float(state(sampler)["variance"][0]) == pytest.approx(variance)
    assert state(sampler)["mean"][1] == 0.5


@given(VISITS, st.sampled_from([0.7, 1.0]), STARTS)
def test_one_law_has_the_averages_and_makes_all_predictions(visits: Any, decay: float, start: Any) -> None:
    tracker = track(RewardEMA(decay, start, trials=4), 4, dtype=torch.float64)
    for groups in visits:
        rows = torch.tensor(list(groups), dtype=torch.long)
        solved = torch.tensor([k for k, _ in groups.values()], dtype=torch.float64)
        tracker.observe(rows, solved, torch.tensor([n for _, n in groups.values()], dtype=torch.long))
    filtered, rows = tracker.state_dict()["filter"], torch.arange(4)
    belief, chances = tracker.belief, {n: tracker.informative(n) for n in (1, 2, 4, 7)}
    saved = tracker.state_dict()
    for n, chance in chances.items():
        law = []
        for k in range(n + 1):
            law.append(tracker.observe(rows, torch.full([4], float(k)), torch.full([4], n)).exp())
            tracker.load_state_dict(saved)
        shares = torch.stack(law, -1)
        torch.testing.assert_close(shares.sum(-1), torch.ones(4, dtype=torch.float64))
        torch.testing.assert_close(chance, shares[:, 1:n].sum(-1), atol=1e-9, rtol=0)
        if n == 1:
            torch.testing.assert_close(shares[:, 1], filtered["mean"], atol=1.1e-3, rtol=0)
        if n == 2:
            torch.testing.assert_close(shares[:, 1], 2 * filtered["variance"].clamp_min(0.000999))
        if n == 4:
            expected = torch.stack([shares[:, 0], shares[:, 1:4].sum(-1), shares[:, 4]], -1)
            torch.testing.assert_close(belief, expected, atol=1e-9, rtol=0)


def test_by_turns_all_wrong_and_all_right_is_not_half_right() -> None:
    """The mean is one half in both, the variance tells them apart."""
    sampler = PromptSampler(RewardEMA(decay=0.95), 2, trials=8)
    for t in range(120):
        sampler.observe([0, 1], [8 * (t % 2), 4], 8)
    assert state(sampler)["mean"].tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert sampler.informative(8)[0] < 0.02
    assert sampler.informative(8)[1] > 0.98
    torch.testing.assert_close(sampler.belief[0], torch.tensor([0.5, 0.0, 0.5]), atol=0.03, rtol=0)


def test_nothing_is_held_impossible_however_long_it_did_not_happen() -> None:
    sampler = PromptSampler(RewardEMA(decay=0.0), 2)
    for _ in range(3):
        sampler.observe([0, 1], [0, 16], 16)
    sampler.observe([0, 1], [16, 0], 16)
    assert sampler.metrics()["impossible"] == 0
    assert sampler.metrics()["log_evidence"] == pytest.approx(16 * math.log(0.001))


def test_draws_have_the_average_mean_and_are_the_generators() -> None:
    tracker = track(RewardEMA(), 4000)
    for solved in (1.0, 7.0, 8.0):
        tracker.observe(torch.arange(4000), torch.full([4000], solved), torch.full([4000], 8))
    before = torch.get_rng_state()
    one, other = (tracker.draw(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one, tracker.draw(torch.Generator().manual_seed(4)))
    filtered = tracker.state_dict()["filter"]
    low, high = one.unique().tolist()
    assert low * (1 - low) == pytest.approx(float(filtered["variance"][0]), abs=1e-6)
    assert low + high == pytest.approx(1)
    assert float(one.mean()) == pytest.approx(float(filtered["mean"][0]), abs=0.02)


@pytest.mark.parametrize("acquisition", ["top", "target"])
def test_top_and_target_take_the_largest_variances(acquisition: str) -> None:
    sampler = PromptSampler(RewardEMA(), 27, acquisition=acquisition)
    for _ in range(3):
        sampler.observe(range(27), np.arange(27) % 9, 8)
    assert set((sampler.select(9) % 9).tolist()) == {3, 4, 5}


def test_rewards_may_add_up_to_fractions() -> None:
    sampler = PromptSampler(RewardEMA(decay=0.0), 1, dtype=torch.float64)
    sampler.observe([0], [2.5], 10)
    assert float(state(sampler)["variance"][0]) == pytest.approx(0.25 * 0.75)
    assert np.isfinite(sampler.metrics()["log_evidence"])


def test_it_is_a_predictor_that_nothing_is_fitted_to() -> None:
    model = RewardEMA()
    assert isinstance(model, Predictor)
    assert not is_fitted(model)
    with pytest.raises(ValueError, match="values: expected none, as RewardEMA averages online"):
        track(model, 3, values={"start": torch.ones(2)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.1}, r"decay: expected a number in \[0, 1\], got 1.1"),
        ({"decay": -0.1}, "decay"),
        ({"decay": "x"}, "decay: expected a number, got 'x'"),
        ({"start": 0.5}, r"start: expected a mean, and a variance above 0 of at most mean \(1 - mean\), got 0.5"),
        ({"start": (0.5, 0)}, "start: .* got"),
        ({"start": (0.5, 0.26)}, "start: .* got"),
        ({"start": (1.5, 0.1)}, "start: .* got"),
        ({"start": (0.5, float("nan"))}, "start: .* got"),
        ({"start": "x"}, "start: expected numbers, got 'x'"),
        ({"trials": 0}, "trials: .* got 0"),
        ({"trials": 2.5}, "trials: .* got 2.5"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardEMA(**arguments)


@pytest.mark.usefixtures("undrawn")
def test_a_run_from_start_to_report_and_on(tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    chosen: dict[str, Any] = {"dynamics": "RewardEMA", "dynamics_args": {"trials": 4}, "acquisition": "soft"}
    summary = train(tiny(straight, **chosen, steps=3, report=True))
    assert summary["model"] == "RewardEMA"
    assert not (straight / "posterior").exists()  # there is nothing to fit
    page = (straight / "report.html").read_text(encoding="utf-8")
    assert "RewardEMA predicted which prompts were worth a rollout; soft chose among them." in page
    train(tiny(stopped, **chosen, steps=1))
    train(tiny(stopped, **chosen, steps=3, resume=True))
    lines = [[line for line in metrics(run) if line["kind"] == "train"] for run in (straight, stopped)]
    assert lines[0] == lines[1]
    assert (straight / "history.parquet").read_bytes() == (stopped / "history.parquet").read_bytes()
