"""The filter's two halves, Bayes' rule and Chapman-Kolmogorov, and the derivatives of the likelihood they make."""

from __future__ import annotations

import itertools
from typing import Any
from unittest.mock import patch

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation
from torch import Tensor

from dps_pyro import Dynamics, RolloutHistory, Step, condition, predict
from dps_pyro.dynamics import sparse as rounds_of
from dps_pyro.dynamics.forward import filter_all, leaps_over
from dps_pyro.dynamics.progress import Progress
from dps_pyro.history.layouts import layout
from dps_pyro.models import LogitWalk, PaperDPS, SolvingProgress

BELIEFS = hnp.arrays(float, (4, 3), elements=st.floats(0, 1, width=16)).filter(lambda b: (b.sum(1) > 0).all())
LOG_LIKELIHOODS = hnp.arrays(float, (4, 3), elements=st.floats(-2e5, 5, width=32))


@given(BELIEFS, LOG_LIKELIHOODS, st.sampled_from([torch.float32, torch.float64]))
def test_condition_is_bayes_rule_whatever_the_scale(belief: Any, log_likelihood: Any, dtype: torch.dtype) -> None:
    b = torch.tensor(belief, dtype=dtype)
    ll = torch.tensor(log_likelihood, dtype=dtype)
    posterior, evidence = condition(b, ll)
    exact = b.double().log() + ll.double()  # in log space, in twice the digits
    torch.testing.assert_close(posterior.double(), exact.softmax(-1), atol=2e-6, rtol=0)
    torch.testing.assert_close(evidence.double(), exact.logsumexp(-1), atol=2e-5, rtol=1e-6)
    torch.testing.assert_close(posterior.sum(-1), torch.ones(4, dtype=dtype))
    torch.testing.assert_close(condition(b * 0.125, ll).belief, posterior)
    shifted = condition(b, ll - 16)
    torch.testing.assert_close(shifted.belief, posterior, atol=0.02, rtol=0)  # -2e5 - 16 rounds in float32
    torch.testing.assert_close(shifted.log_evidence, evidence - 16, atol=0.05, rtol=1e-6)


@given(BELIEFS)
def test_a_missing_step_conditions_on_nothing(belief: Any) -> None:
    b = torch.tensor(belief, dtype=torch.float64)
    b = b / b.sum(-1, keepdim=True)
    posterior, evidence = condition(b, torch.zeros(4, 3, dtype=torch.float64))
    torch.testing.assert_close(posterior, b)
    torch.testing.assert_close(evidence, torch.zeros(4, dtype=torch.float64))


@given(BELIEFS, hnp.arrays(float, (4, 3, 3), elements=st.floats(0.001, 1)))
def test_predict_is_chapman_kolmogorov_for_shared_and_own_matrices(belief: Any, weights: Any) -> None:
    b = torch.tensor(belief)
    b = b / b.sum(-1, keepdim=True)
    matrix = torch.tensor(weights)
    matrix = matrix / matrix.sum(-1, keepdim=True)
    for transition in (matrix, matrix[:1], matrix[0]):
        ahead = predict(b, transition)
        every = transition.expand(4, 3, 3)
        by_hand = [[sum(b[n, i] * every[n, i, j] for i in range(3)) for j in range(3)] for n in range(4)]
        torch.testing.assert_close(ahead, torch.tensor(by_hand))
        torch.testing.assert_close(ahead.sum(-1), torch.ones(4, dtype=torch.float64))
    samples = predict(b.expand(2, 4, 3), torch.stack([matrix[:1], matrix[1:2]]))  # [2, 1, 3, 3]: sample dimensions
    torch.testing.assert_close(samples[1], predict(b, matrix[1]))


def test_an_impossible_outcome_is_believed_or_changes_nothing() -> None:
    inf = float("inf")
    belief = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    posterior, evidence = condition(belief, torch.tensor([[-inf, 0.0, 0.0], [-inf, -inf, -inf], [-inf, -3.0, -inf]]))
    torch.testing.assert_close(posterior, torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]))
    torch.testing.assert_close(evidence, torch.tensor([-inf, -inf, -3 + np.log(0.3)], dtype=torch.float32))


def test_condition_has_finite_gradients_at_zero_beliefs_and_extreme_likelihoods() -> None:
    belief = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]], requires_grad=True)
    ll = torch.tensor([[-1e4, -3e4, 0.0], [-1e5, -2e5, -float("inf")]], requires_grad=True)
    condition(belief, ll).log_evidence.sum().backward()
    assert belief.grad is not None and bool(belief.grad.isfinite().all())
    assert ll.grad is not None and bool(ll.grad.isfinite().all())


# --------------------------------------------------------------------------------------------------------- derivatives


class Stays(Dynamics[Tensor]):
    """One number to learn: the chance that a state lasts."""

    def prior(self, prompts: pyro.plate) -> Tensor:
        value: Tensor = pyro.sample("stay", dist.Beta(torch.tensor(4.0), 2.0))
        return value

    def initial(self, theta: Tensor) -> dist.Categorical:
        return dist.Categorical(torch.ones(3) / 3)

    def transition(self, theta: Tensor, step: Step) -> dist.Categorical:
        stay = theta[..., None, None]
        return dist.Categorical(stay * torch.eye(3) + (1 - stay) / 3)

    def emission(self, theta: Tensor, step: Step) -> dist.Binomial:
        return dist.Binomial(step.trials.unsqueeze(-1), torch.tensor([0.03, 0.5, 0.97]))


def test_gradients_are_finite_and_equal_finite_differences() -> None:
    torch.set_default_dtype(torch.float64)
    solved, trials = oracle.random_groups(3, 5)
    model, values = oracle.OwnLadder(3), oracle.own_values(3, 3)

    def log_prob(*sites: Tensor) -> Tensor:
        theta = oracle.Own(*(site / site.sum(-1, keepdim=True) for site in sites[:2]), sites[2])
        return Progress(model, theta, Step(trials)).log_prob(solved)

    assert torch.autograd.gradcheck(log_prob, tuple(value.requires_grad_() for value in values.values()))


def test_samples_that_share_their_emissions_are_filtered_as_each_alone() -> None:
    """What the samples share, the chances of the outcomes, is computed once."""
    torch.set_default_dtype(torch.float64)
    solved, trials = oracle.random_groups(4, 6)
    stays = torch.tensor([[0.2], [0.6], [0.9]], requires_grad=True)  # [S, 1]: the prompts are the dimension after
    together = Progress(Stays(), stays, Step(trials)).log_prob(solved)
    alone = torch.stack([Progress(Stays(), stay[0], Step(trials)).log_prob(solved) for stay in stays])
    torch.testing.assert_close(together, alone)
    weights = torch.rand(3, 4)
    gradients = [torch.autograd.grad((weights * found).sum(), stays)[0] for found in (together, alone)]
    torch.testing.assert_close(*gradients)
    beliefs = Progress(Stays(), stays.detach(), Step(trials)).filter(solved).belief  # [T, S, N, K]
    for sample, stay in enumerate(stays.detach()):
        one = Progress(Stays(), stay[0], Step(trials)).filter(solved).belief
        torch.testing.assert_close(beliefs[:, sample], one)


@pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, lambda: oracle.OwnLadder(3)])
def test_gradients_by_smoothing_equal_those_through_the_filter(make: Any) -> None:
    torch.set_default_dtype(torch.float64)
    model = make()
    solved, trials = oracle.random_groups(4, 5)
    trials = trials.clamp_min(2) * (trials > 0)
    theta = model.prior(pyro.plate("prompts", 4, dim=-1))
    many = type(theta)(*(part.expand(3, *part.shape).clone() for part in theta))
    if isinstance(model, SolvingProgress):
        many = type(theta)(*(part.unsqueeze(1) for part in many))
    for parameters, batch in ((theta, [4]), (theta, [2, 4]), (many, [3, 4]), (many, [2, 3, 4])):
        sites = tuple(part.detach().requires_grad_() for part in parameters)
        law = Progress(model, type(theta)(*sites), Step(trials)).expand(batch)
        weights = torch.rand(batch)
        smoothed = torch.autograd.grad((law.log_prob(solved) * weights).sum(), sites, None, True, allow_unused=True)
        filtered = torch.autograd.grad((law.log_evidence(solved).sum(0) * weights).sum(), sites, allow_unused=True)
        for one, other in zip(smoothed, filtered, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, lambda: oracle.OwnLadder(3)])
def test_second_derivatives_are_those_through_the_filter(make: Any) -> None:
    torch.set_default_dtype(torch.float64)
    model = make()
    solved, trials = oracle.random_groups(2, 4, seed=1)
    trials = trials.clamp_min(2) * (trials > 0)
    theta = model.prior(pyro.plate("prompts", 2, dim=-1))
    sites = tuple(part.detach().clamp(0.05, 0.95) for part in theta)

    def law(*sites: Tensor) -> Progress:
        return Progress(model, type(theta)(*sites), Step(trials))

    smoothed, filtered = (
        torch.autograd.functional.hessian(of, sites)
        for of in (
            lambda *sites: law(*sites).log_prob(solved).sum(),
            lambda *sites: law(*sites).log_evidence(solved).sum(),
        )
    )
    for one, other in zip(itertools.chain(*smoothed), itertools.chain(*filtered), strict=True):
        torch.testing.assert_close(one, other)
    assert max(float(block.abs().max()) for block in itertools.chain(*smoothed)) > 1e-3


def test_a_laplace_approximation_has_the_curvature_of_the_posterior() -> None:
    torch.set_default_dtype(torch.float64)
    history = RolloutHistory.from_dense(*oracle.random_groups(20, 6))
    model = Stays()
    guide = AutoLaplaceApproximation(model.model)
    svi = SVI(model.model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(200):
        svi.step(history)
    found = guide.laplace_approximation(history)
    spread = float(found.get_posterior().covariance_matrix)
    best = guide.loc.detach()

    def density(logit: Tensor) -> float:
        trace = poutine.trace(poutine.condition(model.model, {"stay": logit.sigmoid()})).get_trace(history)
        jacobian = torch.nn.functional.logsigmoid(logit) + torch.nn.functional.logsigmoid(-logit)
        return float(trace.log_prob_sum()) + float(jacobian)

    step = 1e-3
    curvature = sum(density(best[0] + by) for by in (-step, step)) - 2 * density(best[0])
    assert spread == pytest.approx(-(step**2) / curvature, rel=1e-2)


def test_gradients_stay_finite_where_one_state_is_ruled_out() -> None:
    rates = torch.tensor([1e-30, 0.5, 1 - 1e-7], requires_grad=True)
    model = SolvingProgress()
    theta = model.parameters(1)._replace(rates=rates)
    trials = torch.tensor([[1000, 1000, 0, 1000]])
    Progress(model, theta, Step(trials)).log_prob(torch.tensor([[0.0, 1000.0, 0.0, 500.0]])).sum().backward()
    assert rates.grad is not None and bool(rates.grad.isfinite().all())


# --------------------------------------------------------------------------------------------- rounds in place of steps


def sparse(num_prompts: int, num_steps: int, share: float, seed: int) -> RolloutHistory:
    rng = np.random.default_rng(seed)
    trials = rng.integers(2, 9, (num_prompts, num_steps)) * (rng.random((num_prompts, num_steps)) < share)
    return RolloutHistory.from_dense(torch.tensor(rng.binomial(trials, 0.4)).double(), torch.tensor(trials))


def both_ways(model: Any, history: RolloutHistory, sites: Any, kind: Any) -> list[Tensor]:
    """The log-likelihoods by steps and by rounds."""
    solved, trials, trained, progress = history.dense()
    steps, rounds = Step(trials, trained, progress), layout(history).rounds()
    return [Progress(model, kind(*sites), steps, by).log_prob(solved) for by in (None, rounds)]


@pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, lambda: LogitWalk(rungs=5), lambda: oracle.OwnLadder(3)])
@given(
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.0, 0.02, 0.1, 0.3]),
    sample=st.booleans(),
    overhead=st.sampled_from([0, 100, 10**9]),
)
@settings(max_examples=12)
def test_rounds_give_the_likelihood_and_gradients_of_steps(
    make: Any, seed: int, share: float, sample: bool, overhead: int
) -> None:
    """Also where prompts are split by their rounds as finely as possible, in some blocks, or not at all."""
    torch.set_default_dtype(torch.float64)
    with patch.object(rounds_of, "OVERHEAD", overhead):
        check_rounds(make, seed, share, sample)


def check_rounds(make: Any, seed: int, share: float, sample: bool) -> None:
    torch.manual_seed(seed)
    model, history = make(), sparse(4, 60, share, seed)
    theta = model.prior(pyro.plate("prompts", 4, dim=-1))
    shared = isinstance(model, SolvingProgress | LogitWalk)
    parts = [part.unsqueeze(0) for part in theta] if shared else list(theta)
    if sample:  # two parameter draws at once, left of the prompts
        parts = [torch.stack([part, part.flip(0)]) for part in parts]
    elif shared:
        parts = list(theta)
    sites = [part.detach().requires_grad_() for part in parts]
    kind = type(theta)
    values = both_ways(model, history, sites, kind)
    torch.testing.assert_close(*values, atol=1e-10, rtol=1e-10)
    weights = torch.rand(values[0].shape)
    if not values[0].requires_grad:
        return
    by_steps, by_rounds = (torch.autograd.grad((v * weights).sum(), sites, allow_unused=True) for v in values)
    for one, other in zip(by_steps, by_rounds, strict=True):
        if one is not None or other is not None:
            zero = torch.zeros(())
            torch.testing.assert_close(
                *torch.broadcast_tensors(*(zero if g is None else g for g in (one, other))), atol=1e-10, rtol=1e-10
            )


def test_rounds_bear_what_single_precision_holds_impossible() -> None:
    """Where the likeliest state is believed impossible the shift leaves nothing of the others: it is done with care."""
    model, history = SolvingProgress(), sparse(3, 40, 0.1, 1)
    theta = model.parameters(3, {"gaps": torch.tensor([1e-7, 1e-7, 1e-7, 1 - 3e-7])})
    sure = theta._replace(initial=torch.tensor([1.0, 0.0, 0.0]), matrix=torch.eye(3))
    by_steps, by_rounds = both_ways(model, history, sure, type(theta))
    assert bool(by_steps.isfinite().all()) and float(by_steps.min()) < -100
    torch.testing.assert_close(by_steps, by_rounds)


@pytest.mark.parametrize("overhead", [0, 10**9])
def test_rounds_give_the_second_derivatives_of_steps(overhead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_of, "OVERHEAD", overhead)
    torch.set_default_dtype(torch.float64)
    model, history = SolvingProgress(), sparse(3, 40, 0.1, 1)
    theta = model.prior(pyro.plate("prompts", 3, dim=-1))
    sites = tuple(part.detach().clamp(0.05, 0.95) for part in theta)
    by_steps, by_rounds = (
        torch.autograd.functional.hessian(lambda *s: both_ways(model, history, s, type(theta))[way].sum(), sites)  # noqa: B023
        for way in (0, 1)
    )
    for one, other in zip(itertools.chain(*by_steps), itertools.chain(*by_rounds), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("make", "split"),
    [(LogitWalk, True), (SolvingProgress, True), (PaperDPS, True), (lambda: oracle.OwnLadder(3), False)],
)
def test_prompts_are_taken_through_their_rounds_only_where_that_is_the_same(
    make: Any, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moves have to be the same at all steps, and what is emitted the same for all prompts."""
    monkeypatch.setattr(rounds_of, "OVERHEAD", 0)
    history = sparse(200, 60, 0.02, 1)
    _, trials, trained, progress = history.dense()
    model = make()
    theta = model.prior(pyro.plate("prompts", 200, dim=-1))
    law = Progress(model, theta, Step(trials, trained, progress), layout(history).rounds())
    groups = int((trials > 0).sum())
    assert groups <= law.cells < 2 * groups if split else law.cells == 200 * 60


@given(
    st.integers(0, 10_000), st.floats(0, 0.5), st.integers(1, 40), st.sampled_from([3, 25]), st.sampled_from([0, 10**9])
)
def test_every_prompt_with_rounds_is_in_one_block(
    seed: int, share: float, num_steps: int, states: int, overhead: int
) -> None:
    at = layout(sparse(30, num_steps, share, seed)).rounds()
    with patch.object(rounds_of, "OVERHEAD", overhead):
        blocks = rounds_of.blocks_of(at, num_steps, states, torch.float64)
    counts = (at < num_steps).sum(-1)
    if blocks:
        rows = torch.cat([block.rows for block in blocks]).sort().values
        assert rows.tolist() == (counts > 0).nonzero().squeeze(-1).tolist()
    for block in blocks:
        torch.testing.assert_close(block.steps, at[block.rows, : int(counts[block.rows].max())])
    if overhead == 0:  # none has more than twice the places that its groups need
        assert sum(block.steps.numel() for block in blocks) <= 2 * int(counts.sum())


@given(hnp.arrays(int, (3, 4), elements=st.integers(0, 200)))
def test_leaps_pass_as_many_steps_as_the_gaps_have(gaps: Any) -> None:
    leaps = leaps_over(torch.tensor(gaps), torch.float64)
    for row, moves in zip(gaps, leaps, strict=True):
        passed = sum((2**digit * whose.long().squeeze(0) for digit, whose in moves), torch.zeros(4, dtype=torch.long))
        assert passed.tolist() == row.tolist()


@given(hnp.arrays(float, (5, 4, 3), elements=st.floats(-300, 0)), st.booleans(), st.booleans())
def test_the_filter_of_all_steps_is_condition_and_predict(shown: Any, own: bool, impossible: bool) -> None:
    emitted = torch.tensor(shown)
    if impossible:
        emitted[2, 1], emitted[3, 2, :2] = -float("inf"), -float("inf")
    generator = torch.Generator().manual_seed(0)
    matrices = torch.rand(5 if own else 1, 4 if own else 1, 3, 3, generator=generator, dtype=torch.float64)
    matrices = matrices / matrices.sum(-1, keepdim=True)
    belief = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(4, 3)
    found = filter_all(belief, matrices, emitted)
    for t in range(5):
        belief, evidence = condition(belief, emitted[t])
        torch.testing.assert_close(found.belief[t], belief)
        torch.testing.assert_close(found.log_evidence[t], evidence)
        belief = predict(belief, matrices[t if own else 0])
