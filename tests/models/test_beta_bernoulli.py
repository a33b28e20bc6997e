"""MoPPS's posterior against a straight port of the authors' update, and its predictions against the Beta-binomial."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs.tiny import metrics, tiny
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dps_pyro import PromptSampler, track
from dps_pyro.models import BetaBernoulli
from dps_pyro.tracking.predictor import Filter, Predictor
from dps_pyro.tracking.tracker import is_fitted
from dps_pyro.trainers.grpo import train

GROUP = st.sampled_from([1, 2, 8, 16]).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
VISITS = st.lists(st.dictionaries(st.integers(0, 3), GROUP), min_size=1, max_size=12)
PRIORS = st.sampled_from([(1.0, 1.0), (0.5, 3.0), (20.0, 0.01)])


def published_mopps(visits: Any, num_prompts: int, prior: Any, decay: float) -> tuple[list[float], list[float]]:
    """`PosteriorSampler.train` of the authors' recipe/ours/mopps.py, line by line; each group has its own size."""
    alpha, beta = [prior[0]] * num_prompts, [prior[1]] * num_prompts
    for groups in visits:
        for index, (solved, n) in groups.items():
            s = solved / n
            alpha[index] = alpha[index] * decay + prior[0] * (1 - decay) + s * n
            beta[index] = beta[index] * decay + prior[1] * (1 - decay) + (1 - s) * n
    return alpha, beta


def posterior(tracker: Filter, prior: Any = (1.0, 1.0)) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    counts = tracker.state_dict()["filter"]
    return prior[0] + counts["successes"].numpy(), prior[1] + counts["failures"].numpy()


def beta_binomial(solved: float, trials: int, alpha: float, beta: float) -> float:
    """`log p(solved of trials)` by the integral's closed form."""

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    ways = -math.log(trials + 1) - log_beta(solved + 1, trials - solved + 1)
    return ways + log_beta(alpha + solved, beta + trials - solved) - log_beta(alpha, beta)


@given(VISITS, PRIORS, st.sampled_from([0.5, 0.7, 1.0, 0.0]))
def test_the_posterior_follows_the_authors_update(visits: Any, prior: Any, decay: float) -> None:
    sampler = PromptSampler(BetaBernoulli(prior, decay), 4, dtype=torch.float64)
    for groups in visits:
        sampler.observe(list(groups), [k for k, _ in groups.values()], [n for _, n in groups.values()])
    theirs = published_mopps(visits, 4, prior, decay)
    for ours, expected in zip(posterior(sampler.tracker, prior), theirs, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


def test_by_hand_two_groups_of_one_prompt() -> None:
    sampler = PromptSampler(BetaBernoulli((1, 2), 0.5), 2)
    sampler.observe([0], [3], 8)
    sampler.observe([], [], 8)  # time alone forgets nothing
    sampler.observe([0], [8], 8)
    alpha, beta = posterior(sampler.tracker, (1, 2))
    assert alpha.tolist() == [1 + 1.5 + 8, 1]
    assert beta.tolist() == [2 + 2.5 + 0, 2]


@given(VISITS, PRIORS)
def test_predictions_and_evidence_are_the_beta_binomials(visits: Any, prior: Any) -> None:
    tracker = track(BetaBernoulli(prior, 0.6, trials=4), 4, dtype=torch.float64)
    for groups in visits:
        rows = torch.tensor(list(groups), dtype=torch.long)
        solved = torch.tensor([k for k, _ in groups.values()], dtype=torch.float64)
        trials = torch.tensor([n for _, n in groups.values()], dtype=torch.long)
        shapes = list(zip(*(shape.tolist() for shape in posterior(tracker, prior)), strict=True))
        for n in (1, 2, 4, 16):
            law = np.exp([[beta_binomial(k, n, *shape) for k in range(n + 1)] for shape in shapes])
            np.testing.assert_allclose(law.sum(-1), 1)
            np.testing.assert_allclose(tracker.informative(n).numpy(), law[:, 1:n].sum(-1), atol=1e-9)
            if n == 4:
                classes = np.stack([law[:, 0], law[:, 1:4].sum(-1), law[:, 4]], -1)
                np.testing.assert_allclose(tracker.belief.numpy(), classes, atol=1e-9)
        evidence = tracker.observe(rows, solved, trials)
        expected = [beta_binomial(k, n, *shapes[row]) for row, (k, n) in groups.items()]
        np.testing.assert_allclose(evidence.numpy(), expected, atol=1e-8)


def test_rewards_may_add_up_to_fractions() -> None:
    sampler = PromptSampler(BetaBernoulli(decay=1.0), 2)
    sampler.observe([0, 1], [2.5, 0.25], [8, 1])
    alpha, beta = posterior(sampler.tracker)
    assert (alpha.tolist(), beta.tolist()) == ([3.5, 1.25], [6.5, 1.75])
    assert np.isfinite(sampler.metrics()["log_evidence"])


def test_many_rollouts_in_single_precision_stay_exact() -> None:
    """Logarithms of Beta functions of ten thousands, as after long runs that forget nothing."""
    sampler = PromptSampler(BetaBernoulli(decay=1.0), 3)
    for _ in range(300):
        sampler.observe([0, 1, 2], [0, 32, 64], 64)
    for row, (alpha, beta) in enumerate(zip(*posterior(sampler.tracker), strict=True)):
        unsolved, solved = (
            math.prod((shape + j) / (alpha + beta + j) for j in range(8)) for shape in (float(beta), float(alpha))
        )
        expected = [unsolved, 1 - unsolved - solved, solved]
        assert sampler.belief[row].tolist() == pytest.approx(expected, abs=1e-6)
        assert float(sampler.informative(8)[row]) == pytest.approx(expected[1], abs=1e-6)
    assert sampler.belief.dtype == sampler.informative(8).dtype == torch.float32


@pytest.mark.parametrize("prior", [(1.0, 1.0), (0.3, 4.0), (0.02, 0.03)])
def test_draws_are_the_posteriors(prior: Any) -> None:
    tracker = track(BetaBernoulli(prior), 4000, dtype=torch.float64)
    tracker.observe(torch.arange(2000), torch.full([2000], 3.0), torch.full([2000], 8))
    drawn = tracker.draw(torch.Generator().manual_seed(0)).numpy()
    assert stats.kstest(drawn[:2000], stats.beta(prior[0] + 3, prior[1] + 5).cdf).pvalue > 1e-3
    # Draws below the smallest number and above the largest below 1 are 0 and 1.
    middle = np.linspace(0.01, 0.99, 9)
    share = (drawn[2000:, None] <= middle).mean(0)
    np.testing.assert_allclose(share, stats.beta(*prior).cdf(middle), atol=0.04)


def test_draws_are_the_generators_and_of_any_prior_a_number() -> None:
    tracker = track(BetaBernoulli((1e-6, 1e-6)), 1000)
    before = torch.get_rng_state()
    one, other = (tracker.draw(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one, tracker.draw(torch.Generator().manual_seed(4)))
    assert one.unique().tolist() == [0, 1]
    assert float(one.mean()) == pytest.approx(0.5, abs=0.06)


def test_target_takes_the_draws_nearest_one_half() -> None:
    sampler = PromptSampler(BetaBernoulli(), 50, acquisition="target")
    sampler.observe(range(50), [0] * 20 + [32] * 10 + [64] * 20, 64)
    assert set(sampler.select(10).tolist()) == set(range(20, 30))


def test_it_is_a_predictor_that_nothing_is_fitted_to() -> None:
    model = BetaBernoulli()
    assert isinstance(model, Predictor)
    assert not is_fitted(model)
    with pytest.raises(ValueError, match="values: expected none, as BetaBernoulli counts online"):
        track(model, 3, values={"prior": torch.ones(2)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": (0, 1)}, "prior: expected two numbers above 0, got"),
        ({"prior": (1, -1)}, "prior: .* got"),
        ({"prior": (1, float("inf"))}, "prior: .* got"),
        ({"prior": (1, float("nan"))}, "prior: .* got"),
        ({"prior": 1.0}, "prior: expected two numbers above 0, got 1.0"),
        ({"prior": (1, 1, 1)}, "prior: .* got"),
        ({"prior": "x"}, "prior: expected numbers, got 'x'"),
        ({"decay": 1.1}, r"decay: expected a number in \[0, 1\], got 1.1"),
        ({"decay": -0.1}, "decay"),
        ({"decay": "x"}, "decay: expected a number, got 'x'"),
        ({"trials": 0}, "trials: .* got 0"),
        ({"trials": 2.5}, "trials: .* got 2.5"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BetaBernoulli(**arguments)


@pytest.mark.usefixtures("undrawn")
def test_a_run_from_start_to_report_and_on(tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    chosen: dict[str, Any] = {"dynamics": "BetaBernoulli", "dynamics_args": {"trials": 4}, "acquisition": "target"}
    summary = train(tiny(straight, **chosen, steps=3, report=True))
    assert summary["model"] == "BetaBernoulli"
    assert summary["states"] == list(BetaBernoulli.states)
    assert not (straight / "posterior").exists()  # there is nothing to fit
    page = (straight / "report.html").read_text(encoding="utf-8")
    assert "BetaBernoulli predicted which prompts were worth a rollout; target chose among them." in page
    train(tiny(stopped, **chosen, steps=1))
    train(tiny(stopped, **chosen, steps=3, resume=True))
    lines = [[line for line in metrics(run) if line["kind"] == "train"] for run in (straight, stopped)]
    assert lines[0] == lines[1]
    assert (straight / "history.parquet").read_bytes() == (stopped / "history.parquet").read_bytes()
