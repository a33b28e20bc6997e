"""Rates, signals and group sizes, against enumeration of every sequence of outcomes."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dps_pyro import PromptSampler
from dps_pyro.lm.losses import Kind, advantages
from dps_pyro.models import BetaBernoulli, LogitWalk, RewardEMA, SolvingProgress
from dps_pyro.selection.signal import Signal, best_sizes
from dps_pyro.tracking.rates import BetaRates, Mixture, chances, expected_next

VALUES = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
WEIGHTS = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0]], dtype=torch.float64)
RATES = Mixture.of_states(VALUES, WEIGHTS)
BETA = BetaRates(torch.tensor([1.0, 0.5, 7.0], dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


def probability(outcomes: tuple[int, ...], row: int) -> float:
    """Of a sequence, by the law of total probability."""
    return sum(
        weight * math.prod(rate if outcome else 1 - rate for outcome in outcomes)
        for rate, weight in zip(VALUES.tolist(), WEIGHTS[row].tolist(), strict=True)
    )


def expected_over_sequences(
    trials: int, row: int, tracked: bool, loss: Kind, power: float, start: tuple[int, ...]
) -> float:
    """The signal, sequence by sequence, given that the group starts with `start`."""
    total, seen = 0.0, 0.0
    for rest in itertools.product((0, 1), repeat=trials - len(start)):
        outcomes = start + rest
        chance = probability(outcomes, row)
        if tracked:
            others = [outcomes[:j] + outcomes[j + 1 :] for j in range(trials)]
            squares = sum(
                (r - probability((*other, 1), row) / probability(other, row)) ** 2
                for r, other in zip(outcomes, others, strict=True)
            )
        else:
            squares = float(advantages(torch.tensor([outcomes], dtype=torch.float64), loss, eps=1e-12).square().sum())
        total += chance * squares ** (power / 2)
        seen += chance
    return total / seen


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize(("loss", "tracked"), [("grpo", False), ("dr_grpo", False), ("rloo", False), ("grpo", True)])
def test_the_signal_is_that_of_all_sequences(loss: Kind, tracked: bool, power: float) -> None:
    signal = Signal(loss, tracked, power)
    for trials in (1, 2, 4) if tracked else (2, 5):
        found = signal.expected(RATES, trials)
        for row in range(3):
            assert found[row] == pytest.approx(expected_over_sequences(trials, row, tracked, loss, power, ()), abs=1e-9)


@pytest.mark.parametrize("tracked", [False, True])
def test_the_signal_after_a_first_part_is_that_of_the_sequences_that_start_so(tracked: bool) -> None:
    signal = Signal("grpo", tracked, 1.0)
    first, solved = torch.tensor([2, 2, 3]), torch.tensor([0.0, 1.0, 3.0])
    for more in (0, 1, 3):
        found = signal.after(RATES, solved, first, more)
        for row in range(3):
            start = (1,) * int(solved[row]) + (0,) * int(first[row] - solved[row])
            whole = int(first[row]) + more
            expected = expected_over_sequences(whole, row, tracked, "grpo", 1.0, start)
            assert found[row] == pytest.approx(expected, abs=1e-9)


def test_closed_forms() -> None:
    """Those that the module's docstring states."""
    variance = (WEIGHTS * VALUES * (1 - VALUES)).sum(-1)
    useful = (WEIGHTS * (1 - VALUES**6 - (1 - VALUES) ** 6)).sum(-1)
    torch.testing.assert_close(Signal("grpo").expected(RATES, 6), 5 * useful)
    torch.testing.assert_close(Signal("dapo").expected(RATES, 6), 5 * useful)
    torch.testing.assert_close(Signal("dr_grpo").expected(RATES, 6), 5 * variance)
    torch.testing.assert_close(Signal("rloo").expected(RATES, 6), 36 / 5 * variance)


@given(st.integers(1, 8), st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_both_laws_are_laws_of_exchangeable_outcomes(trials: int, given_solved: int) -> None:
    for law in (RATES, BETA):
        after = law.given(torch.full((3,), float(given_solved)), torch.ones(3))
        torch.testing.assert_close(chances(after, trials).sum(-1), torch.ones(3, dtype=torch.float64))
        # One more rollout, whatever it is: P(s, f) = P(s + 1, f) + P(s, f + 1).
        joined = after.sequence(trials + 1, 2) + after.sequence(trials, 3)
        torch.testing.assert_close(after.sequence(trials, 2), joined)
        # Bayes' rule: the posterior's chance of more is the ratio of the chances of the whole and the part.
        whole = law.sequence(given_solved + trials, 1 + 2) / law.sequence(given_solved, 1)
        torch.testing.assert_close(after.sequence(trials, 2), whole)


def test_a_flat_prior_is_laplaces_rule() -> None:
    flat = BetaRates(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    for s, f in ((0, 0), (0, 7), (3, 2)):
        assert expected_next(flat, s, f).item() == pytest.approx((s + 1) / (s + f + 2))


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo"])
def test_hard_prompts_get_larger_groups(loss: Literal["grpo", "dr_grpo"]) -> None:
    rates = Mixture.of_states(torch.tensor([[0.5], [0.1], [0.02]]), torch.ones(3, 1))
    sizes = best_sizes(rates, [2, 3, 4, 6, 8, 12, 16], Signal(loss, power=1.0))
    assert sizes.tolist() == ([4, 12, 16] if loss == "grpo" else [3, 4, 12])


def test_equally_good_sizes_are_settled_for_the_smaller() -> None:
    """For dr_grpo the expected square per rollout is (n - 1) / n of the variance: it grows, and the largest is best."""
    rates = Mixture.of_states(torch.tensor([[0.5]]), torch.ones(1, 1))
    assert best_sizes(rates, [8, 2], Signal("dr_grpo")).tolist() == [8]
    assert best_sizes(rates, [3, 1, 2], Signal(tracked=True)).tolist() == [1]  # a known rate: each rollout counts alike


@pytest.mark.parametrize("model", [SolvingProgress(), LogitWalk(), BetaBernoulli(), RewardEMA()])
def test_every_tracker_says_the_chances_that_it_predicts(model: object) -> None:
    """The law of the rates and `informative` are of one belief, before and after observations."""
    sampler = PromptSampler(model, 4, trials=5, dtype=torch.float64)  # type: ignore[arg-type]
    for _ in range(3):
        by_count: Tensor = chances(sampler.tracker.rates(), 5)
        torch.testing.assert_close(by_count[:, 1:-1].sum(-1), sampler.informative(5).double(), atol=1e-5, rtol=0)
        sampler.observe([0, 1, 2], [0, 2, 5], 5)


def test_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one group size"):
        best_sizes(RATES, [])
    with pytest.raises(ValueError, match="sizes"):
        best_sizes(RATES, [0, 2])
