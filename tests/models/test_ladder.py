"""The ladder: exact, ordered whatever is drawn, and found again by a fit."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
from helpers import histories, oracle
from helpers.fits import all_near, points
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dps_pyro import Progress, PromptSampler, Step
from dps_pyro.models import Ladder, SolvingProgress

TRUTH = {
    "gaps": torch.tensor([0.02, 0.18, 0.3, 0.3, 0.18, 0.02]),
    "initial": torch.tensor([0.4, 0.1, 0.2, 0.1, 0.2]),
    "leave": torch.tensor([0.05, 0.2, 0.1, 0.15, 0.02]),
    "upward": torch.tensor([0.9, 0.7, 0.6]),
}


def test_the_filter_equals_brute_force_over_all_paths() -> None:
    torch.set_default_dtype(torch.float64)
    model = Ladder(4)
    values = {
        "gaps": torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1]),
        "initial": torch.tensor([0.4, 0.3, 0.2, 0.1]),
        "leave": torch.tensor([0.2, 0.5, 0.4, 0.3]),
        "upward": torch.tensor([0.6, 0.75]),
    }
    matrix = np.array([[0.8, 0.2, 0, 0], [0.2, 0.5, 0.3, 0], [0, 0.1, 0.6, 0.3], [0, 0, 0.3, 0.7]])
    solved, trials = oracle.random_groups(5, 4)
    evidence, beliefs = histories.filtered(model, values, solved, trials)
    for row in range(5):
        seen = [oracle.binomial(y, n, [0.1, 0.3, 0.6, 0.9]) for y, n in zip(solved[row], trials[row], strict=True)]
        exact, path = oracle.brute_force([0.4, 0.3, 0.2, 0.1], [matrix] * 4, seen)
        np.testing.assert_allclose(evidence[row], exact, atol=1e-9)
        np.testing.assert_allclose(beliefs[row], path, atol=1e-9)


@given(levels=st.integers(3, 12), seed=st.integers(0, 2**31), weight=st.floats(0.01, 100))
@settings(max_examples=25)
def test_levels_are_ordered_and_moves_are_to_neighbours_whatever_is_drawn(
    levels: int, seed: int, weight: float
) -> None:
    torch.manual_seed(seed)
    model = Ladder(levels, rate_gaps=[weight] * (levels + 1), leave=(weight, weight))
    theta = model.prior(pyro.plate("prompts", 2, dim=-1))
    one = Step(torch.ones(1, dtype=torch.long))
    rates = model.emission(theta, one).mean[0]
    assert rates.shape == (levels,) == (len(model.states),)
    assert bool((rates.diff() >= 0).all() and (rates > 0).all() and (rates <= 1).all())
    matrix = model.transition(theta, one).probs
    torch.testing.assert_close(matrix.sum(-1), torch.ones(levels))
    far = (torch.arange(levels) - torch.arange(levels)[:, None]).abs() > 1
    assert bool((matrix[far] == 0).all() and (matrix >= 0).all())


@pytest.mark.parametrize("levels", [3, 5, 9, 20])
def test_unfitted_its_levels_are_evenly_told_apart_and_take_as_long_to_climb(levels: int) -> None:
    theta = Ladder(levels).parameters(4)
    torch.testing.assert_close(theta.rates[[0, -1]], torch.tensor([0.02, 0.98]))
    strides = theta.rates.sqrt().asin().diff()
    torch.testing.assert_close(strides, strides.mean().expand(levels - 1))
    inside = theta.initial[1:-1].sum()
    torch.testing.assert_close(torch.stack([theta.initial[0], inside, theta.initial[-1]]), torch.full((3,), 1 / 3))
    # Steps from the bottom to the top of a walk that is reflected at both ends: 2 / leave * (levels - 1) ** 2 / 2 and
    # its fringe; four times the hundred steps that a state of three lasts.
    matrix = Ladder(levels).transition(theta, Step(torch.ones(1))).probs[:-1, :-1].double()
    climb = torch.linalg.solve(torch.eye(levels - 1).double() - matrix, torch.ones(levels - 1).double())[0]
    assert 300 < float(climb) < 420 or levels == 20  # there the chance to leave is at its ceiling


def test_three_levels_are_solving_progress_without_jumps() -> None:
    values = {"gaps": torch.tensor([0.1, 0.3, 0.4, 0.2]), "initial": torch.tensor([0.5, 0.3, 0.2])}
    ladder = Ladder(3)
    moves = {"leave": torch.tensor([0.1, 0.5, 0.3]), "upward": torch.tensor([0.8])}
    matrix = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.5, 0.4], [0.0, 0.3, 0.7]])
    solved, trials = oracle.random_groups(6, 5)
    one = Progress(ladder, ladder.parameters(6, {**values, **moves}), Step(trials)).log_prob(solved.float())
    plain = SolvingProgress()
    other = Progress(plain, plain.parameters(6, {**values, "transition": matrix}), Step(trials))
    torch.testing.assert_close(one, other.log_prob(solved.float()))


def test_draws_with_a_sample_dimension_filter_like_each_alone() -> None:
    histories.draws_with_a_sample_dimension_filter_like_each_alone(Ladder(4), 3)


TOLERANCES = {"gaps": 0.02, "initial": 0.08, "leave": 0.06, "upward": 0.15}


def found(num_prompts: int, num_steps: int, seeds: range | None) -> list[dict[str, Tensor]]:
    """The points that fits find, for one history: by SVI from each seed, or by the default method."""
    model = Ladder(5)
    history, _ = histories.simulated(model, histories.some_trials(num_prompts, num_steps, share=0.7, size=16), TRUTH)
    return points(model, history, seeds)


@pytest.mark.parametrize("seeds", histories.BY_DEFAULT_AND_FROM_SEEDS, ids=["default", "by SVI"])
def test_a_fit_finds_the_ladder(seeds: range | None) -> None:
    all_near(found(200, 30, seeds), TRUTH, TOLERANCES)


@pytest.mark.slow
def test_no_seed_permutes_the_levels() -> None:
    first, *others = found(60, 15, histories.MORE_SEEDS)
    all_near(others, first, TOLERANCES)


def test_it_tells_one_in_eight_from_six_in_eight() -> None:
    sampler = PromptSampler(Ladder(), num_prompts=2)
    for _ in range(3):
        sampler.observe([0, 1], [1, 6], trials=8)
    assert sampler.belief.argmax(-1).tolist() == [1, 3]
    assert sampler.dynamics.states[1] == "level 2 of 5"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": 2},
        {"levels": 3.5},
        {"rate_gaps": (1.0, 1.0)},
        {"initial": (1.0, 1.0, 0.0, 1.0, 1.0)},
        {"leave": (1.0,)},
        {"upward": (0.0, 1.0)},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        Ladder(**wrong)  # type: ignore[arg-type]
