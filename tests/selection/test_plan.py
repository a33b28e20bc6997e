"""Steps whose groups differ in size, and what the second half of a total goes to."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro import PromptSampler
from dps_pyro.models import LogitWalk
from dps_pyro.selection.plan import fill, second_half, useful_of
from dps_pyro.selection.signal import Signal
from dps_pyro.tracking.rates import Mixture

EVEN = Mixture.of_states(torch.tensor([0.02, 0.5, 0.98]), torch.full((4, 3), 1 / 3))


@given(st.lists(st.integers(2, 16), min_size=4, max_size=12), st.integers(2, 60), st.randoms())
@settings(deadline=None, max_examples=30)
def test_a_plan_spends_its_total_in_order(sizes: list[int], rollouts: int, random: object) -> None:
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(rollouts))
    plan = fill(order, torch.tensor(sizes), rollouts)
    assert int(plan.sizes.sum()) == rollouts
    assert plan.rows.tolist() == order[: len(plan.rows)].tolist()
    assert int(plan.sizes.min()) >= 2
    if len(plan.rows) < len(sizes):  # nobody has two more than wanted while another prompt could have had two
        wanted = torch.tensor(sizes)[plan.rows]
        assert int((plan.sizes - wanted).clamp_min(0).sum()) < 2


def test_a_total_below_the_least_is_refused() -> None:
    with pytest.raises(ValueError, match="rollouts"):
        fill(torch.tensor([0]), torch.tensor([4]), 1)


def test_the_chance_of_a_useful_group_of_ones_own_size() -> None:
    chance = useful_of(EVEN, torch.tensor([1, 2, 8, 2]))
    assert chance[0] == 0
    assert chance[1] == pytest.approx((2 * 2 * 0.02 * 0.98 + 0.5) / 3)
    assert chance[2] > chance[1]
    assert chance[1] == chance[3]


def test_the_second_half_is_the_best_of_all_allocations() -> None:
    """Of two groups with first rollouts 1 of 2 and 0 of 2, no split of the rest has more expected signal, but for the
    last piece of a hull, which is all or nothing in the exact solution."""
    rates = Mixture.of_states(torch.tensor([0.05, 0.5, 0.95]), torch.tensor([[0.3, 0.4, 0.3], [0.3, 0.4, 0.3]]))
    solved, first, signal = torch.tensor([1.0, 0.0]), torch.tensor([2, 2]), Signal(power=1.0)
    worth = torch.stack([signal.after(rates, solved, first, extra) for extra in range(9)], -1)
    for total in range(1, 13):
        more = second_half(rates, solved, first, total, most=10, signal=signal, least=0.0)
        assert int(more.sum()) == total
        found = float(worth[0, more[0]] + worth[1, more[1]])
        splits = [(a, total - a) for a in range(min(total, 8) + 1) if total - a <= 8]
        best = max(float(worth[0, a] + worth[1, b]) for a, b in splits)
        assert found == pytest.approx(best, rel=0.02)


def test_what_promises_nothing_is_saved() -> None:
    """Surely hopeless and surely mastered prompts get no second half, however much is left."""
    sure = Mixture.of_states(torch.tensor([[0.0001], [0.5], [0.9999]]), torch.ones(3, 1))
    more = second_half(sure, torch.tensor([0.0, 1.0, 2.0]), torch.tensor([2, 2, 2]), 100, most=16)
    assert more[0] == more[2] == 0
    assert 0 < more[1] <= 14
    assert second_half(sure, torch.zeros(3), torch.full((3,), 16), 100, most=16).sum() == 0
    assert second_half(sure, torch.zeros(3), torch.full((3,), 2), 0, most=16).sum() == 0


def test_a_group_that_surprised_goes_on_before_one_that_did_not() -> None:
    more = second_half(EVEN, torch.tensor([0.0, 1.0, 2.0, 0.0]), torch.full((4,), 2), 6, most=8)
    assert more.tolist() == [0, 6, 0, 0]


def test_the_sampler_plans_under_a_total_and_observes_groups_of_any_size() -> None:
    sampler = PromptSampler(LogitWalk(), 32, acquisition="thompson", seed=3)
    for step in range(4):
        plan = sampler.plan(40, [2, 4, 8])
        assert int(plan.sizes.sum()) == 40
        assert len(plan.rows.unique()) == len(plan.rows)
        sampler.observe(plan.rows, (plan.sizes * ((plan.rows % 3) / 2)).floor(), plan.sizes)
        assert sampler.metrics()["rollouts"] == 40 * (step + 1)
    again = [PromptSampler(LogitWalk(), 32, acquisition="thompson", seed=3).plan(40, [2, 4, 8]) for _ in range(2)]
    for one, other in itertools.pairwise(again):
        assert torch.equal(one.rows, other.rows)
