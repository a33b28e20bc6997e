"""Acquisitions by signal, by progress, under coverage, and without what is mastered."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro import PromptSampler
from dps_pyro.dynamics.step import Step
from dps_pyro.models import BetaBernoulli, LogitWalk, Trained
from dps_pyro.selection.acquisition import Forecast, by_variance, covering, soft, thompson, top
from dps_pyro.selection.signal import Signal
from dps_pyro.selection.worth import by_progress, by_signal, retiring
from dps_pyro.tracking.tracker import Tracker


def forecast(chances: list[float]) -> Forecast:
    chance = torch.tensor(chances, dtype=torch.float64)
    return Forecast(torch.zeros(len(chances), 3), chance, torch.zeros(len(chances), dtype=torch.long), lambda _: chance)


def perplexity(logs: torch.Tensor, sharpness: float) -> float:
    return math.exp(float(torch.special.entr((sharpness * logs).softmax(0)).sum()))


@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=30), st.floats(0.1, 0.9))
@settings(deadline=None, max_examples=30)
def test_the_sharpness_is_the_largest_that_keeps_the_coverage(chances: list[float], share: float) -> None:
    known = forecast(chances)
    found = covering(share)(known, torch.Generator().manual_seed(0))
    # The scores are those of `soft` at some sharpness: read it off the same noise.
    logs = known.informative.log()
    noise = soft(0.0)(known, torch.Generator().manual_seed(0))
    differ = logs.abs() > 1e-9
    if not bool(differ.any()):
        torch.testing.assert_close(found, noise)
        return
    sharpness = float(((found - noise)[differ] / logs[differ]).mean())
    wanted = share * len(chances)
    assert perplexity(logs, sharpness) >= wanted * (1 - 1e-6)
    if sharpness < 63.99:
        assert perplexity(logs, sharpness + 1e-3) <= wanted * (1 + 1e-6)


def test_equal_chances_are_covered_whole() -> None:
    """At any sharpness: nothing narrows, and full coverage of unequal chances is uniform."""
    even = forecast([0.3] * 5)
    assert torch.isfinite(covering(1.0)(even, torch.Generator().manual_seed(0))).all()
    uneven = forecast([0.1, 0.5, 0.9])
    found = covering(1.0)(uneven, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, soft(0.0)(uneven, torch.Generator().manual_seed(3)), atol=1e-2, rtol=0)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="covering"):
            covering(share)


def test_the_signal_of_grpo_is_the_chance_of_a_useful_group() -> None:
    plain, by = (
        PromptSampler(LogitWalk(), 30, acquisition=acquire, seed=4, trials=6)
        for acquire in (thompson, by_signal(thompson, Signal("grpo")))
    )
    for _ in range(4):
        rows = plain.select(5)
        assert torch.equal(rows.sort().values, by.select(5).sort().values)
        for sampler in (plain, by):
            sampler.observe(rows, rows % 7, 6)


def test_the_variance_is_the_signal_of_dr_grpo() -> None:
    """Whatever the group size, up to a factor, which a soft choice does not see."""
    plain, by = (
        PromptSampler(LogitWalk(), 30, acquisition=acquire, seed=4, trials=6, dtype=torch.float64)
        for acquire in (by_variance(soft(2.0)), by_signal(soft(2.0), Signal("dr_grpo")))
    )
    for _ in range(4):
        rows = plain.select(5)
        assert torch.equal(rows, by.select(5))
        for sampler in (plain, by):
            sampler.observe(rows, rows % 7, 6)
    rate = plain.tracker.rates().of(torch.arange(30))
    torch.testing.assert_close(plain.informative(2) / 2, rate.sequence(1, 0) - rate.sequence(2, 0))


def test_the_signal_over_the_beliefs_baseline_is_there_in_groups_of_one() -> None:
    """Where the chance of a useful group is 0 for all."""
    tracked = by_signal(top, Signal(tracked=True))
    sampler = PromptSampler(BetaBernoulli(), 3, acquisition=tracked, trials=1, dtype=torch.float64)
    sampler.observe([0, 1, 2], [8, 4, 0], 8)
    assert (sampler.informative(1) == 0).all()
    assert sampler.select(1).tolist() == [1]  # the even one


def test_progress_is_that_of_the_dynamics_by_hand() -> None:
    model = Trained()
    point = {
        "gaps": torch.tensor([0.05, 0.45, 0.45, 0.05]),
        "initial": torch.tensor([0.3, 0.4, 0.3]),
        "up": torch.tensor([-3.0, -3.0]),
        "down": torch.tensor([-4.0, -4.0]),
        "trained": torch.tensor([2.0, -1.0]),
        "slope": torch.zeros(2),
    }
    tracker = Tracker(model, 3, values=point, dtype=torch.float64)
    tracker.observe(torch.tensor([0, 1]), torch.tensor([0.0, 8.0]), torch.tensor([8, 8]))
    found = tracker.progress(8)
    theta = model.parameters(3, point)
    rates = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    moves = {
        flag: model.transition(theta, Step(torch.tensor([0]), torch.tensor([flag]))).probs.double().reshape(3, 3)
        for flag in (True, False)
    }
    for row in range(3):
        expected = sum(
            float(tracker.belief[row, k])
            * float(1 - rates[k] ** 8 - (1 - rates[k]) ** 8)
            * float((moves[True][k] - moves[False][k]) @ rates)
            for k in range(3)
        )
        assert found[row].item() == pytest.approx(expected, rel=1e-5)
    assert (found > 0).all()


def test_progress_chooses_what_training_moves() -> None:
    sampler = PromptSampler(Trained(), 3, acquisition=by_progress(top), trials=8)
    assert len(sampler.select(2)) == 2
    beta = PromptSampler(BetaBernoulli(), 3, acquisition=by_progress(top))
    with pytest.raises(ValueError, match="dynamics"):
        beta.select(1)


def test_mastered_prompts_rest_until_the_belief_has_moved() -> None:
    forgetful = LogitWalk(resting=(8.0, 40.0, 1.0), leave=((1.0, 12.0), (8.0, 2.0)))
    sampler = PromptSampler(forgetful, 6, acquisition=retiring(thompson, 0.7), trials=4, seed=0)
    for _ in range(3):
        sampler.observe([0, 1], [4, 4], 4)
    assert (sampler.tracker.rates().sequence(4, 0)[:2] > 0.7).all()
    for _ in range(20):
        assert not {0, 1} & set(sampler.select(4).tolist())
    assert set(sampler.select(5).tolist()) > {2, 3, 4, 5}  # where more are wanted, they follow
    for _ in range(200):
        sampler.observe([5], [2], 4)  # they rest, and their beliefs move on
    assert (sampler.tracker.rates().sequence(4, 0)[:2] < 0.7).all()
    drawn = {row for _ in range(40) for row in sampler.select(3).tolist()}
    assert {0, 1} & drawn
    with pytest.raises(ValueError, match="retire"):
        retiring(top, 1.0)


def test_a_prompt_that_was_never_rolled_out_is_not_mastered() -> None:
    sampler = PromptSampler(LogitWalk(), 6, acquisition=retiring(thompson, 0.001), trials=4, seed=0)
    assert (sampler.tracker.rates().sequence(4, 0) > 0.001).all()  # the prior alone is above the bound
    sampler.observe([0, 1], [4, 4], 4)
    for _ in range(10):
        assert set(sampler.select(4).tolist()) == {2, 3, 4, 5}


def test_they_need_to_know_the_tracker() -> None:
    for acquire in (by_signal(top), by_progress(top), retiring(top, 0.9)):
        with pytest.raises(ValueError, match="tracker"):
            acquire(forecast([0.1, 0.2]), torch.Generator())
