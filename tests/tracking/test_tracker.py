"""The online filter: exact, whatever the order in which the rollouts come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from helpers import oracle
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dps_pyro import Dynamics, Step, Tracker, track
from dps_pyro.dynamics.progress import Progress
from dps_pyro.models import BetaBernoulli, PaperDPS, RewardEMA, SolvingProgress
from dps_pyro.storage import load_state, save_state
from dps_pyro.tracking.predictor import Filter

MODELS = {
    "solving progress": (SolvingProgress, dict[str, Tensor]),
    "the paper's": (lambda: PaperDPS(decay=0.6), dict[str, Tensor]),
    "one's own": (lambda: oracle.OwnLadder(3), lambda: oracle.own_values(5, 3)),
}
EVERY_MODEL = pytest.mark.parametrize(("make", "values"), MODELS.values(), ids=MODELS)
FILTERS = MODELS | {
    "MoPPS": (lambda: BetaBernoulli(decay=0.6), dict[str, Tensor]),
    "moving average": (RewardEMA, dict[str, Tensor]),
}
EVERY_FILTER = pytest.mark.parametrize(("make", "values"), FILTERS.values(), ids=FILTERS)


def tracker_of(make: Any, num_prompts: int = 5, values: Any = dict) -> Filter:
    return track(make(), num_prompts, values=values())


def feed(tracker: Filter, solved: Tensor, trials: Tensor, steps: Any = None) -> None:
    for t in range(solved.shape[1]) if steps is None else steps:
        rows = trials[:, t].nonzero().squeeze(-1)
        tracker.observe(rows, solved[rows, t], trials[rows, t])


def same(one: Filter, other: Filter) -> None:
    torch.testing.assert_close(one.belief, other.belief, atol=1e-6, rtol=0)
    assert one.step == other.step
    assert torch.equal(one.history.dense().trials, other.history.dense().trials)


@pytest.mark.parametrize("num_states", [2, 3, 5])
def test_the_online_filter_equals_brute_force(num_states: int) -> None:
    solved, trials = oracle.random_groups(5, 4)
    values = oracle.own_values(5, num_states)
    tracker = Tracker(oracle.OwnLadder(num_states), 5, values=values)
    _, beliefs = oracle.own_brute_force(values, solved, trials)
    for t in range(4):
        np.testing.assert_allclose(tracker.belief.numpy(), beliefs[:, t], atol=1e-5)
        feed(tracker, solved, trials, [t])
    np.testing.assert_allclose(tracker.belief.numpy(), beliefs[:, 4], atol=1e-5)


@pytest.mark.parametrize("make", [SolvingProgress, lambda: oracle.OwnLadder(3)])
def test_log_evidence_is_the_likelihoods_terms(make: Any) -> None:
    model: Dynamics[Any] = make()
    solved, trials = oracle.random_groups(5, 6)
    values = oracle.own_values(5, 3) if isinstance(model, oracle.OwnLadder) else {}
    tracker = Tracker(model, 5, values=values)
    terms = Progress(model, model.parameters(5, values), Step(trials)).log_evidence(solved.float())
    for t in range(6):
        rows = torch.arange(5).flip(0)  # missing ones too, in another order
        evidence = tracker.observe(rows, solved[rows, t], trials[rows, t])
        torch.testing.assert_close(evidence, terms[t, rows], atol=1e-6, rtol=1e-5)


@EVERY_MODEL
def test_informative_is_the_chance_of_a_mixed_group_under_the_belief(make: Any, values: Any) -> None:
    model: Dynamics[Any] = make()
    tracker = track(model, 5, values=values())
    feed(tracker, *oracle.random_groups(5, 3))
    for trials in (1, 2, 8):
        theta = model.parameters(5, values())
        law = model.emission(theta, Step(torch.full((5,), trials)))
        mixed = [law.log_prob(torch.full((5, 1), float(k))).exp() for k in range(1, trials)]
        by_hand = (tracker.belief * sum(mixed, torch.zeros(5, 3))).sum(-1)
        torch.testing.assert_close(tracker.informative(trials), by_hand, atol=1e-6, rtol=1e-5)


@EVERY_FILTER
@given(seed=st.integers(0, 1000))
def test_late_observations_give_the_belief_of_the_run_in_order(make: Any, values: Any, seed: int) -> None:
    solved, trials = oracle.random_groups(5, 5, seed)
    straight, late = (tracker_of(make, 5, values) for _ in range(2))
    feed(straight, solved, trials)
    rng = np.random.default_rng(seed)
    held = torch.tensor(rng.random(trials.shape) < 0.4)
    feed(late, solved, torch.where(held, 0, trials))
    for t in rng.permutation(5).tolist():
        rows = (held & (trials > 0))[:, t].nonzero().squeeze(-1)
        late.observe(rows, solved[rows, t], trials[rows, t], step=t)
    same(straight, late)


@EVERY_FILTER
def test_two_late_parts_of_a_group_count_as_one_group(make: Any, values: Any) -> None:
    whole, parts = (tracker_of(make, 5, values) for _ in range(2))
    row = torch.tensor([2])
    whole.observe(row, torch.tensor([3.0]), torch.tensor([8]))
    whole.observe(row[:0], torch.zeros(0), row[:0])
    parts.observe(row, torch.tensor([3.0]), torch.tensor([4]))
    parts.observe(row[:0], torch.zeros(0), row[:0])
    parts.observe(row, torch.tensor([0.0]), torch.tensor([4]), step=0)
    same(whole, parts)


@EVERY_FILTER
def test_a_gap_lets_the_steps_between_pass(make: Any, values: Any) -> None:
    stepping, leaping = (tracker_of(make, 5, values) for _ in range(2))
    rows, solved, trials = torch.tensor([1, 3]), torch.tensor([2.0, 0.0]), torch.tensor([4, 4])
    none = rows[:0]
    for _ in range(4):
        stepping.observe(none, torch.zeros(0), none)
    stepping.observe(rows, solved, trials)
    leaping.observe(rows, solved, trials, step=4)
    assert leaping.step == 5
    same(stepping, leaping)


@EVERY_FILTER
def test_a_group_of_no_rollouts_is_a_prompt_not_visited(make: Any, values: Any) -> None:
    lost, unvisited = (tracker_of(make, 5, values) for _ in range(2))
    for tracker in (lost, unvisited):
        feed(tracker, *oracle.random_groups(5, 2, seed=1))
    evidence = lost.observe(torch.tensor([1, 3]), torch.tensor([0.0, 2.0]), torch.tensor([0, 4]))
    unvisited.observe(torch.tensor([3]), torch.tensor([2.0]), torch.tensor([4]))
    assert float(evidence[0]) == pytest.approx(0, abs=1e-6)
    same(lost, unvisited)


@pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, BetaBernoulli, RewardEMA])
def test_added_prompts_have_been_there_unseen_from_the_start(make: Any) -> None:
    solved, trials = oracle.random_groups(4, 5)
    trials[2:] = 0
    all_along, grown = tracker_of(make, 4), tracker_of(make, 2)
    feed(all_along, solved, trials)
    feed(grown, solved[:2], trials[:2])
    assert grown.history.dense().trials.shape == (2, 5)
    grown.add(2)
    same(all_along, grown)
    last = torch.tensor([3])
    for tracker in (all_along, grown):
        tracker.observe(last, torch.tensor([1.0]), torch.tensor([2]))
    same(all_along, grown)


def test_per_prompt_values_know_nothing_of_added_prompts() -> None:
    tracker = Tracker(oracle.OwnLadder(3), 5, values=oracle.own_values(5, 3))
    feed(tracker, *oracle.random_groups(5, 2))
    before = tracker.belief
    with pytest.raises(ValueError, match="for 7 prompts"):
        tracker.add(2)
    assert tracker.num_prompts == tracker.history.num_prompts == 5
    assert tracker.belief is before


def test_per_prompt_values_are_each_prompts_own() -> None:
    values = oracle.own_values(6, 3)
    solved, trials = oracle.random_groups(6, 3)
    tracker = Tracker(oracle.OwnLadder(3), 6, values=values)
    feed(tracker, solved, trials)
    for row in (0, 4):
        alone = Tracker(oracle.OwnLadder(3), 1, values={name: value[row : row + 1] for name, value in values.items()})
        feed(alone, solved[row : row + 1], trials[row : row + 1])
        torch.testing.assert_close(alone.belief[0], tracker.belief[row])


@pytest.mark.parametrize("steps", [600, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, BetaBernoulli, RewardEMA])
def test_many_steps_stay_finite_and_normalised(make: Any, steps: int) -> None:
    tracker = tracker_of(make, 4)
    outcomes = torch.tensor([[0.0, 8.0, 3.0], [8.0, 8.0, 8.0], [0.0, 0.0, 0.0]])
    rows, trials = torch.arange(3), torch.tensor([8, 8, 8])
    total = torch.zeros(3)
    with pyro.validation_enabled(False):  # twice as fast
        for t in range(steps):
            # First jumping about, then the same for a long time: a third is more than single precision has room for.
            phase = t % 3 if t < steps // 4 else t * 4 // steps % 3
            total += tracker.observe(rows, outcomes[phase], trials)
    assert tracker.belief.dtype == torch.float32
    assert bool(total.isfinite().all())
    assert bool((tracker.belief >= 0).all())
    torch.testing.assert_close(tracker.belief.sum(-1), torch.ones(4))


@EVERY_FILTER
def test_a_saved_tracker_goes_on_bit_for_bit(make: Any, values: Any, tmp_path: Path) -> None:
    solved, trials = oracle.random_groups(5, 8)
    straight = tracker_of(make, 5, values)
    feed(straight, solved, trials, range(4))
    save_state(tmp_path, straight.state_dict())
    again = tracker_of(make)  # the values come from the file
    again.load_state_dict(load_state(tmp_path))
    for tracker in (straight, again):
        feed(tracker, solved, trials, range(4, 8))
        rows = torch.tensor([0, 2])
        tracker.observe(rows, torch.tensor([1.0, 1.0]), torch.tensor([3, 2]), step=1)
    assert torch.equal(straight.belief, again.belief)
    assert all(map(torch.equal, straight.history.events[:4], again.history.events[:4]))


@pytest.mark.parametrize("wrong", ["size", "model", "values", "history", "nothing", "step"])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(wrong: str) -> None:
    tracker = Tracker(SolvingProgress(), 5)
    feed(tracker, *oracle.random_groups(5, 3))
    other = Tracker(SolvingProgress(), 5, values={"initial": torch.tensor([0.2, 0.2, 0.6])})
    state = other.state_dict()
    if wrong == "size":
        state = Tracker(SolvingProgress(), 6).state_dict()
    elif wrong == "model":
        state = track(PaperDPS(), 5).state_dict()
    elif wrong == "values":
        tracker = Tracker(oracle.OwnLadder(3), 5, values=oracle.own_values(5, 3))
        state = {**tracker.state_dict(), "values": oracle.own_values(4, 3), "step": 7}
    elif wrong == "history":
        state["history"] = {name: value for name, value in state["history"].items() if name != "solved"}
    elif wrong == "nothing":
        state = {}
    else:
        del state["step"]
    before = tracker.state_dict()
    with pytest.raises((ValueError, KeyError)):
        tracker.load_state_dict(state)
    after = tracker.state_dict()
    assert after["step"] == before["step"]
    assert set(after["values"]) == set(before["values"])
    assert torch.equal(after["filter"]["belief"], before["filter"]["belief"])
    assert torch.equal(after["history"]["solved"], before["history"]["solved"])


def test_ten_thousand_steps_have_a_finite_likelihood_and_gradient() -> None:
    model = SolvingProgress()
    solved, trials = oracle.random_groups(3, 10_000)
    matrix = model.parameters(3).matrix.requires_grad_()
    law = Progress(model, model.parameters(3)._replace(matrix=matrix), Step(trials))
    likelihood = law.log_prob(solved.float())
    likelihood.sum().backward()
    assert bool(likelihood.isfinite().all())
    assert matrix.grad is not None
    assert bool(matrix.grad.isfinite().all())


def test_a_model_with_a_filter_of_its_own_is_not_run_by_the_plain_one() -> None:
    with pytest.raises(ValueError, match=r"PaperDPS brings a filter of its own: use track\(dynamics, 4\)"):
        Tracker(PaperDPS(), 4)
    own = track(PaperDPS(), 4)
    assert isinstance(own, Tracker)
    assert type(own) is not Tracker
    with pytest.raises(ValueError, match="dynamics: expected an instance of Dynamics, got the class SolvingProgress"):
        Tracker(SolvingProgress, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (
            SolvingProgress(),
            {"own.rates": torch.ones(3)},
            r"sites of SolvingProgress \(gaps, initial, transition\), got",
        ),
        (SolvingProgress(), {"initial": torch.ones(4) / 4}, r"'initial' of shape \(3,\), got shape \(4,\)"),
        (SolvingProgress(), {"initial": torch.ones(5, 3) / 3}, r"'initial' of shape \(3,\), got shape \(5, 3\)"),
        (
            oracle.OwnLadder(3),
            {"own.rates": torch.ones(5, 2)},
            r"'own.rates' for 5 prompts of shape \(5, 3\), got shape \(5, 2\)",
        ),
        (oracle.OwnLadder(3), {"own.rates": torch.ones(3)}, r"of shape \(5, 3\), got shape \(3,\)"),
        (PaperDPS(), {"transition": torch.ones(5, 3, 3) / 3}, "expected none, as PaperDPS counts online"),
    ],
)
def test_values_of_another_model_are_refused(model: Dynamics[Any], values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        track(model, 5, values=values)


def test_rewards_may_add_up_to_fractions_whatever_the_emission_checks() -> None:
    class Checked(oracle.OwnLadder):
        def emission(self, theta: oracle.Own, step: Step) -> Any:
            law = pyro.distributions.Binomial(step.trials.unsqueeze(-1), theta.rates, validate_args=True)
            return pyro.distributions.MaskedDistribution(law, torch.tensor(True))

    values, trials = oracle.own_values(3, 3), torch.tensor([4, 4, 4])
    tracker = Tracker(Checked(3), 3, values=values)
    evidence = tracker.observe(torch.arange(3), torch.tensor([0.5, 2.0, 3.25]), trials)
    assert bool(evidence.isfinite().all())
    law = Progress(Checked(3), Checked(3).parameters(3, values), Step(trials.unsqueeze(-1)))
    torch.testing.assert_close(law.log_prob(torch.tensor([[0.5], [2.0], [3.25]])), evidence)


def test_an_outcome_that_the_model_rejects_changes_nothing() -> None:
    class Picky(SolvingProgress):
        def emission(self, theta: Any, step: Step) -> Any:
            if int(step.trials.max()) == 13:
                raise ValueError("thirteen")
            return super().emission(theta, step)

    tracker = Tracker(Picky(), 3)
    before = tracker.state_dict()
    with pytest.raises(ValueError, match="thirteen"):
        tracker.observe(torch.tensor([1]), torch.tensor([1.0]), torch.tensor([13]), step=4)
    assert tracker.step == before["step"] == 0
    assert tracker.belief is before["filter"]["belief"]
    assert len(tracker.history) == 0
