"""Completions are drawn by the size of their advantages, and weighted so that nothing changes on average."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro.lm.thinning import chances, thinned

ADVANTAGES = st.lists(
    st.one_of(st.just(0.0), st.floats(-3, 3, width=32).filter(lambda value: abs(value) > 1e-3)),
    max_size=40,
).map(torch.tensor)
NOISE = st.floats(0.01, 5)


@given(ADVANTAGES, NOISE)
def test_chances_are_proportional_to_sizes_up_to_certainty_and_bound_the_noise(
    advantages: torch.Tensor, noise: float
) -> None:
    found, sizes = chances(advantages, noise), advantages.double().abs()
    assert bool(((found >= 0) & (found <= 1)).all())
    assert torch.equal(found > 0, sizes > 0)
    there = sizes > 0
    square = (sizes[there].square() / found[there]).sum()
    torch.testing.assert_close(square, (1 + noise) * sizes.square().sum())  # reached, and not passed
    ratio = (found / sizes)[there & (found < 1)]
    if len(ratio):
        assert float(ratio.max()) == pytest.approx(float(ratio.min()))
        assert bool((sizes[found == 1] * ratio[0] >= 1 - 1e-9).all())


def test_the_chances_worked_by_hand() -> None:
    # The squares add up to 9 + 4 + 1 = 14, and may come to 15. If 3 and 2 are certain, 2 are left for 1 / chance.
    found = chances(torch.tensor([1.0, 0.0, -3.0, 2.0]), 1 / 14)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.0, 1.0, 1.0], dtype=torch.float64))
    alike = chances(torch.tensor([0.3, -0.3, 0.3, 0.3]), 0.25)
    torch.testing.assert_close(alike, torch.full((4,), 0.8, dtype=torch.float64))


@given(ADVANTAGES)
def test_without_noise_all_with_an_advantage_are_drawn_and_weigh_one(advantages: torch.Tensor) -> None:
    rows, weights = thinned(advantages, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(rows, advantages.nonzero().squeeze(-1))
    assert bool((weights == 1).all())


@given(ADVANTAGES, NOISE, st.integers(0, 1000))
def test_as_many_are_drawn_as_the_chances_add_up_to(advantages: torch.Tensor, noise: float, seed: int) -> None:
    rows, weights = thinned(advantages, noise, torch.Generator().manual_seed(seed))
    wanted = chances(advantages, noise)
    assert abs(len(rows) - float(wanted.sum())) < 1
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert weights.dtype == advantages.dtype
    torch.testing.assert_close(weights.double(), 1 / wanted[rows])
    assert torch.equal(rows, thinned(advantages, noise, torch.Generator().manual_seed(seed))[0])


@settings(max_examples=10)
@given(st.lists(st.sampled_from([-1.0, -0.4, 0.0, 0.2, 0.5, 2.0]), min_size=1, max_size=30).map(torch.tensor), NOISE)
def test_sums_stay_as_they_are_on_average(advantages: torch.Tensor, noise: float) -> None:
    """The mean over many draws is the sum over all, within five standard errors."""
    gradients = torch.linspace(-1, 2, len(advantages))
    draws = []
    for seed in range(200):
        rows, weights = thinned(advantages, noise, torch.Generator().manual_seed(seed))
        draws.append((weights * advantages[rows] * gradients[rows]).double().sum())
    found = torch.stack(draws)
    error = float(found.std() / len(found) ** 0.5)
    assert float(found.mean()) == pytest.approx(float((advantages * gradients).sum()), abs=5 * error + 1e-4)


@pytest.mark.parametrize("noise", [-0.1, float("inf"), float("nan")])
def test_a_noise_that_is_none_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match="noise: expected a number of 0 or more"):
        chances(torch.ones(3), noise)
