"""The laws of the batches that acquisitions draw."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from dps_pyro.selection.acquisition import Forecast, soft, target, thompson


def _draw(generator: torch.Generator) -> torch.Tensor:
    """Success rates as they would be drawn from certain beliefs."""
    return torch.tensor([0.1, 0.45, 0.9, 0.5, 0.7, 0.2])


def test_target_takes_the_prompts_whose_drawn_rates_are_nearest() -> None:
    forecast = Forecast(torch.zeros(6, 3), torch.zeros(6), torch.zeros(6, dtype=torch.long), _draw)
    generator = torch.Generator().manual_seed(0)
    assert target(0.5)(forecast, generator).topk(3).indices.tolist() == [3, 1, 4]
    assert target(0.0)(forecast, generator).topk(2).indices.tolist() == [0, 5]


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
    forecast = Forecast(torch.zeros(6, 3), torch.tensor(chances), torch.zeros(6, dtype=torch.long), _draw)
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
    forecast = Forecast(torch.zeros(1000, 3), chance, torch.zeros(1000, dtype=torch.long), _draw)
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
    forecast = Forecast(torch.zeros(5, 3), torch.tensor(chances), torch.zeros(5, dtype=torch.long), _draw)
    generator, counts = torch.Generator().manual_seed(0), dict.fromkeys(expected, 0)
    for _ in range(5000):
        counts[tuple(soft(sharpness)(forecast, generator).topk(2).indices.tolist())] += 1
    likely = [pair for pair, chance in expected.items() if chance > 2e-3]
    table = np.array([[counts[pair], expected[pair] * 5000] for pair in likely])
    rest = np.array([[5000 - table[:, 0].sum(), max(5000 - table[:, 1].sum(), 1e-6)]])
    table = np.vstack([table, rest]) if rest[0, 1] > 5 else table
    assert chisquare(table[:, 0], table[:, 1], sum_check=False).pvalue > 1e-3
