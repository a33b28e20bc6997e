"""Completions that tell little are left out of updates, and on average the gradient is that of all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.runs.tiny import tiny
from helpers.runs.updates import rolled, updated

from dps_pyro import RolloutHistory
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.step.groups import Groups
from dps_pyro.trainers.step.policy_update import update_batch


@pytest.fixture(scope="module")
def groups() -> Groups:
    drawn = rolled(torch.tensor([[1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]]).repeat(2, 1))
    expected = torch.linspace(0.02, 0.98, 32, dtype=torch.float64).reshape(8, 4)
    return drawn._replace(expected=expected)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "rloo"])
@pytest.mark.parametrize("baseline", ["belief", "group"])
def test_on_average_every_completion_weighs_what_it_weighs_among_all(groups: Groups, loss: str, baseline: str) -> None:
    """Its weight in the loss is its advantage over the number of completions trained on; with dapo, its advantage times
    its tokens over all tokens."""
    groups = groups if baseline == "belief" else groups._replace(expected=None)
    tokens = groups.rollouts.completion_mask.sum(1).reshape(8, 4).double()
    sizes = tokens if loss == "dapo" else torch.ones(8, 4).double()
    whole, part = (tiny(Path(), batch_size=8, loss=loss, baseline=baseline, thinning=noise) for noise in (0.0, 0.5))

    def weights(config: TrainConfig, seed: int) -> torch.Tensor:
        found = update_batch(groups, config, seed)
        assert bool((found.advantages[~found.completions] == 0).all())
        return found.advantages.double() * sizes / sizes[found.completions].sum()

    expected, draws = weights(whole, 0), torch.stack([weights(part, seed) for seed in range(200)])
    assert bool(((draws != 0).sum((1, 2)) < (expected != 0).sum()).all())
    assert bool(((draws.mean(0) - expected).abs() <= 5 * draws.std(0) / len(draws) ** 0.5 + 1e-6).all())
    assert torch.equal((draws != 0).any(0), expected != 0)


def test_the_gradient_is_that_of_what_was_drawn(groups: Groups) -> None:
    """It is weighted as the batch of the update says, and nothing else has a part in it."""
    settings = {"loss": "dr_grpo", "baseline": "belief"}
    found = update_batch(groups, tiny(Path(), batch_size=8, thinning=0.5, **settings), 7)
    alone = groups._replace(expected=groups.rewards.double() - found.advantages)
    _, part = updated(groups, seed=7, thinning=0.5, **settings)
    _, whole = updated(alone, seed=7, **settings)
    assert max(float(gradient.abs().max()) for gradient in part) > 1e-3
    # Over all, the mean is over every completion of the groups that have a signal, not only over those drawn.
    ratio = int(found.completions.sum()) / int(4 * found.groups.sum())
    for one, other in zip(part, whole, strict=True):
        torch.testing.assert_close(one * ratio, other, rtol=1e-3, atol=1e-6)


def test_a_run_marks_in_its_history_what_it_trained_on(tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", thinning=0.5, group_size=1, batch_size=16, steps=2))
    events = RolloutHistory.from_parquet(tmp_path / "run/history.parquet").events
    drawn, trained = (torch.bincount(steps) for steps in (events.step, events.step[events.trained]))
    assert drawn.tolist() == [16, 16]
    assert bool(((trained > 0) & (trained < 14)).all())  # at most two thirds of 16, if they are alike
