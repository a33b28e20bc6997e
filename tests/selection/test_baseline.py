"""The Bayesian leave-one-out baseline, against enumeration of states and outcomes."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.oracle import binomial
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro import Dynamics, PromptSampler
from dps_pyro.models import BetaBernoulli, DenseReward, Hierarchical, LogitWalk, PaperDPS, SolvingProgress
from dps_pyro.tracking.predictor import Predictor
from dps_pyro.tracking.rates import Mixture

NAN = float("nan")


@pytest.mark.parametrize("model", [SolvingProgress(), LogitWalk(rungs=7), Hierarchical()])
def test_it_is_the_posterior_mean_given_the_others(model: Dynamics) -> None:
    """By Bayes' rule over the states, with the schoolbook binomial, after a history."""
    sampler = PromptSampler(model, 5, dtype=torch.float64)
    for solved in ([2, 0, 4], [1, 0, 4], [3, 1, 4]):
        sampler.observe([0, 1, 2], solved, 4)
    rates = sampler.tracker.rates()
    assert isinstance(rates, Mixture)
    rewards = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, NAN, NAN], [1, NAN, NAN, NAN]])
    found = sampler.baseline([0, 1, 2, 3, 4], rewards)
    assert torch.equal(found.isnan(), rewards.isnan())
    for group, place in (~rewards.isnan()).nonzero().tolist():
        others = [r for j, r in enumerate(rewards[group].tolist()) if j != place and r == r]
        values = rates.values[0 if len(rates.values) == 1 else group].numpy()
        weights = rates.weights[group].numpy() * binomial(sum(others), len(others), values)
        assert found[group, place].item() == pytest.approx((weights * values).sum() / weights.sum(), rel=1e-5)


@pytest.mark.parametrize("model", [SolvingProgress(), LogitWalk(), BetaBernoulli()])
def test_it_is_the_ratio_of_the_chances_of_sequences(model: Dynamics | Predictor) -> None:
    """b(s, m) = P(s + 1 of m + 1) / P(s of m), per sequence."""
    sampler = PromptSampler(model, 2, dtype=torch.float64)
    sampler.observe([0], [3], 8)
    law = sampler.tracker.rates()
    for outcomes in itertools.product((0.0, 1.0), repeat=3):
        found = sampler.baseline([0], torch.tensor([outcomes]))[0]
        for place in range(3):
            s = int(sum(outcomes) - outcomes[place])
            expected = law.sequence(s + 1, 2 - s)[0] / law.sequence(s, 2 - s)[0]
            assert found[place].item() == pytest.approx(expected.item(), rel=1e-4)


@given(st.integers(0, 7))
@settings(deadline=None)
def test_a_flat_prior_is_rloo_drawn_to_one_half(solved: int) -> None:
    sampler = PromptSampler(BetaBernoulli(prior=(1, 1)), 1, dtype=torch.float64)
    rewards = torch.tensor([[1.0] * solved + [0.0] * (8 - solved)])
    others = rewards.sum() - rewards
    torch.testing.assert_close(sampler.baseline([0], rewards), ((others + 1) / 9).double())
    # A prior of no weight is RLOO itself, where both outcomes are among the others.
    faint = PromptSampler(BetaBernoulli(prior=(1e-9, 1e-9)), 1, dtype=torch.float64)
    torch.testing.assert_close(faint.baseline([0], rewards), (others / 7).double(), atol=1e-6, rtol=0)


def test_a_group_of_one_is_compared_with_the_tracked_value() -> None:
    sampler = PromptSampler(BetaBernoulli(prior=(1, 1), decay=1.0), 2, dtype=torch.float64)
    sampler.observe([0], [6], 8)
    assert sampler.baseline([0, 1], torch.tensor([[1.0], [0.0]]))[:, 0].tolist() == pytest.approx([7 / 10, 1 / 2])


def test_advantages_average_out_under_the_model() -> None:
    """E[(r - b)] = 0 over the predictive distribution of every group: the baseline expects what the model expects."""
    sampler = PromptSampler(LogitWalk(), 1, dtype=torch.float64)
    sampler.observe([0], [1], 4)
    law = sampler.tracker.rates()
    for size in (1, 3):
        total = 0.0
        for outcomes in itertools.product((0.0, 1.0), repeat=size):
            rewards = torch.tensor([outcomes], dtype=torch.float64)
            s = int(sum(outcomes))
            total += law.sequence(s, size - s).item() * (rewards - sampler.baseline([0], rewards))[0, 0].item()
        assert total == pytest.approx(0, abs=1e-5)


def test_graded_rewards_and_observed_states_have_one_too() -> None:
    """Where the emission is no Binomial it is the emission itself that weighs the others."""
    dense = PromptSampler(DenseReward(), 2, dtype=torch.float64)
    low, high = (dense.baseline([0], torch.tensor([[0.5, r, r, r]]))[0, 0].item() for r in (0.1, 0.9))
    alone = dense.baseline([0], torch.tensor([[0.5]])).item()
    assert 0 < low < alone < high < 1
    paper = PromptSampler(PaperDPS(), 1, dtype=torch.float64).baseline([0], torch.tensor([[1.0, 0.0, 1.0]]))
    assert paper[0].tolist() == pytest.approx([0.5, 1.0, 0.5])  # its states are seen: mixed, all right, mixed


def test_a_wrong_shape_is_refused() -> None:
    sampler = PromptSampler(LogitWalk(), 2)
    with pytest.raises(ValueError, match="one row a prompt"):
        sampler.baseline([0, 1], torch.zeros(1, 4))
