"""Siblings among many prompts: the filter that keeps one belief per group has the beliefs of the one that keeps all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.visits import visit
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro import PromptSampler
from dps_pyro.models import LogitWalk, RunStart, Siblings, SolvingProgress, Trained
from dps_pyro.tracking.choice import MANY, pooled_tracker
from dps_pyro.tracking.pools.pooled import PooledTracker
from dps_pyro.tracking.predictor import Filter

N = 40
LABELS = [f"g{row % 4}" for row in range(N)]
MODELS: dict[str, Callable[[], Siblings]] = {
    "LogitWalk": lambda: Siblings(LABELS),
    "LogitWalk with groups of its own": lambda: Siblings(LABELS, dynamics=LogitWalk([row % 3 for row in range(N)])),
    "SolvingProgress": lambda: Siblings(LABELS, dynamics=SolvingProgress(), strength=2.0),
    "Trained": lambda: Siblings(dynamics=Trained()),
    "RunStart": lambda: Siblings(LABELS, dynamics=RunStart()),
}


def same(one: Filter, other: Filter) -> None:
    torch.testing.assert_close(one.belief, other.belief, atol=1e-12, rtol=0)


def pooled(model: Siblings, num_prompts: int = N) -> PooledTracker:
    found = pooled_tracker(model, num_prompts)
    assert found is not None
    return found


@pytest.fixture
def double() -> None:
    """All laws in double precision; the suite sets the default back after each test."""
    torch.set_default_dtype(torch.float64)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_it_is_the_filter_that_keeps_all_beliefs(name: str, seed: int) -> None:
    """In order, after gaps, late, settled, refitted, and from either filter's saved state."""
    plain, few = MODELS[name]().tracker(N), pooled(MODELS[name]())
    rng = np.random.default_rng(seed)
    for turn in range(16):
        visit([plain, few], rng, N, late_share=0.3, tolerance=1e-10)
        if turn % 5 == 3:
            few.settle()
    same(few, plain)
    torch.testing.assert_close(few.informative(8), plain.informative(8), atol=1e-12, rtol=0)
    torch.testing.assert_close(few.mass(), plain.mass(), atol=1e-12, rtol=0)
    assert few.slots.count + int(few.strangers.sum()) == N

    resumed, moved = pooled(MODELS[name]()), pooled(MODELS[name]())
    resumed.load_state_dict(copy.deepcopy(few.state_dict()))
    moved.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert torch.equal(resumed.belief, few.belief)
    seen = few.slots.of >= 0
    visits = [one.slots.visits[one.slots.of[seen].long()] for one in (moved, few)]
    assert torch.equal(*visits)
    for _ in range(4):
        visit([plain, few, resumed, moved], rng, N, late_share=0.3, tolerance=1e-10)
    same(few, plain)
    same(resumed, plain)
    same(moved, plain)
    plain.refilter({})
    few.refilter({})
    same(few, plain)


def test_a_sampler_of_many_prompts_takes_it_and_learns_of_groups() -> None:
    labels = ["hard", "fair"] * (MANY // 2)
    sampler = PromptSampler(Siblings(labels), MANY, trials=8, seed=0)
    assert sampler.pooled
    fair = torch.arange(1, 81, 2)
    sampler.observe(fair, torch.full([40], 4), 8)
    sampler.observe(fair - 1, torch.zeros(40), 8)
    batches = torch.cat([sampler.select(100) for _ in range(3)])
    assert float((batches % 2).double().mean()) > 0.8


def test_prompts_join_groups_that_there_are() -> None:
    labels = ["a", "b"] * 5
    few, plain = pooled(Siblings(labels), 8), Siblings(labels).tracker(8)
    for tracker in (few, plain):
        tracker.observe(torch.tensor([0, 1, 2]), torch.tensor([4, 0, 3]), torch.tensor([4, 4, 4]))
        tracker.add(2)
    torch.testing.assert_close(few.belief, plain.belief)
    with pytest.raises(ValueError, match="expected new ones of the kinds that there are"):
        pooled(Siblings(["a", "b", "a", "b", "c"]), 4).add(1)


def test_before_the_first_step_and_from_a_filter_without_siblings() -> None:
    few = pooled(Siblings(LABELS))
    few.refilter({})
    assert few.step == 0
    alone = pooled_tracker(LogitWalk(), N)
    assert alone is not None
    one = pooled(Siblings())
    one.load_state_dict(alone.state_dict())  # it knows no population yet
    torch.testing.assert_close(one.belief, alone.belief)


def test_what_it_does_not_take() -> None:
    assert pooled_tracker(Siblings(list(range(N))), N) is None  # every prompt is a group of its own
    state: dict[str, Any] = Siblings(LABELS).tracker(N - 1).state_dict()
    with pytest.raises(ValueError, match=f"expected beliefs of {N} prompts"):
        pooled(Siblings(LABELS)).load_state_dict(state)
