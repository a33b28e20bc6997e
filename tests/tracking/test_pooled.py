"""The filter whose cost follows what was seen has the beliefs of the plain one, whatever comes in whatever order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import oracle
from helpers.visits import visit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dps_pyro import Step, Tracker, track
from dps_pyro.models import Covariate, Hierarchical, LogitWalk, PaperDPS, PromptTypes, SolvingProgress, Trained
from dps_pyro.tracking.pools.kinds import kinds_of
from dps_pyro.tracking.pools.moves import Moves
from dps_pyro.tracking.pools.pooled import PooledTracker
from dps_pyro.tracking.predictor import Filter

pytestmark = pytest.mark.no_cover

N = 40
GROUPS = [k % 3 for k in range(N)]
MODELS: dict[str, tuple[Any, dict[str, Tensor]]] = {
    "SolvingProgress": (SolvingProgress, {}),
    "LogitWalk": (LogitWalk, {}),
    "LogitWalk, groups": (
        lambda: LogitWalk(GROUPS),
        {"z_tilt": torch.tensor([[0.5, 0, 0], [0, 0.5, 0], [-0.5, 0, 1]])},
    ),
    "Hierarchical, groups": (lambda: Hierarchical(GROUPS), {"z_group": torch.tensor([[1.0, 0, -1], [0.5, 0, 0]])}),
    "Covariate": (lambda: Covariate({"level": [float(k % 4) for k in range(N)]}), {"weights": torch.ones(3, 1)}),
    "PromptTypes": (PromptTypes, {}),
    "Trained": (Trained, {"slope": torch.tensor([1.0, -1.0]), "trained": torch.tensor([0.7, -0.3])}),
}


def differ(one: Filter, other: Filter) -> float:
    return float((one.belief.double() - other.belief.double()).abs().max())


@pytest.fixture
def double() -> None:
    """All laws in double precision; the suite sets the default back after each test."""
    torch.set_default_dtype(torch.float64)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_beliefs_are_the_plain_filters_in_double_precision(name: str, seed: int) -> None:
    make, given_values = MODELS[name]
    values = {name: value.double() for name, value in given_values.items()}
    plain, pooled = Tracker(make(), N, values=values), PooledTracker(make(), N, values=values)
    rng = np.random.default_rng(seed)
    for turn in range(20):
        visit([plain, pooled], rng, N)
        if turn % 7 == 3:
            pooled.settle()
    assert differ(plain, pooled) < 1e-10
    torch.testing.assert_close(pooled.informative(8), plain.informative(8), atol=1e-10, rtol=0)
    torch.testing.assert_close(pooled.mass(), plain.mass(), atol=1e-10, rtol=0)
    assert pooled.slots.count + int(pooled.strangers.sum()) == N


@pytest.mark.parametrize("visits", [150, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["SolvingProgress", "LogitWalk, groups", "Trained"])
def test_many_visits_in_single_precision_are_as_near_the_truth_as_the_plain_filters(name: str, visits: int) -> None:
    make, values = MODELS[name]
    pooled = PooledTracker(make(), N, values=values)
    rng = np.random.default_rng(5)
    for _ in range(visits):
        visit([pooled], rng, N, late_share=0.02)
    # The plain filters take the whole log at once: late groups would cost each of them a replay.
    truth, plain = (Tracker(make(), N, values=values, dtype=dtype) for dtype in (torch.float64, torch.float32))
    for one in (truth, plain):
        one.history.load_state_dict(pooled.history.state_dict())
        one.step = pooled.step
        one.refilter(values)
    assert pooled.history.num_steps == pooled.step
    assert differ(pooled, truth) <= max(1e-6, 2 * differ(plain, truth))


@pytest.mark.parametrize("name", ["LogitWalk, groups", "Trained"])
def test_refilter_add_and_a_plain_filters_state(name: str) -> None:
    make, values = MODELS[name]
    plain, pooled = Tracker(make(), N), PooledTracker(make(), N)
    rng = np.random.default_rng(1)
    for _ in range(30):
        visit([plain, pooled], rng, N)
    loaded = PooledTracker(make(), N)
    loaded.load_state_dict(plain.state_dict())
    assert differ(loaded, plain) < 1e-5
    assert torch.equal(
        loaded.slots.visits.sort().values, pooled.slots.visits[pooled.slots.visits >= 0].sort().values
    ) or (
        int(loaded.slots.visits.sum()) <= int(pooled.slots.visits.sum())  # parts of one group count once here
    )
    for tracker in (plain, pooled, loaded):
        tracker.refilter(values)
    assert differ(plain, pooled) < 1e-5
    assert differ(plain, loaded) < 1e-5
    again = PooledTracker(make(), N)
    again.load_state_dict(pooled.state_dict())
    assert torch.equal(again.belief, pooled.belief)
    for _ in range(5):
        visit([plain, pooled, again], rng, N)
    assert torch.equal(again.belief, pooled.belief)
    assert differ(plain, pooled) < 1e-5


def test_new_prompts_join_the_pool() -> None:
    plain, pooled = Tracker(Trained(), N), PooledTracker(Trained(), N)
    rng = np.random.default_rng(2)
    for _ in range(10):
        visit([plain, pooled], rng, N)
    for tracker in (plain, pooled):
        tracker.add(5)
        tracker.observe(torch.tensor([N + 2, 1]), torch.tensor([3.0, 3.0]), torch.tensor([8, 8]))
    assert pooled.belief.shape == (N + 5, 3)
    assert differ(plain, pooled) < 1e-6


@given(start=st.integers(0, 40), wait=st.integers(0, 40), seed=st.integers(0, 100))
def test_moves_over_many_steps_are_the_steps_one_by_one(start: int, wait: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.rand(start + wait, 2, 3, 3, generator=generator, dtype=torch.float64)
    matrices = matrices / matrices.sum(-1, keepdim=True)
    belief, kind = torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 1])
    for steady in (False, True):
        moves, expected = Moves(matrices[0] if steady and len(matrices) else None), belief
        if steady and not len(matrices):
            return
        for t, matrix in enumerate(matrices):
            moves.append(matrix)
            now = matrices[0] if steady else matrix
            expected = expected if t < start else (expected.unsqueeze(-2) @ now[kind]).squeeze(-2)
        found = moves.over(belief, kind, torch.full([3], start), start + wait)
        np.testing.assert_allclose(found, expected, atol=1e-12)


class OfItsOwn(LogitWalk):
    """Groups, and an ease of each prompt's own."""

    def prior(self, prompts: pyro.plate) -> Any:
        theta = super().prior(prompts)
        with prompts:
            pyro.sample("ease", dist.Normal(0.0, 1.0))
        return theta


class Forgetful(SolvingProgress):
    """Moves depend on how long ago the prompt was last rolled out."""

    def transition(self, theta: Any, step: Step) -> dist.Categorical:
        return dist.Categorical(logits=theta.matrix.log() + 0.01 * step.since[..., None, None] * torch.arange(3.0))


class Wrong(LogitWalk):
    """Says that prompts are alike, and treats each as it likes."""

    def prior(self, prompts: pyro.plate) -> Any:
        theta = super().prior(prompts)
        with prompts as rows:
            return theta._replace(start=theta.start + 0.01 * torch.as_tensor(rows).unsqueeze(-1) * self.grid)


def test_who_needs_a_belief_for_every_prompt() -> None:
    assert kinds_of(oracle.OwnLadder(3), 5, oracle.own_values(5, 3)) is None
    assert kinds_of(OfItsOwn(GROUPS), N) is None
    assert kinds_of(Forgetful(), N) is None
    assert kinds_of(Hierarchical(GROUPS, nodes=None), N) is None
    assert kinds_of(Covariate({"length": [float(k) for k in range(N)]}), N) is None
    with pytest.raises(
        ValueError, match=r"expected prompts with the same number in Wrong\.kinds to have the same laws"
    ):
        kinds_of(Wrong(GROUPS), N)
    with pytest.raises(ValueError, match="expected prompts of a few kinds, got OwnLadder without"):
        PooledTracker(oracle.OwnLadder(3), 5)
    trained, walk = kinds_of(Trained(), N), kinds_of(LogitWalk(GROUPS), N)
    assert trained is not None
    assert walk is not None
    assert (trained.steady, walk.steady, walk.sizes.tolist()) == (False, True, [14, 13, 13])


@pytest.mark.parametrize("make", [SolvingProgress, Trained, Forgetful, lambda: PaperDPS(decay=0.6)])
def test_snapshots_change_what_a_late_group_costs_and_nothing_else(make: Any) -> None:
    with_some, without = track(make(), N), track(make(), N)
    with_some.snapshots.every, with_some.snapshots.limit = 4, 40_000
    without.snapshots.limit = 0
    rng = np.random.default_rng(3)
    for _ in range(60):
        visit([without, with_some], rng, N)
        assert differ(with_some, without) < 1e-6
    assert len(without.snapshots) == 0
    kept = sorted(with_some.snapshots._states)
    assert 3 <= len(kept) <= 40
    assert kept[-1] >= with_some.step - 4 - 20
