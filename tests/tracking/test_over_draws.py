"""The filter over draws of the parameters: exact at each draw, and weighted by what each has predicted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from helpers import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from torch import Tensor

from dps_pyro import Posterior, PromptSampler, Tracker
from dps_pyro.models import BetaBernoulli, DenseReward, SolvingProgress, Trained
from dps_pyro.storage import load_state, save_state
from dps_pyro.tracking import TrackerOverDraws
from dps_pyro.tracking.over_draws import spread_out

NUM_PROMPTS, NUM_STEPS, DRAWS = 4, 5, 3


@pytest.fixture(autouse=True)
def double_precision() -> None:
    torch.set_default_dtype(torch.float64)


def drawn(model: Any, count: int = DRAWS, seed: int = 0) -> dict[str, Tensor]:
    """Draws of a model's prior."""
    torch.manual_seed(seed)
    sites = [sites_drawn(model) for _ in range(count)]
    return {name: torch.stack([one[name] for one in sites]) for name in sites[0]}


def sites_drawn(model: Any) -> dict[str, Tensor]:
    trace = poutine.trace(model.prior).get_trace(pyro.plate("prompts", NUM_PROMPTS, dim=-1))
    return {name: site["value"] for name, site in trace.iter_stochastic_nodes()}


def feed(tracker: Any, solved: Tensor, trials: Tensor, order: Any = None) -> float:
    """The sum of the scores."""
    total = 0.0
    for t in range(solved.shape[1]) if order is None else order:
        rows = trials[:, t].nonzero().squeeze(-1)
        total += float(tracker.observe(rows, solved[rows, t].double(), trials[rows, t], step=t).sum())
    return total


def by_hand(draws: dict[str, Tensor], solved: Tensor, trials: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
    """The draws' weights [S], the averaged beliefs [N, K] after the last step, and the log-probability of all groups,
    by adding up all paths of states of every prompt at every draw."""
    evidence, beliefs = np.zeros(len(draws["gaps"])), []
    for s in range(len(evidence)):
        rates = draws["gaps"][s].cumsum(-1)[:3].numpy()
        found = []
        for n in range(len(solved)):
            shown = [oracle.binomial(float(k), int(m), rates) for k, m in zip(solved[n], trials[n], strict=True)]
            moves = np.broadcast_to(draws["transition"][s].numpy(), (len(shown), 3, 3))
            log, belief = oracle.brute_force(draws["initial"][s].numpy(), moves, shown)
            evidence[s] += log
            found.append(belief[-1])
        beliefs.append(found)
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    together = math.log(np.exp(evidence - evidence.max()).mean()) + evidence.max()
    return weights, np.einsum("s,snk->nk", weights, np.array(beliefs)), together


def test_weights_beliefs_and_scores_are_those_of_brute_force() -> None:
    solved, trials = oracle.random_groups(NUM_PROMPTS, NUM_STEPS)
    draws = {name: 0.9 * value.mean(0) + 0.1 * value for name, value in drawn(SolvingProgress()).items()}  # alike
    tracker = TrackerOverDraws(SolvingProgress(), NUM_PROMPTS, values=draws)
    torch.testing.assert_close(tracker.weights, torch.full((DRAWS,), 1 / DRAWS))
    total = feed(tracker, solved, trials)
    weights, beliefs, together = by_hand(draws, solved, trials)
    assert weights.max() < 0.999  # or nothing would be averaged
    np.testing.assert_allclose(tracker.weights.numpy(), weights, atol=1e-9)
    np.testing.assert_allclose(tracker.belief.numpy(), beliefs, atol=1e-9)
    assert total == pytest.approx(together, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(NUM_STEPS)))
def test_whatever_the_order_in_which_groups_arrive(order: list[int]) -> None:
    solved, trials = oracle.random_groups(NUM_PROMPTS, NUM_STEPS)
    draws = drawn(Trained(), seed=1)
    one, other = (TrackerOverDraws(Trained(), NUM_PROMPTS, values=draws) for _ in range(2))
    last = torch.zeros(0, dtype=torch.long)
    for tracker in (one, other):  # the clocks of both are at the end, so that late groups are late in any order
        tracker.observe(last, torch.zeros(0), last, step=NUM_STEPS - 1)
    assert feed(one, solved, trials) == pytest.approx(feed(other, solved, trials, order), abs=1e-9)
    torch.testing.assert_close(one.weights, other.weights, atol=1e-9, rtol=0)
    torch.testing.assert_close(one.belief, other.belief, atol=1e-9, rtol=0)


def test_all_that_it_says_is_the_average_over_filters_at_the_draws() -> None:
    solved, trials = oracle.random_groups(NUM_PROMPTS, NUM_STEPS)
    draws = drawn(Trained(), seed=2)
    tracker = TrackerOverDraws(Trained(), NUM_PROMPTS, values=draws)
    apart = [
        Tracker(Trained(), NUM_PROMPTS, values={name: value[s] for name, value in draws.items()}) for s in range(DRAWS)
    ]
    evidence = torch.tensor([feed(one, solved, trials) for one in apart])
    feed(tracker, solved, trials)
    weights = evidence.softmax(-1)
    torch.testing.assert_close(tracker.weights, weights)
    for said in (lambda one: one.informative(6), lambda one: one.progress(6), lambda one: one.rates().sequence(3, 2)):
        average = sum(weight * said(one) for weight, one in zip(weights, apart, strict=True))
        torch.testing.assert_close(said(tracker), average)
    rows, right, others = torch.tensor([2, 0, 2]), torch.tensor([1.0, 3.0, 0.0]), torch.tensor([3, 3, 3])
    torch.testing.assert_close(
        tracker.expected(rows, right, others), super(Tracker, tracker).expected(rows, right, others)
    )  # by the law of the rates, in which states and draws are one mixture
    generator = torch.Generator().manual_seed(0)
    many = torch.stack([tracker.draw(generator) for _ in range(4000)])
    torch.testing.assert_close(many.mean(0), tracker.rates().sequence(1, 0), atol=0.03, rtol=0)


def test_one_draw_is_the_filter_at_that_point() -> None:
    solved, trials = oracle.random_groups(NUM_PROMPTS, NUM_STEPS)
    values = oracle.own_values(NUM_PROMPTS, 3)  # parameters of each prompt's own
    one = Tracker(oracle.OwnLadder(3), NUM_PROMPTS, values=values)
    over = TrackerOverDraws(
        oracle.OwnLadder(3), NUM_PROMPTS, values={name: value.unsqueeze(0) for name, value in values.items()}
    )
    assert feed(one, solved, trials) == pytest.approx(feed(over, solved, trials))
    torch.testing.assert_close(one.belief, over.belief)


def test_a_draw_that_holds_a_group_impossible_is_out_and_one_that_all_do_changes_no_weight() -> None:
    draws = drawn(SolvingProgress(), 2)
    draws["gaps"] = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.0, 0.0, 0.0, 1.0]])  # the second: nothing is ever solved
    tracker = TrackerOverDraws(SolvingProgress(), 2, values=draws)
    scores = tracker.observe(torch.tensor([0, 1]), torch.tensor([4.0, 0.0]), torch.tensor([8, 8]))
    torch.testing.assert_close(tracker.weights, torch.tensor([1.0, 0.0]))
    assert bool(scores.isfinite().all())
    with pytest.raises(ValueError, match=r"values: expected 2 draws, got 1"):
        tracker.refilter({name: value[:1] for name, value in draws.items()})
    never = {**draws, "gaps": draws["gaps"][[1, 1]]}
    tracker.refilter(never)
    torch.testing.assert_close(tracker.weights, torch.tensor([0.5, 0.5]))
    assert bool(tracker.belief.isfinite().all())
    assert float(tracker.observe(torch.tensor([0]), torch.tensor([1.0]), torch.tensor([8]))[0]) == -math.inf


def test_a_refilter_is_the_filter_that_had_run_at_those_draws_and_new_prompts_are_unvisited_ones() -> None:
    solved, trials = oracle.random_groups(NUM_PROMPTS, NUM_STEPS)
    draws, others = drawn(SolvingProgress()), drawn(SolvingProgress(), seed=5)
    one = TrackerOverDraws(SolvingProgress(), NUM_PROMPTS, values=draws)
    other = TrackerOverDraws(SolvingProgress(), NUM_PROMPTS + 1, values=others)
    for tracker in (one, other):
        feed(tracker, solved, trials)
    one.refilter(others)
    one.add(1)
    torch.testing.assert_close(one.weights, other.weights)
    torch.testing.assert_close(one.belief, other.belief)


# ---------------------------------------------------------------------------------------------------------- samplers


def fitted(model: Any, count: int = 20) -> Posterior:
    draws = drawn(model, count)
    return Posterior(draws, {name: value.mean(0) for name, value in draws.items()}, torch.zeros(0), True)


@pytest.mark.parametrize("make", [SolvingProgress, DenseReward])
def test_a_sampler_over_draws_goes_on_from_its_state(make: Any, tmp_path: Path) -> None:
    posterior, generator = fitted(make()), torch.Generator().manual_seed(0)

    def made() -> PromptSampler:
        return PromptSampler(make(), 12, posterior=posterior, posterior_draws=4, acquisition="thompson", seed=3)

    def play(sampler: PromptSampler, steps: int) -> None:
        for _ in range(steps):
            rows = sampler.select(5)
            sampler.observe(rows, torch.randint(0, 9, (5,), generator=generator), 8)

    one = made()
    assert isinstance(one.tracker, TrackerOverDraws) and one.tracker.ways == (4,)
    play(one, 3)
    save_state(tmp_path, one.state_dict())
    again = made()
    again.load_state_dict(load_state(tmp_path))
    here = generator.get_state()
    play(one, 3)
    generator.set_state(here)
    play(again, 3)
    assert torch.equal(one.belief, again.belief) and one.metrics() == again.metrics()
    with pytest.raises(ValueError, match=r"state: expected log_weights of 5 draws"):
        PromptSampler(make(), 12, posterior=posterior, posterior_draws=5).load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match=r"state: expected log_weights of 4 draws, got None"):
        made().load_state_dict(PromptSampler(make(), 12, posterior=posterior).state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"posterior": None}, "posterior_draws: expected a posterior to take draws of"),
        ({"posterior_draws": 21}, "posterior_draws: expected at most the 20 draws that the posterior has, got 21"),
        ({"posterior_draws": 0}, "posterior_draws: expected a whole number of at least 1, got 0"),
        ({"pooled": True}, "pooled: expected None or False with posterior_draws"),
        ({"refit_every": 3}, "refit_every: expected None with posterior_draws"),
        ({"dynamics": BetaBernoulli()}, "posterior_draws: expected a model that is fitted to logs, got BetaBernoulli"),
    ],
)
def test_what_a_filter_over_draws_cannot_do_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {
        "dynamics": SolvingProgress(), "num_prompts": 6, "posterior": fitted(SolvingProgress()), "posterior_draws": 4,
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=message):
        PromptSampler(**arguments)


def test_draws_are_spread_over_all_and_are_of_one_number() -> None:
    picked = spread_out({"a": torch.arange(101.0), "b": torch.arange(202.0).view(101, 2)}, 5)
    assert picked["a"].tolist() == [0, 25, 50, 75, 100] and picked["b"].shape == (5, 2)
    with pytest.raises(ValueError, match=r"expected the same number of draws of each site, at least one, got \[2, 3\]"):
        TrackerOverDraws(SolvingProgress(), 3, values={"gaps": torch.rand(2, 4), "initial": torch.rand(3, 3)})
