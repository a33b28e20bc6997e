"""The published tracker against a straight port of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import oracle
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro import PromptSampler
from dps_pyro.models import PaperDPS

LOCAL = [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
GROUP = st.sampled_from([1, 2, 5, 16]).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
VISITS = st.lists(st.dictionaries(st.integers(0, 3), GROUP), min_size=1, max_size=12)
ALPHAS = st.sampled_from([1.0, 0.3, LOCAL, [[5.0, 1.0, 0.5], [1.0, 2.0, 3.0], [0.1, 0.1, 7.0]]])
INITIAL = st.sampled_from([None, [0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])


@given(VISITS, ALPHAS, st.sampled_from([0.7, 0.5, 0.0, 1.0]), INITIAL)
def test_beliefs_follow_the_published_update(visits: Any, alpha: Any, decay: float, initial: Any) -> None:
    prior = torch.tensor(alpha, dtype=torch.float64) if isinstance(alpha, list) else alpha
    sampler = PromptSampler(PaperDPS(prior, decay, initial), num_prompts=4, dtype=torch.float64)
    reference = oracle.published_dps(visits, 4, alpha, decay, initial or [1 / 3] * 3)
    np.testing.assert_allclose(sampler.belief.numpy(), reference[0], atol=1e-6)
    for t, groups in enumerate(visits):
        sampler.observe(list(groups), [k for k, _ in groups.values()], [n for _, n in groups.values()])
        assert sampler.belief.dtype == torch.float64
        np.testing.assert_allclose(sampler.belief.numpy(), reference[t + 1], atol=1e-6)
        np.testing.assert_allclose(sampler.informative(8).numpy(), reference[t + 1][:, 1], atol=1e-6)


def test_by_hand_one_mixed_group_and_one_step_alone() -> None:
    sampler = PromptSampler(PaperDPS(decay=0.5), num_prompts=2, dtype=torch.float64)
    sampler.observe([0], [3], 8)
    # xi is 1/3 into state 1 from each state: counts [1, 4/3, 1] a row, expected [0.3, 0.4, 0.3].
    np.testing.assert_allclose(sampler.belief.numpy(), [[0.3, 0.4, 0.3], [1 / 3] * 3], atol=1e-7)
    sampler.observe([], [], 8)
    # Unvisited: the counts decay half way to [1, 1, 1]: [1, 7/6, 1], expected [6, 7, 6] / 19.
    np.testing.assert_allclose(sampler.belief[0].numpy(), np.array([6, 7, 6]) / 19, atol=1e-7)


@pytest.mark.parametrize(
    ("solved", "trials", "state"), [(0, 1, 0), (1, 1, 2), (0, 64, 0), (1, 64, 1), (63, 64, 1), (64, 64, 2), (0.5, 1, 1)]
)
def test_a_group_of_any_size_is_taken_for_its_class(solved: float, trials: int, state: int) -> None:
    sampler = PromptSampler(PaperDPS(), num_prompts=1)
    sampler.observe([0], [solved], trials)
    assert sampler.tracker.state_dict()["filter"]["previous"][0].tolist() == [float(k == state) for k in range(3)]


def test_a_forbidden_move_stays_forbidden_and_is_believed_when_seen() -> None:
    sampler = PromptSampler(PaperDPS(torch.tensor(LOCAL), initial=[1, 0, 0]), num_prompts=1)
    sampler.observe([0], [0], 8)
    assert sampler.belief[0, 2] == 0
    sampler.observe([0], [8], 8)  # from unsolved straight to solved: the prior gives it no chance
    assert sampler.belief[0, 0] == 0
    assert float(sampler.belief.sum()) == pytest.approx(1)
    metrics = sampler.metrics()
    assert metrics["impossible"] == 1
    sampler.observe([0], [8], 8)
    later = sampler.metrics()
    assert later["impossible"] == 1
    # The first group was certain, the second is left out: the mean is over the first and the third.
    assert later["log_evidence/so_far"] == pytest.approx(later["log_evidence"] / 2)
    assert metrics["log_evidence/so_far"] == metrics["log_evidence"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior_alpha": 0.0}, "prior_alpha"),
        ({"prior_alpha": -1.0}, "prior_alpha"),
        ({"prior_alpha": float("nan")}, "prior_alpha"),
        ({"prior_alpha": float("inf")}, "prior_alpha"),
        ({"prior_alpha": [[1, 0, 0], [0, 0, 0], [0, 0, 1]]}, "positive sum in each row"),
        ({"prior_alpha": torch.ones(2, 2)}, r"shape \(3, 3\), got shape \(2, 2\)"),
        ({"prior_alpha": [1.0, 2.0, 3.0]}, r"shape \(3, 3\), got shape \(3,\)"),
        ({"prior_alpha": [[1.0], [2.0], [3.0]]}, r"got shape \(3, 1\)"),
        ({"prior_alpha": "x"}, "prior_alpha: expected numbers, got 'x'"),
        ({"prior_alpha": None}, "prior_alpha: expected numbers, got None"),
        ({"initial": "x"}, "initial: expected numbers, got 'x'"),
        ({"decay": "x"}, "decay: expected a number, got 'x'"),
        ({"decay": None}, "decay: expected a number, got None"),
        ({"decay": 1.1}, "decay"),
        ({"decay": -0.1}, "decay"),
        ({"decay": float("nan")}, "decay"),
        ({"initial": [0.5, 0.5]}, "initial"),
        ({"initial": [0, 0, 0]}, "initial"),
        ({"initial": [1.0, -0.5, 0.5]}, "initial"),
        ({"initial": [float("nan"), 0.5, 0.5]}, "initial"),
        ({"initial": [float("inf"), 0.5, 0.5]}, "initial"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PaperDPS(**arguments)
