"""The reference model: ordered rates, and groups that speak as loudly as they are large."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
from helpers import oracle

from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress


def test_rates_are_ordered_whatever_the_prior() -> None:
    for gaps in ((1.0, 16.0, 16.0, 1.0), (0.05, 0.05, 0.05, 0.05), (1e-3, 100.0, 100.0, 1e-3)):
        with pyro.plate("samples", 2000):
            rates = SolvingProgress(rate_gaps=gaps).prior(pyro.plate("prompts", 2, dim=-1)).rates
        assert bool((rates.diff(dim=-1) >= 0).all())
        assert bool(((rates > 0) & (rates <= 1)).all())


GAPS = (1.0, 16.0, 16.0, 1.0)
MOVES = [[0.95, 0.045, 0.005], [0.025, 0.95, 0.025], [0.005, 0.045, 0.95]]


def test_unfitted_it_stands_at_its_prior_means() -> None:
    theta = SolvingProgress(GAPS, transition=20 * torch.tensor(MOVES)).parameters(10)
    torch.testing.assert_close(theta.rates, torch.tensor([1 / 34, 17 / 34, 33 / 34]))
    default = SolvingProgress()
    gaps = default.rate_gaps / default.rate_gaps.sum()
    torch.testing.assert_close(default.parameters(10).rates, gaps.cumsum(-1)[:3])
    torch.testing.assert_close(theta.initial, torch.full((3,), 1 / 3))
    torch.testing.assert_close(theta.matrix, torch.tensor(MOVES))
    torch.testing.assert_close(PromptSampler(SolvingProgress(), 10).belief, torch.full((10, 3), 1 / 3))


def test_none_of_two_says_less_than_none_of_sixteen() -> None:
    sampler = PromptSampler(SolvingProgress(GAPS, transition=20 * torch.tensor(MOVES)), num_prompts=4)
    sampler.observe([0, 1, 2, 3], [0, 0, 2, 16], [2, 16, 2, 16])
    unsolved, _, solved = sampler.belief.T.tolist()
    assert unsolved[1] > unsolved[0] > 1 / 3
    assert solved[3] > solved[2] > 1 / 3
    rates = np.array([1, 17, 33]) / 34
    for row, size in ((0, 2), (1, 16)):
        seen = oracle.binomial(0, size, rates)
        moved = seen / seen.sum() @ np.array(MOVES)
        np.testing.assert_allclose(sampler.belief[row].numpy(), moved, atol=1e-6)


def test_informative_by_hand() -> None:
    sampler = PromptSampler(SolvingProgress(GAPS), num_prompts=3)
    # Two rollouts differ with chance 2 p (1 - p): 66 / 1156, 1 / 2 and 66 / 1156.
    torch.testing.assert_close(sampler.informative(2), torch.full((3,), (66 / 1156 * 2 + 0.5) / 3))
    torch.testing.assert_close(sampler.informative(1), torch.zeros(3))
    eight = [1 - p**8 - (1 - p) ** 8 for p in (1 / 34, 1 / 2, 33 / 34)]
    torch.testing.assert_close(sampler.informative(8), torch.full((3,), sum(eight) / 3))


def test_partial_rewards_may_add_up_to_a_fraction() -> None:
    sampler = PromptSampler(SolvingProgress(), num_prompts=3)
    sampler.observe([0, 1, 2], [0.0, 0.5, 1.0], 4)
    unsolved = sampler.belief[:, 0].tolist()
    assert unsolved[0] > unsolved[1] > unsolved[2]


@pytest.mark.parametrize("name", ["rate_gaps", "initial", "transition"])
@pytest.mark.parametrize("value", [[1.0, 1.0], [[1.0, 0.0, 1.0]] * 3, [1.0, -1.0, 1.0], [float("nan")] * 4])
def test_concentrations_out_of_range_are_refused(name: str, value: list[float]) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected positive numbers of shape"):
        SolvingProgress(**{name: value})  # type: ignore[arg-type]
