"""Batches from pools of equals have the law of batches drawn with a number for each prompt."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.samplers import equal
from scipy.stats import chi2_contingency, chisquare

from dps_pyro import PromptSampler, Tracker
from dps_pyro.models import LogitWalk, PaperDPS, SolvingProgress, Trained
from dps_pyro.selection.acquisition import ACQUISITIONS, Forecast, by_variance, soft
from dps_pyro.selection.pooling import choice, race
from dps_pyro.selection.pooling.choice import PooledChoice
from dps_pyro.selection.pooling.race import Shelves
from dps_pyro.selection.pooling.waits import rule_of
from dps_pyro.storage import load_state, save_state
from dps_pyro.tracking.pools.pooled import PooledTracker

N, B = 7, 2
POOLED = [name for name, acquire in ACQUISITIONS.items() if rule_of(acquire) is not None]
GROUPS = [0, 0, 1, 0, 1, 1, 0]


def model_of(groups: bool) -> Any:
    return LogitWalk(GROUPS, rungs=5, limit=3.0) if groups else SolvingProgress()


def trackers(groups: bool) -> tuple[Tracker, PooledTracker]:
    """The same beliefs twice: of three prompts that were rolled out at different times, and of four that never were."""
    values = {"z_tilt": torch.tensor([[0.5, 0.0, 0.3], [-0.9, 0.2, 0.0]])} if groups else {}
    pair = Tracker(model_of(groups), N, values=values), PooledTracker(model_of(groups), N, values=values)
    for tracker in pair:
        tracker.observe(torch.tensor([1, 4]), torch.tensor([4.0, 0.0]), torch.tensor([8, 8]))
        tracker.observe(torch.tensor([4, 6]), torch.tensor([1.0, 8.0]), torch.tensor([8, 8]), step=9)
        tracker.observe(torch.tensor([1]), torch.tensor([5.0]), torch.tensor([8]))
    torch.testing.assert_close(*(tracker.informative(8) for tracker in pair), atol=1e-6, rtol=0)
    return pair


@pytest.fixture(params=[1000, pytest.param(10_000, marks=pytest.mark.slow)])
def draws(request: pytest.FixtureRequest) -> int:
    """The number of batches whose law is tested."""
    return int(request.param)


def batches(choose: Any, draws: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(sorted(choose().tolist())) for _ in range(draws))


def same_law(one: Counter[tuple[int, ...]], other: Counter[tuple[int, ...]]) -> float:
    """The p-value of the hypothesis that two samples of batches have one law; rare batches are counted together."""
    table = np.array([[sample[key] for key in sorted(one | other)] for sample in (one, other)])
    rare = table.sum(0) < 20
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
    table = table[:, table.sum(0) > 0]
    return float(chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0


def dense_batches(tracker: Tracker, acquire: Any, draws: int) -> Counter[tuple[int, ...]]:
    visits = torch.zeros(N, dtype=torch.long)
    forecast = Forecast(tracker.belief, tracker.informative(8), visits, tracker.draw, 8, tracker)
    generator = torch.Generator().manual_seed(1)
    return batches(lambda: acquire(forecast, generator).topk(B).indices, draws)


@pytest.mark.parametrize("name", POOLED)
def test_selected_sets_have_the_dense_samplers_distribution(name: str, draws: int) -> None:
    dense, tracker = trackers(True)
    choice = PooledChoice.of(tracker, ACQUISITIONS[name])
    assert choice is not None
    generator = torch.Generator().manual_seed(2)
    trials = 2 if choice.by_variance else 8
    drawn = batches(lambda: choice._numbers(B, trials, None, generator).rows, draws)
    assert len(drawn) > 1 or name == "entropy"
    assert same_law(drawn, dense_batches(dense, ACQUISITIONS[name], draws)) > 0.01


def test_the_variance_is_drawn_from_a_pool_and_the_chance_is_that_of_a_useful_group() -> None:
    dense, tracker = trackers(True)
    choice = PooledChoice.of(tracker, ACQUISITIONS["variance"])
    assert choice is not None
    found = choice.select(B, 8, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.chance, dense.informative(8)[found.rows], atol=1e-5, rtol=0)
    assert PooledChoice.of(tracker, by_variance(ACQUISITIONS["thompson"])) is None


def test_thompsons_rounds_have_the_dense_samplers_distribution(draws: int) -> None:
    dense, tracker = trackers(True)
    choice = PooledChoice.of(tracker, ACQUISITIONS["thompson"])
    assert choice is not None
    generator, mean = torch.Generator().manual_seed(3), tracker.mean_informative(8)
    assert mean == pytest.approx(float(dense.informative(8).mean()), abs=1e-6)
    drawn = batches(lambda: choice._rounds(B, 8, mean, generator).rows, draws)
    assert same_law(drawn, dense_batches(dense, ACQUISITIONS["thompson"], draws)) > 0.01


def soft_law(chance: np.ndarray[Any, Any], sharpness: float) -> dict[tuple[int, ...], float]:
    """The chance of each batch of two, by enumeration."""
    weights = chance**sharpness
    law: dict[tuple[int, ...], float] = {}
    for one, other in itertools.permutations(range(len(weights)), 2):
        key = tuple(sorted((one, other)))
        chance_of_both = weights[one] / weights.sum() * weights[other] / (weights.sum() - weights[one])
        law[key] = law.get(key, 0) + chance_of_both
    return law


def fits(drawn: Counter[tuple[int, ...]], law: dict[tuple[int, ...], float]) -> float:
    draws = sum(drawn.values())
    likely = [key for key, chance in law.items() if chance * draws >= 5]
    seen = [drawn[key] for key in likely]
    expected = [law[key] * draws for key in likely]
    seen, expected = [*seen, draws - sum(seen)], [*expected, max(draws - sum(expected), 1e-3)]
    return float(chisquare(seen, expected, sum_check=False).pvalue)


@pytest.mark.parametrize(("sharpness", "groups", "raced"), [(4.0, True, False), (0.5, True, True), (4.0, False, True)])
def test_the_soft_top_is_that_of_the_enumeration(sharpness: float, groups: bool, raced: bool, draws: int) -> None:
    dense, tracker = trackers(groups)
    choice = PooledChoice.of(tracker, soft(sharpness))
    assert choice is not None
    generator = torch.Generator().manual_seed(4)
    if raced:
        choice._shelves = Shelves(tracker.outlook(8))
        late = torch.tensor([4]), torch.tensor([2.0]), torch.tensor([8])  # off its shelf, and its bound is wrong
        for one in (dense, tracker):
            one.observe(*late, step=3)
        draw = lambda: choice._race(B, 8, sharpness, None, generator).rows  # noqa: E731
    else:
        draw = lambda: choice._numbers(B, 8, None, generator).rows  # noqa: E731
    assert fits(batches(draw, draws), soft_law(dense.informative(8).double().numpy(), sharpness)) > 0.01


@pytest.mark.parametrize("few", [True, False])
def test_a_race_of_many_prompts_takes_each_as_often_as_its_weight_says(few: bool) -> None:
    """Without replacement, from 3,000 visited prompts of very different chances and as many that were not."""
    number = 6000
    tracker, rng = PooledTracker(LogitWalk(), number), torch.Generator().manual_seed(0)
    for step in range(6):
        rows = torch.randperm(number // 2, generator=rng)[:2000]
        tracker.observe(rows, (rows % 9).double(), torch.full_like(rows, 8), step=3 * step)
    choice = PooledChoice.of(tracker, soft(4.0))
    assert choice is not None
    choice._shelves = Shelves(tracker.outlook(8))
    tracker.observe(torch.arange(5), torch.full([5], 4.0), torch.full([5], 8))
    weights = tracker.informative(8).double() ** 4
    count = 1 if few else 300
    seen, generator = torch.zeros(number), torch.Generator().manual_seed(5)
    reference = torch.zeros(number)
    for _ in range(4000 if few else 150):
        rows = choice._race(count, 8, 4.0, None, generator).rows
        assert len(rows.unique()) == count
        seen[rows] += 1
        reference[torch.multinomial(weights, count, generator=generator)] += 1
    order = weights.argsort()
    bins = [part.sum() for part in seen[order].split(300)], [part.sum() for part in reference[order].split(300)]
    table = torch.tensor([[float(x) for x in row] for row in bins])
    table = table[:, table.sum(0) > 20].numpy()
    assert chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize("name", POOLED)
def test_a_sampler_with_a_pool_goes_on_bit_for_bit(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(choice, "MANY", 50)
    monkeypatch.setattr(race, "NUMBER", 64)

    def make(seed: int) -> PromptSampler:
        return PromptSampler(LogitWalk([k % 3 for k in range(400)]), 400, acquisition=name, seed=seed, pooled=True)

    def go(sampler: PromptSampler, steps: range) -> list[list[int]]:
        chosen = []
        for step in steps:
            rows = sampler.select(20)
            sampler.observe(rows, (rows + step) % 9, 8)
            if step % 3 == 1:
                sampler.observe(rows[:5], rows[:5] % 3, 4, step=step // 2)
            chosen.append(rows.tolist())
        return chosen

    straight, again = make(0), make(1)
    go(straight, range(15))
    straight.retire([1, 5, 7])
    straight.select(20)
    save_state(tmp_path, straight.state_dict())
    again.load_state_dict(load_state(tmp_path))
    after = go(straight, range(15, 30))
    assert after == go(again, range(15, 30))
    assert equal(straight.state_dict(), again.state_dict())
    assert straight.metrics() == again.metrics()
    assert not {1, 5, 7} & {row for rows in after for row in rows}


@pytest.mark.parametrize("acquisition", ["soft", "thompson", "top", "priority"])
@pytest.mark.parametrize("is_pooled", [False, True])
def test_retired_prompts_are_not_selected_and_new_ones_are(acquisition: str, is_pooled: bool) -> None:
    sampler = PromptSampler(SolvingProgress(), 40, acquisition=acquisition, pooled=is_pooled)
    for _ in range(4):
        rows = sampler.select(5)
        sampler.observe(rows, rows % 9, 8)
    sampler.retire(range(0, 40, 2))
    sampler.add(10)
    sampler.retire([41])
    assert sorted(sampler.select(29).tolist()) == [*range(1, 40, 2), 40, *range(42, 50)]
    with pytest.raises(ValueError, match=r"batch_size: expected a whole number in 1\.\.29"):
        sampler.select(30)
    with pytest.raises(ValueError, match="expected some to be left"):
        sampler.retire(range(50))
    before = sampler.visits
    sampler.observe([0], [4], 8)  # it was still under way
    assert int(sampler.visits[0]) == int(before[0]) + 1


def test_metrics_are_those_of_the_dense_sampler() -> None:
    dense, pool = (PromptSampler(Trained(), 60, pooled=is_pooled) for is_pooled in (False, True))
    for step in range(5):
        rows = torch.arange(step, step + 9)
        for sampler in (dense, pool):
            sampler.observe(rows, rows % 9, 8, progress=step / 10)
    ours, theirs = pool.metrics(), dense.metrics()
    assert (ours.pop("pooled"), theirs.pop("pooled")) == (1, 0)
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert torch.equal(pool.visits, dense.visits)
    assert pool.select(3).shape == (3,)
    assert pool.metrics()["informative/pool"] == pytest.approx(float(pool.informative(8).mean()), abs=1e-6)


def test_who_is_pooled() -> None:
    assert not PromptSampler(SolvingProgress(), 19_999).pooled
    assert PromptSampler(SolvingProgress(), 20_000).pooled
    assert not PromptSampler(PaperDPS(), 20_000).pooled
    assert not PromptSampler(SolvingProgress(), 20_000, acquisition="priority").pooled
    assert not PromptSampler(SolvingProgress(), 20_000, acquisition=lambda forecast, _: forecast.informative).pooled
    with pytest.raises(ValueError, match="pooled: expected a model whose prompts are of a few kinds, got PaperDPS"):
        PromptSampler(PaperDPS(), 20, pooled=True)
