"""Advantages over a baseline that is known beforehand, and groups of different sizes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro.lm.known_baseline import Scale, tracked_advantages
from dps_pyro.lm.losses import Kind, advantages, informative_groups

NAN = float("nan")
REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, NAN, NAN], [1.0, NAN, NAN, NAN]])
THERE = ~REWARDS.isnan()
EXPECTED = torch.tensor([[0.5, 0.8, 0.8, 0.5], [0.2, 0.2, NAN, NAN], [0.9, NAN, NAN, NAN]])


def test_each_scale_by_hand() -> None:
    none = tracked_advantages(REWARDS, EXPECTED, there=THERE)
    torch.testing.assert_close(none[0], torch.tensor([0.5, -0.8, -0.8, 0.5]))
    assert none[1].tolist() == pytest.approx([-0.2, -0.2, 0, 0])
    assert none[2].tolist() == pytest.approx([0.1, 0, 0, 0])
    belief = tracked_advantages(REWARDS, EXPECTED, "belief", there=THERE, eps=0)
    assert belief[0].tolist() == pytest.approx([1, -2, -2, 1])
    assert belief[1, 0].item() == pytest.approx(-0.5)
    assert belief[2, 0].item() == pytest.approx(0.1 / 0.3)
    group = tracked_advantages(REWARDS, EXPECTED, "group", there=THERE, eps=0)
    std = torch.tensor([1.0, 0.0, 0.0, 1.0]).std()
    torch.testing.assert_close(group[0], none[0] / std)
    torch.testing.assert_close(group[1:], belief[1:])
    centred = tracked_advantages(REWARDS, EXPECTED, "centred", there=THERE)
    torch.testing.assert_close(centred[THERE], none[THERE] - none[THERE].mean())
    batch = tracked_advantages(REWARDS, EXPECTED, "batch", there=THERE, eps=0)
    torch.testing.assert_close(batch[THERE], centred[THERE] / none[THERE].std())
    assert centred[~THERE].abs().sum() == batch[~THERE].abs().sum() == 0


@pytest.mark.parametrize("scale", ["centred", "batch"])
@pytest.mark.parametrize("earned", [0.0, 1.0])
def test_a_step_of_equal_rewards_changes_nothing_over_the_mean_of_the_step(earned: float, scale: Scale) -> None:
    """A small standard deviation of the baselines would otherwise be scaled up to a full update, by "batch" or by Adam:
    in a run with SPO on hard prompts, steps in which nothing was solved ruined the policy."""
    expected = torch.tensor([[0.05], [0.06], [0.08]])
    rewards = torch.full((3, 1), earned)
    assert torch.equal(tracked_advantages(rewards, expected, scale), torch.zeros(3, 1))
    rewards[0] = 1 - earned
    found = tracked_advantages(rewards, expected, scale)
    assert float(found.abs().min()) > 0
    torch.testing.assert_close(found.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    size = torch.tensor(1.0) if scale == "batch" else (rewards - expected).std()
    torch.testing.assert_close(found.std(), size, atol=1e-3, rtol=0)


def test_centred_differences_fade_with_what_is_left_to_learn() -> None:
    """The better rewards were expected, the smaller is the step; at the scale of the batch, it is always as large."""
    rewards = torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    vague, sharp = (torch.tensor([[high], [high], [1 - high], [high]]) for high in (0.6, 0.98))
    early, late = (float(tracked_advantages(rewards, one, "centred").norm()) for one in (vague, sharp))
    assert late < 0.1 * early
    scaled = [float(tracked_advantages(rewards, one, "batch").norm()) for one in (vague, sharp)]
    assert scaled == pytest.approx([3**0.5, 3**0.5], rel=0.01)


def test_the_groups_own_mean_is_the_loss_without_scale() -> None:
    """RLOO is the tracked advantage over the mean of the others."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    others = (rewards.sum() - rewards) / 3
    torch.testing.assert_close(tracked_advantages(rewards, others), advantages(rewards, "rloo"))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_ragged_groups_are_as_they_are_alone(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    width = max(*sizes, 2)
    rewards = torch.full((len(sizes), width), NAN, dtype=torch.float64)
    for row, size in enumerate(sizes):
        rewards[row, :size] = torch.randint(0, 2, (size,), generator=generator).double()
    there = ~rewards.isnan()
    for kind in get_args(Kind):
        found = advantages(rewards, kind, there=there)
        assert found[~there].abs().sum() == 0
        for row, size in enumerate(sizes):
            alone = advantages(rewards[row : row + 1, :size], kind)[0] if size > 1 else torch.zeros(1)
            torch.testing.assert_close(found[row, :size], alone.double())
    useful = informative_groups(rewards, there=there)
    assert useful.tolist() == [len(set(rewards[row, :size].tolist())) > 1 for row, size in enumerate(sizes)]


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        tracked_advantages(REWARDS, EXPECTED[:2])
    with pytest.raises(ValueError, match="finite"):
        tracked_advantages(REWARDS, EXPECTED)
    with pytest.raises(ValueError, match="there"):
        advantages(REWARDS, "grpo", there=THERE[:2])
    with pytest.raises(ValueError, match="finite"):
        advantages(REWARDS, "grpo", there=torch.ones_like(THERE))
    assert set(get_args(Scale)) == {"none", "centred", "belief", "group", "batch"}
