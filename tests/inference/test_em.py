"""EM, which is measured beside `Laplace`: it never lowers the log posterior, and ends where a gradient search ends."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.inference.em import best_gaps, em, lbfgs
from dps_pyro import RolloutHistory
from dps_pyro.models import SolvingProgress


def log_of(seed: int, prompts: int, steps: int) -> RolloutHistory:
    generator = torch.Generator().manual_seed(seed)
    trials = torch.randint(0, 9, (prompts, steps), generator=generator)
    solved = (torch.rand(prompts, steps, generator=generator) * (trials + 1)).floor().clamp_max(trials)
    return RolloutHistory.from_dense(solved, trials)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 8))
def test_no_iteration_lowers_the_log_posterior(seed: int, prompts: int, steps: int) -> None:
    torch.set_default_dtype(torch.float64)
    log = log_of(seed, prompts, steps)
    if len(log):
        values = torch.tensor([one.value for one in em(SolvingProgress(), log, iterations=15)[1]])
        assert bool((values.diff() >= -1e-9 * values[:-1].abs()).all())


def test_the_optimum_of_a_gradient_search() -> None:
    torch.set_default_dtype(torch.float64)
    model, log = SolvingProgress(), log_of(3, 30, 10)
    point, climbed = em(model, log)
    found, searched = lbfgs(model, log)
    assert abs(climbed[-1].value - searched[-1].value) < 0.01
    for name, value in point._asdict().items():
        torch.testing.assert_close(value, found[name], atol=0.01, rtol=0)


@settings(max_examples=20)
@given(st.lists(st.floats(0, 500), min_size=6, max_size=6), st.lists(st.floats(0.5, 30), min_size=4, max_size=4))
def test_rates_are_where_the_slope_is_zero(counts: list[float], weights: list[float]) -> None:
    torch.set_default_dtype(torch.float64)
    right, wrong, weight = torch.tensor(counts[:3]), torch.tensor(counts[3:]), torch.tensor(weights)
    gaps = best_gaps(torch.full((4,), 0.25), right, wrong, weight)
    rates = gaps.cumsum(-1)[:-1].requires_grad_()
    apart = torch.diff(rates, prepend=torch.zeros(1), append=torch.ones(1))
    value = (right * rates.log() + wrong * torch.log1p(-rates)).sum() + (weight * apart.log()).sum()
    (slope,) = torch.autograd.grad(value, rates)
    assert bool((gaps > 0).all())
    assert float((slope.abs() * gaps.min()).max()) < 1e-3
