"""The five verbs: what they choose, what they refuse, and that they go on as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from helpers import oracle
from helpers.samplers import ACQUISITION, IDS, MODEL, NAN, equal, run, sampler_of
from scipy.stats import chisquare
from torch import Tensor

from dps_pyro import Posterior, PromptSampler
from dps_pyro.models import PaperDPS, SolvingProgress
from dps_pyro.selection.acquisition import Forecast
from dps_pyro.storage import load_state, save_state

# ------------------------------------------------------------------------------------------------------------- observe


def test_ids_and_rows_are_two_names_for_the_same_prompts() -> None:
    by_row, by_id = sampler_of(IDS), sampler_of(IDS)
    by_row.observe([4, 1], [3, 0], 8)
    by_id.observe(["problem-4", "problem-1"], [3, 0], 8)
    assert equal(by_row.state_dict(), by_id.state_dict())
    assert by_row.history.ids == IDS


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda x: torch.tensor(x, dtype=torch.int32),
        lambda x: np.array(x, dtype=np.float32),
        lambda x: np.array(x, dtype=np.uint8),
    ],
)
def test_lists_arrays_and_tensors_are_all_the_same(kind: Any) -> None:
    plain, other = sampler_of(), sampler_of()
    plain.observe([4, 1], [3, 0], 8)
    other.observe(kind([4, 1]), kind([3, 0]), kind([8, 8]))
    assert equal(plain.state_dict(), other.state_dict())
    other = sampler_of(IDS)
    other.observe(np.array(["problem-4", "problem-1"]), kind([3, 0]), np.int64(8), step=np.int64(0))
    assert torch.equal(plain.belief, other.belief)


def test_the_callers_buffers_may_be_used_again() -> None:
    sampler = sampler_of()
    rows, solved, trials = torch.tensor([0, 1]), np.array([3.0, 0.0]), torch.tensor([8, 8])
    sampler.observe(rows, solved, trials)
    rows.fill_(5), solved.fill(7), trials.fill_(9)
    assert [column.tolist() for column in sampler.history.events[:4]] == [[0, 1], [0, 0], [3.0, 0.0], [8, 8]]


@MODEL
def test_an_empty_step_only_moves_the_clock(make: Any) -> None:
    sampler = sampler_of(make=make)
    sampler.observe([], [], 8)
    sampler.observe(torch.tensor([], dtype=torch.long), torch.tensor([]), torch.tensor([], dtype=torch.long))
    assert sampler.metrics()["step"] == 2
    sampler.observe([], [], 8, step=0)
    assert sampler.metrics()["step"] == 2
    assert sampler.metrics()["rollouts"] == 0


@MODEL
def test_late_groups_count_but_not_as_a_step(make: Any) -> None:
    straight, late = sampler_of(make=make), sampler_of(make=make)
    for sampler in (straight, late):
        sampler.observe([0, 1] if sampler is straight else [0], [1, 8] if sampler is straight else [1], 8)
        sampler.observe([2], [0], 8)
    late.observe([1], [8], 8, step=0)
    torch.testing.assert_close(straight.belief, late.belief)
    assert late.metrics()["step"] == 2
    assert late.visits.tolist() == straight.visits.tolist() == [1, 1, 1, 0, 0, 0]


@MODEL
def test_one_prompt_is_enough(make: Any) -> None:
    sampler = sampler_of(1, make)
    for _ in range(3):
        assert sampler.select(1).tolist() == [0]
        sampler.observe([0], [1], 2)
    assert sampler.belief.shape == (1, 3)


@MODEL
@ACQUISITION
def test_metrics_are_finite_numbers_before_and_after(make: Any, acquisition: str) -> None:
    sampler = sampler_of(make=make, acquisition=acquisition)
    names = set()
    for step in range(3):
        if step:
            rows = sampler.select(2)
            sampler.observe(rows, [0, 3], [8, 0 if step == 3 else 8])
        metrics = sampler.metrics()
        assert all(type(value) is float and np.isfinite(value) for value in metrics.values())
        names |= set(metrics)
    assert {"belief/unsolved", "belief/partially_solved", "belief/solved", "useful/so_far"} <= names
    assert metrics["rollouts"] == 32
    assert metrics["useful"] == metrics["useful/so_far"] == 0.5
    assert sum(metrics[f"belief/{name.replace(' ', '_')}"] for name in SolvingProgress.states) == pytest.approx(1)


def test_predictions_are_logged_beside_the_outcomes() -> None:
    sampler = sampler_of()
    rows = sampler.select(3)
    chance = sampler.informative(8)[rows]
    sampler.observe(torch.cat([rows[:2], torch.tensor([k for k in range(6) if k not in rows][:1])]), [0, 0, 0], 8)
    predicted = sampler.history.events.predicted
    torch.testing.assert_close(predicted[:2], chance[:2])
    assert bool(predicted[2].isnan())


def test_two_selections_before_their_outcomes_keep_both_predictions() -> None:
    sampler = sampler_of(acquisition=lambda forecast, _: -forecast.visits.double() - torch.arange(6) / 10)
    chance = sampler.informative(8)
    assert sampler.select(2).tolist() == [0, 1]
    sampler.observe([5], [1], 8)
    later = sampler.informative(8)
    assert float((chance - later)[1].abs()) > 1e-4
    assert sampler.select(1).tolist() == [0]
    sampler.observe([0, 1], [0, 0], 8)
    sampler.observe([0, 1], [0, 0], 8)  # not selected again
    predicted = sampler.history.events.predicted
    torch.testing.assert_close(predicted[1:3], torch.stack([later[0], chance[1]]))
    assert predicted[[0, 3, 4]].isnan().all()


def test_what_is_handed_out_is_a_copy() -> None:
    def greedy(forecast: Forecast, generator: torch.Generator) -> Tensor:
        scores = forecast.informative.clone()
        forecast.informative.zero_(), forecast.belief.zero_(), forecast.visits.fill_(9)
        return scores

    sampler = sampler_of(acquisition=greedy)
    sampler.observe([0], [3], 8)
    before, chance = sampler.state_dict(), sampler.informative(8)
    sampler.belief.zero_(), sampler.visits.zero_(), sampler.informative(8).zero_()
    assert equal(before, sampler.state_dict())
    rows = sampler.select(2)
    assert equal(before["tracker"], sampler.state_dict()["tracker"])
    assert sampler.visits.tolist() == [1, 0, 0, 0, 0, 0]
    sampler.observe(rows, [0, 0], 8)
    torch.testing.assert_close(sampler.history.events.predicted[1:], chance[rows])


def test_a_group_held_impossible_is_counted_and_left_out_of_the_mean() -> None:
    sampler = PromptSampler(PaperDPS(torch.eye(3), initial=[1, 0, 0]), 2)  # nothing ever moves
    sampler.observe([0, 1], [0, 8], 8)
    metrics = sampler.metrics()
    assert all(np.isfinite(value) for value in metrics.values())
    assert (metrics["impossible"], metrics["log_evidence"], metrics["log_evidence/so_far"]) == (1, 0, 0)
    again = PromptSampler(PaperDPS(torch.eye(3), initial=[1, 0, 0]), 2)
    again.load_state_dict(sampler.state_dict())
    assert again.metrics() == metrics


def test_an_absurd_step_is_refused_at_once() -> None:
    sampler = sampler_of()
    before = sampler.state_dict()
    with pytest.raises(ValueError, match="step: expected at most 100,000 steps past the coming one, 0, got 1000000000"):
        sampler.observe([0], [1], 8, step=10**9)
    assert equal(before, sampler.state_dict())


# ----------------------------------------------------------------------------------------------------------------- add


@MODEL
@pytest.mark.parametrize("ids", [None, IDS])
def test_added_prompts_have_been_there_unseen_from_the_start(make: Any, ids: Any) -> None:
    whole = sampler_of(ids or 6, make)
    grown = sampler_of(ids[:4] if ids else 4, make)
    for sampler in (whole, grown):
        sampler.observe([0, 3], [2, 8], 8)
        sampler.observe([1], [0], 4)
    grown.add(ids[4:] if ids else 2)
    assert (grown.num_prompts, grown.ids, grown.history.num_prompts) == (6, ids, 6)
    assert grown.visits.tolist() == [1, 1, 0, 1, 0, 0]
    torch.testing.assert_close(grown.belief, whole.belief)
    assert grown.select(6).sort().values.tolist() == list(range(6))
    for sampler in (whole, grown):
        sampler.observe(["problem-5"] if ids else [5], [1], 2)
    torch.testing.assert_close(grown.belief, whole.belief)
    assert grown.metrics()["visited"] == pytest.approx(4 / 6)
    whole.load_state_dict(grown.state_dict())
    assert equal(whole.state_dict(), grown.state_dict())
    small = sampler_of(ids[:4] if ids else 4, make)
    if ids is None:  # by their ids those that are there would be known
        with pytest.raises(ValueError, match="state: expected 4 prompts, got 6; add the others first"):
            small.load_state_dict(grown.state_dict())
    small.add(ids[4:] if ids else 2)
    small.load_state_dict(grown.state_dict())
    assert equal(small.state_dict(), grown.state_dict())


@pytest.mark.parametrize(
    ("ids", "prompts", "message"),
    [
        (IDS, 2, "prompts: expected ids, got 2"),
        (IDS, ["new", "problem-1"], "prompts: expected new ids, got 'problem-1', which is there already"),
        (IDS, ["new", "new"], "prompts: expected distinct ids, got 'new' twice"),
        (6, ["new"], r"prompts: expected a number, got \['new'\]"),
        (6, 0, "prompts: expected a whole number of at least 1, got 0"),
        (6, 1.5, "prompts: .* got 1.5"),
    ],
)
def test_prompts_that_cannot_be_added_leave_the_sampler_as_it_was(ids: Any, prompts: Any, message: str) -> None:
    sampler = sampler_of(ids)
    run(sampler, 2)
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=message):
        sampler.add(prompts)
    assert equal(before, sampler.state_dict())


# -------------------------------------------------------------------------------------------------------------- select


@ACQUISITION
@MODEL
def test_the_seed_and_the_rewards_decide_everything(make: Any, acquisition: str) -> None:
    def chosen(seed: int) -> list[list[int]]:
        return run(sampler_of(40, make, acquisition=acquisition, seed=seed), 5)

    torch.manual_seed(1)
    first = chosen(0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert chosen(0) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert chosen(1) != first
    assert all(len(set(rows)) == 3 for rows in first)


@ACQUISITION
@MODEL
def test_a_restored_sampler_goes_on_bit_for_bit(make: Any, acquisition: str, tmp_path: Path) -> None:
    straight = sampler_of(40, make, acquisition=acquisition)
    run(straight, 3)
    straight.select(3)
    save_state(tmp_path, straight.state_dict())
    again = sampler_of(40, make, acquisition=acquisition, seed=9)
    again.load_state_dict(load_state(tmp_path))
    assert run(again, 4, seed=7) == run(straight, 4, seed=7)
    assert equal(again.state_dict(), straight.state_dict())
    assert again.metrics() == straight.metrics()


def test_a_state_dict_does_not_change_with_its_sampler() -> None:
    sampler = sampler_of(make=PaperDPS)
    run(sampler, 2)
    before = sampler.state_dict()
    copy = {name: value.clone() for name, value in before["tracker"]["filter"].items()}
    visits = before["visits"].clone()
    run(sampler, 2)
    assert equal(before["tracker"]["filter"], copy)
    assert torch.equal(before["visits"], visits)


def test_a_posterior_with_dots_and_slashes_in_its_site_names_can_be_saved(tmp_path: Path) -> None:
    class Odd(oracle.OwnLadder):
        def prior(self, prompts: pyro.plate) -> oracle.Own:
            pyro.sample("a/b~c.d", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
            return super().prior(prompts)

    odd = {**oracle.own_values(5, 3), "a/b~c.d": torch.ones(2)}
    posterior = Posterior({name: value[None] for name, value in odd.items()}, odd, torch.zeros(0), True)
    one = PromptSampler(Odd(3), 5, posterior=posterior)
    run(one, 2)
    save_state(tmp_path, one.state_dict())
    again = PromptSampler(Odd(3), 5)
    again.load_state_dict(load_state(tmp_path))
    assert run(again, 2) == run(one, 2)
    assert torch.equal(again.belief, one.belief)


@MODEL
def test_top_takes_exactly_the_highest_chances(make: Any) -> None:
    sampler = sampler_of(50, make, acquisition="top")
    sampler.observe(range(50), np.arange(50) % 9, 8)
    sampler.observe(range(0, 50, 2), np.arange(25) % 5, 4)
    chance = sampler.informative(8)
    rows = sampler.select(17)
    rest = torch.ones(50, dtype=torch.bool)
    rest[rows] = False
    assert float(chance[rows].min()) >= float(chance[rest].max()) - 1e-7
    assert sampler.metrics()["informative/selected"] == pytest.approx(float(chance[rows].mean()))


@pytest.mark.parametrize("acquisition", ["top", "entropy", "uniform", "thompson"])
def test_ties_are_broken_at_random_without_favouring_any_row(acquisition: str) -> None:
    counts = np.zeros(40)
    for seed in range(400):
        counts[sampler_of(40, acquisition=acquisition, seed=seed).select(10).tolist()] += 1
    assert chisquare(counts).pvalue > 1e-3
    halves = counts.reshape(2, 20).sum(1)
    assert chisquare(halves).pvalue > 1e-3


def test_entropy_takes_the_most_uncertain() -> None:
    sampler = sampler_of(6, acquisition="entropy")
    sampler.observe([0, 1, 2, 3], [0, 4, 8, 0], [8, 8, 8, 1])
    assert set(sampler.select(2).tolist()) == {4, 5}
    assert set(sampler.select(3).tolist()) == {3, 4, 5}


def test_an_acquisition_of_ones_own_decides() -> None:
    def least_visited(forecast: Forecast, generator: torch.Generator) -> Tensor:
        return -forecast.visits.double() - torch.arange(6) / 10

    sampler = sampler_of(acquisition=least_visited)
    sampler.observe([0, 1, 3], [0, 0, 0], 8)
    assert sampler.select(4).tolist() == [2, 4, 5, 0]


@pytest.mark.parametrize("scores", [torch.zeros(5), torch.zeros(6, 1), torch.full((6,), NAN)])
def test_an_acquisition_of_ones_own_must_score_every_prompt(scores: Tensor) -> None:
    with pytest.raises(ValueError, match="acquisition: expected 6 scores"):
        sampler_of(acquisition=lambda *_: scores).select(2)


def test_the_group_size_planned_decides_what_is_useful() -> None:
    few, many = (sampler_of(2, acquisition="top", trials=n) for n in (2, 64))
    for sampler in (few, many):
        sampler.observe([0, 1], [1, 4], 8)
        assert float(sampler.select(2) is not None)
        assert sampler.metrics()["informative/pool"] == pytest.approx(float(sampler.informative(sampler.trials).mean()))
    assert many.metrics()["informative/pool"] > few.metrics()["informative/pool"]
