"""The five verbs: what they choose, what they refuse, and that they go on as they were."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from dps_pyro import Posterior, PromptSampler
from dps_pyro.acquisition import ACQUISITIONS, Forecast, soft, thompson
from dps_pyro.models import PaperDPS, SolvingProgress
from dps_pyro.storage import load_state, save_state

IDS = [f"problem-{k}" for k in range(6)]
ACQUISITION = pytest.mark.parametrize("acquisition", ACQUISITIONS)
MODEL = pytest.mark.parametrize("make", [SolvingProgress, PaperDPS])
NAN, INF = float("nan"), float("inf")


def sampler_of(num_prompts: Any = 6, make: Any = SolvingProgress, **options: Any) -> PromptSampler:
    return PromptSampler(make(), num_prompts, **options)


def run(sampler: PromptSampler, steps: int, seed: int = 0) -> list[list[int]]:
    """Select and observe made-up groups."""
    rng = np.random.default_rng(seed)
    chosen = []
    for _ in range(steps):
        rows = sampler.select(3)
        sampler.observe(rows, rng.integers(0, 9, 3), 8)
        chosen.append(rows.tolist())
    return chosen


def equal(one: Any, other: Any) -> bool:
    """The same nested state, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    return bool(one == other)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [9, 0], 8), "solved: expected numbers within 0..trials, got 9 of 8 at position 0"),
        (([0, 1], [0, -1], 8), "solved: .* got -1 of 8 at position 1"),
        (([0, 1], [0, NAN], 8), "solved: .* got nan"),
        (([0, 1], [INF, 0], 8), "solved: .* got inf"),
        (([0, 1], [1, 1], [8, 0]), "solved: .* got 1 of 0 at position 1"),
        (([0, 1], [0, 0, 0], 8), r"solved: expected shape \(2,\), one entry a prompt, got shape \(3,\)"),
        (([0, 1], [[0, 0]], 8), r"solved: .* got shape \(1, 2\)"),
        (([0, 1], 3, 8), r"solved: .* got shape \(\)"),
        (([0, 1], ["a", "b"], 8), "solved: expected numbers"),
        (([0, 1], None, 8), "solved: expected numbers"),
        (([0, 1], [1j, 0], 8), "solved: expected real numbers"),
        (([0, 1], [[0], [0, 0]], 8), "solved: expected numbers"),
        (([0, 1], [0, 0], [8, 8, 8]), r"trials: expected shape \(2,\), one entry a prompt, got shape \(3,\)"),
        (([0, 1], [0, 0], [8.5, 8]), r"trials: expected whole numbers in 0\.\.2\^31-1, got 8.5"),
        (([0, 1], [0, 0], -1), r"trials: expected whole numbers in 0\.\.2\^31-1, got -1"),
        (([0, 1], [0, 0], [8, NAN]), "trials: .* got nan"),
        (([0, 1], [0, 0], INF), "trials: .* got inf"),
        (([0, 1], [0, 0], 1e300), "trials: .* got inf"),
        (([0, 1], [0, 0], "8"), "trials: expected numbers"),
        (([0, 1], [0, 0], True), "trials: .* got booleans"),
        (([0, 1], [0, 0], None), "trials: expected numbers"),
        (([0, 6], [0, 0], 8), r"prompts: expected rows in 0\.\.5, got 6"),
        (([0, -1], [0, 0], 8), "prompts: .* got -1"),
        (([0.5, 1], [0, 0], 8), "prompts: .* got 0.5"),
        (([2, 2], [0, 0], 8), "prompts: expected each prompt once, got row 2 repeated"),
        (([True, False], [0, 0], 8), "prompts: .* got booleans"),
        (([[0, 1]], [0, 0], 8), r"prompts: .* got shape \(1, 2\)"),
        ((torch.tensor(3), [0], 8), r"prompts: .* got shape \(\)"),
        ((3, [0], 8), "prompts: expected a vector of rows or ids, got 3"),
        ((None, [0], 8), "prompts: .* got None"),
        (("problem-1", [0], 8), "prompts: .* got 'problem-1'"),
        ((["problem-1", "problem-9"], [0, 0], 8), "prompts: expected one of 6 known ids, got 'problem-9'"),
        ((["problem-1", 2], [0, 0], 8), "prompts: expected one of 6 known ids, got 2"),
        ((["problem-1", "problem-1"], [0, 0], 8), "prompts: .* got row 1 repeated"),
        (([0, 1], [0, 0], 8, -1), "step: .* got -1"),
        (([0, 1], [0, 0], 8, 1.5), "step: .* got 1.5"),
        (([0, 1], [0, 0], 8, "2"), "step: .* got '2'"),
        (([0, 1], [0, 0], 8, True), "step: .* got True"),
    ],
    ids=str,
)
@MODEL
def test_observe_refuses_what_it_cannot_take_and_stays_as_it_was(make: Any, arguments: Any, message: str) -> None:
    sampler = sampler_of(IDS, make)
    run(sampler, 2)
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=message):
        sampler.observe(*arguments)
    assert equal(before, sampler.state_dict())


def test_rows_are_not_ids_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="expected rows, as this sampler has no ids, got 'problem-1'"):
        sampler_of(6).observe(["problem-1"], [0], 8)


@pytest.mark.parametrize("size", [0, 7, -1, 2.0, "2", True, None])
def test_select_refuses_sizes_out_of_range(size: Any) -> None:
    sampler = sampler_of(6)
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=r"batch_size: expected a whole number in 1\.\.6"):
        sampler.select(size)
    assert equal(before, sampler.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_prompts": 0}, "num_prompts: .* got 0"),
        ({"num_prompts": -3}, "num_prompts: .* got -3"),
        ({"num_prompts": 2.5}, "num_prompts: .* got 2.5"),
        ({"num_prompts": []}, "num_prompts: .* got 0"),
        ({"num_prompts": ["a", "b", "a"]}, "num_prompts: expected distinct ids, got 'a' twice"),
        ({"num_prompts": ["a", 1]}, r"num_prompts: expected a number or a list of ids \(strings\), got 1"),
        ({"num_prompts": "abc"}, "num_prompts: .* got 'abc'"),
        ({"trials": 0}, "trials: .* got 0"),
        ({"trials": 2.5}, "trials: .* got 2.5"),
        ({"acquisition": "best"}, "acquisition: expected one of top, .*uniform, .* got 'best'"),
    ],
)
def test_the_constructor_says_what_it_expected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptSampler(SolvingProgress(), **{"num_prompts": 6, **arguments})


def test_informative_needs_a_group() -> None:
    with pytest.raises(ValueError, match="trials"):
        sampler_of().informative(0)


@pytest.mark.parametrize("wrong", ["ids", "size", "generator", "missing", "filter", "visits"])
def test_a_state_of_another_sampler_is_refused_and_changes_nothing(wrong: str) -> None:
    sampler, other = sampler_of(IDS), sampler_of(IDS, seed=5)
    run(sampler, 2)
    run(other, 3, seed=1)
    state = other.state_dict()
    if wrong == "ids":
        state["ids"] = IDS[::-1]
    elif wrong == "size":
        state = {**sampler_of(7).state_dict(), "ids": IDS}
    elif wrong == "generator":
        state["generator"] = torch.zeros(3, dtype=torch.uint8)
    elif wrong == "missing":
        del state["totals"]
    elif wrong == "visits":
        state["visits"] = torch.zeros(5, dtype=torch.long)
    else:
        state["tracker"]["filter"] = {"belief": torch.ones(6, 2)}
    before = sampler.state_dict()
    with pytest.raises((ValueError, RuntimeError)):
        sampler.load_state_dict(state)
    assert equal(before, sampler.state_dict())


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
    import oracle

    values = oracle.own_values(5, 3)
    odd = {**values, "a/b~c.d": torch.ones(2)}
    posterior = Posterior({name: value[None] for name, value in odd.items()}, odd, torch.zeros(0), True)
    one = PromptSampler(oracle.OwnLadder(3), 5, posterior=posterior)
    run(one, 2)
    save_state(tmp_path, one.state_dict())
    again = PromptSampler(oracle.OwnLadder(3), 5)
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


@pytest.mark.parametrize("chances", [[0.9, 0.5, 0.5, 0.1, 0.02, 0.0], [1.0, 1.0, 1.0, 0.3, 0.1, 0.0], [0.0] * 6])
def test_thompson_has_dynamic_samplings_batch_distribution(chances: list[float]) -> None:
    def rounds(rng: np.random.Generator) -> list[int]:
        """Roll all out, keep the useful ones; where they are too few, roll the others out again."""
        batch: list[int] = []
        for _ in range(3000):
            drawn = [k for k in range(6) if k not in batch and rng.random() < chances[k]]
            batch += rng.permutation(drawn).tolist()[: 3 - len(batch)] if drawn else []
            if len(batch) == 3 or not any(chances[k] > 0 for k in range(6) if k not in batch):
                break
        others = [k for k in range(6) if k not in batch]
        return batch + rng.permutation(others).tolist()[: 3 - len(batch)]

    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    forecast = Forecast(torch.zeros(6, 3), torch.tensor(chances), torch.zeros(6, dtype=torch.long))
    simulated, ours = {}, {}
    for _ in range(4000):
        for found, batch in ((simulated, rounds(rng)), (ours, thompson(forecast, generator).topk(3).indices.tolist())):
            key = tuple(sorted(batch))
            found[key] = found.get(key, 0) + 1
    keys = sorted(set(simulated) | set(ours))
    table = np.array([[found.get(key, 0) for key in keys] for found in (simulated, ours)])
    table = np.column_stack([table[:, table.sum(0) >= 20], table[:, table.sum(0) < 20].sum(1)])
    table = table[:, table.sum(0) > 0]
    expected = np.broadcast_to(table.sum(0) / 2, table.shape)
    statistic = ((table - expected) ** 2 / expected).sum()
    freedom = table.shape[1] - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 4  # more than four standard deviations


def test_thompson_takes_sure_prompts_first_and_hopeless_ones_last() -> None:
    chance = torch.tensor([0.0] * 500 + [1.0] * 500)
    forecast = Forecast(torch.zeros(1000, 3), chance, torch.zeros(1000, dtype=torch.long))
    for seed in range(20):
        scores = thompson(forecast, torch.Generator().manual_seed(seed))
        assert bool(scores.isfinite().all())
        assert int(scores.topk(500).indices.min()) == 500
        assert len(scores.unique()) == 1000  # no ties: rows are not favoured


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
def test_soft_draws_without_replacement_by_weight(sharpness: float) -> None:
    chances = np.array([0.9, 0.6, 0.5, 0.3, 0.0])
    weights = np.maximum(chances, 1e-12) ** sharpness
    expected = {}
    for pair in itertools.permutations(range(5), 2):
        first = weights[pair[0]] / weights.sum()
        expected[pair] = first * weights[pair[1]] / (weights.sum() - weights[pair[0]])
    forecast = Forecast(torch.zeros(5, 3), torch.tensor(chances), torch.zeros(5, dtype=torch.long))
    generator, counts = torch.Generator().manual_seed(0), dict.fromkeys(expected, 0)
    for _ in range(5000):
        counts[tuple(soft(sharpness)(forecast, generator).topk(2).indices.tolist())] += 1
    likely = [pair for pair, chance in expected.items() if chance > 2e-3]
    table = np.array([[counts[pair], expected[pair] * 5000] for pair in likely])
    rest = np.array([[5000 - table[:, 0].sum(), max(5000 - table[:, 1].sum(), 1e-6)]])
    table = np.vstack([table, rest]) if rest[0, 1] > 5 else table
    assert chisquare(table[:, 0], table[:, 1], sum_check=False).pvalue > 1e-3


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
