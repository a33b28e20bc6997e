"""From rewards to counts."""

from __future__ import annotations

from math import nan

import pytest

from dps_pyro.history.counts import count_groups


def test_groups_are_counted_in_the_order_of_their_first_rollouts() -> None:
    counts = count_groups([7, 7, 2, 2, 7], [1.0, 0.0, 0.9999999, 1.5, 0.2])
    assert counts.prompts.tolist() == [7, 2]
    assert counts.solved.tolist() == [1, 2]
    assert counts.trials.tolist() == [3, 2]


def test_what_was_not_scored_does_not_count() -> None:
    counts = count_groups([1, 1, 0], [nan, -1.0, nan], solved_at=-1.0)
    assert (counts.solved.tolist(), counts.trials.tolist()) == ([1, 0], [1, 0])


def test_partial_rewards_are_added_up() -> None:
    assert count_groups([0, 0, 0], [0.5, 0.25, nan], solved_at=None).solved.tolist() == [0.75]
    with pytest.raises(ValueError, match=r"expected partial rewards within 0..1, as solved_at is None, got 1.5"):
        count_groups([0, 0], [0.5, 1.5], solved_at=None)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="rewards: expected one per rollout"):
        count_groups([0, 0], [0.5])
