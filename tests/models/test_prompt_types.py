"""Types of prompts: exact, never permuted, and inferred while filtering."""

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

from dps_pyro import PromptSampler, Step
from dps_pyro.models import PromptTypes

TRUTH = {
    "gaps": torch.tensor([0.02, 0.48, 0.48, 0.02]),
    "share": torch.tensor([0.3, 0.4, 0.3]),
    "initial": torch.tensor([[0.6, 0.3, 0.1], [0.3, 0.3, 0.4]]),
    "speed_gaps": torch.tensor([[0.01, 0.19, 0.8], [0.02, 0.13, 0.85]]),
    "fall": torch.tensor([0.02, 0.01]),
}
"""Speeds, unsolved and partially solved: 0.2 and 0.15 of the fast, 0.01 and 0.02 of the slow (and the leak)."""


def test_the_filter_equals_brute_force_over_all_paths() -> None:
    torch.set_default_dtype(torch.float64)
    model = PromptTypes(speeds=(0.05, 0.02), leak=0.01)
    values = {
        "gaps": torch.tensor([0.1, 0.4, 0.4, 0.1]),
        "share": torch.tensor([0.3, 0.5, 0.2]),
        "initial": torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]),
        "speed_gaps": torch.tensor([[0.1, 0.3, 0.6], [0.2, 0.2, 0.6]]),
        "fall": torch.tensor([0.2, 0.3]),
    }
    speed = 0.01 + 0.99 * np.array([[0.4, 0.1, 0.0], [0.4, 0.2, 0.0]])
    start, matrix, rates = np.zeros(9), np.zeros((9, 9)), np.zeros(9)
    for kind, share in enumerate([0.3, 0.5, 0.2]):
        chances = [[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [1, 0, 0]][kind]
        for now in range(3):
            down = [0, 0.2, 0.3][now]
            up = (1 - down) * [*speed[:, kind], 0][now]
            start[3 * now + kind] = share * chances[now]
            rates[3 * now + kind] = [0.1, 0.5, 0.9][now]
            for by, chance in ((-1, down), (0, 1 - up - down), (1, up)):
                if 0 <= now + by <= 2:
                    matrix[3 * now + kind, 3 * (now + by) + kind] = chance
    np.testing.assert_allclose(matrix.sum(1), 1)
    solved, trials = oracle.random_groups(3, 3)
    evidence, beliefs = histories.filtered(model, values, solved, trials)
    for row in range(3):
        seen = [oracle.binomial(y, n, rates) for y, n in zip(solved[row], trials[row], strict=True)]
        exact, path = oracle.brute_force(start, [matrix] * 3, seen)
        np.testing.assert_allclose(evidence[row], exact, atol=1e-9)
        np.testing.assert_allclose(beliefs[row], path, atol=1e-9)


@given(learners=st.integers(1, 4), seed=st.integers(0, 2**31), strength=st.floats(0.5, 1000))
@settings(max_examples=25)
def test_states_and_types_are_ordered_whatever_is_drawn(learners: int, seed: int, strength: float) -> None:
    torch.manual_seed(seed)
    speeds = [0.1 / 2**m for m in range(learners)]
    model = PromptTypes([f"type {m}" for m in range(learners + 1)], speeds, strength)
    theta = model.prior(pyro.plate("prompts", 2, dim=-1))
    one = Step(torch.ones(1, dtype=torch.long))
    rates = model.emission(theta, one).mean[0]
    assert rates.shape == (3 * (learners + 1),) == (len(model.states),)
    assert bool((rates.diff() >= 0).all())
    assert bool((theta.speed.diff(dim=-1) <= 0).all() and (theta.speed <= 1).all())
    torch.testing.assert_close(theta.speed[:, -1], torch.full((2,), 1e-4))
    matrix = model.transition(theta, one).probs
    torch.testing.assert_close(matrix.sum(-1), torch.ones(len(rates)))
    kind = torch.arange(len(rates)) % (learners + 1)
    assert bool((matrix[kind != kind[:, None]] == 0).all())
    torch.testing.assert_close(model.initial(theta).probs.sum(), torch.tensor(1.0))


def test_unfitted_it_stands_at_the_speeds_expected() -> None:
    model = PromptTypes()
    theta = model.parameters(1)
    torch.testing.assert_close(theta.speed, torch.tensor([[0.05, 0.005, 1e-4]] * 2))
    torch.testing.assert_close(theta.rates, torch.tensor([0.02, 0.5, 0.98]))
    torch.testing.assert_close(model.type_belief(model.initial(theta).probs), torch.full((3,), 1 / 3))
    assert model.states[:4] == ("unsolved, fast", "unsolved, slow", "unsolved, never", "partially solved, fast")
    hasty = PromptTypes(("quick", "never"), speeds=(0.3,), leak=0.01).parameters(1)
    torch.testing.assert_close(hasty.speed, torch.tensor([[0.3, 0.01]] * 2))


def test_the_filter_infers_the_type_from_what_it_sees() -> None:
    model = PromptTypes()
    sampler = PromptSampler(model, num_prompts=3)
    for step in range(80):
        sampler.observe([0, 1], [0, 0 if step < 10 else 4 if step < 20 else 8], trials=8)
    never, quick, unseen = model.type_belief(sampler.belief)
    assert never.argmax() == 2 and float(never[2]) > 0.7 and float(never[0]) < 0.02
    assert quick.argmax() == 0 and float(quick[2]) < 0.01
    torch.testing.assert_close(unseen, torch.full((3,), 1 / 3))  # a type never changes, and nothing was seen
    for _ in range(2):  # and nothing is given up for good
        sampler.observe([0], [4], trials=8)
    assert float(sampler.informative(8)[0]) > 0.9


def test_beliefs_of_any_shape_say_their_types() -> None:
    model = PromptTypes(("fast", "never"), speeds=(0.1,))
    belief = torch.arange(24.0).reshape(2, 2, 6)
    kinds = model.type_belief(belief)
    torch.testing.assert_close(kinds[1, 0], torch.tensor([12.0 + 14 + 16, 13.0 + 15 + 17]))


def test_draws_with_a_sample_dimension_filter_like_each_alone() -> None:
    histories.draws_with_a_sample_dimension_filter_like_each_alone(PromptTypes(), 3)


TOLERANCES = {"gaps": 0.02, "share": 0.14, "initial": 0.18, "speed_gaps": 0.1, "fall": 0.02}


def found(num_prompts: int, num_steps: int, seeds: range | None) -> list[dict[str, Tensor]]:
    """The points that fits find, for one history: by SVI from each seed, or by the default method."""
    model = PromptTypes(speeds=(0.1, 0.01), strength=40.0)  # away from the truth, and hardly believed
    history, _ = histories.simulated(model, histories.some_trials(num_prompts, num_steps, share=0.7), TRUTH)
    return points(model, history, seeds)


@pytest.mark.parametrize("seeds", histories.BY_DEFAULT_AND_FROM_SEEDS, ids=["default", "by SVI"])
def test_a_fit_finds_the_types(seeds: range | None) -> None:
    all_near(found(300, 40, seeds), TRUTH, TOLERANCES)


@pytest.mark.slow
def test_no_seed_permutes_the_types() -> None:
    first, *others = found(80, 20, histories.MORE_SEEDS)
    all_near(others, first, TOLERANCES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"types": ("never",)},
        {"types": ("a", "a", "b")},
        {"types": "abc"},
        {"speeds": (0.05,)},
        {"speeds": (0.005, 0.05)},
        {"speeds": (1.5, 0.05)},
        {"speeds": (0.05, 1e-5)},
        {"strength": 0.0},
        {"shares": (1.0, 1.0)},
        {"rate_gaps": (1.0, 0.0, 1.0, 1.0)},
        {"initial": (1.0,)},
        {"fall": (1.0, -1.0)},
        {"leak": 0.0},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        PromptTypes(**wrong)  # type: ignore[arg-type]
