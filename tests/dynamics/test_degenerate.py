"""Histories that say too little, or nothing, or one thing over and over: every model fits and filters them, or says
clearly why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.fits import svi
from helpers.variants import variants
from torch import Tensor

from benchmarks.inference.gallery import FITTED, arguments, make
from dps_pyro import Progress, PromptSampler, RolloutHistory, Step, models
from dps_pyro.evaluation.smoothing import smoothed
from dps_pyro.tracking.tracker import is_fitted

pytestmark = pytest.mark.no_cover


def _table(rows: list[list[tuple[float, int]]]) -> tuple[Tensor, Tensor]:
    both = torch.tensor(rows, dtype=torch.float64)
    return both[..., 0], both[..., 1].long()


DEGENERATE: dict[str, tuple[Tensor, Tensor]] = {
    "a prompt seen once, others never": _table([[(3, 8), (0, 0), (0, 0)], [(0, 0)] * 3, [(0, 0)] * 3]),
    "always all wrong": _table([[(0, 8)] * 5] * 2),
    "always all right": _table([[(8, 8)] * 5] * 2),
    "all right or all wrong, never mixed": _table([[(0, 8), (0, 8), (8, 8), (8, 8)], [(0, 8)] * 4, [(8, 8)] * 4]),
    "back and forth between all wrong and all right": _table([[(0, 8), (8, 8)] * 3, [(8, 8), (0, 8)] * 3]),
    "always half": _table([[(4, 8)] * 4] * 2),
    "steps in which nothing was seen": _table([[(1, 8), (0, 0), (0, 0), (5, 8)], [(0, 8), (0, 0), (0, 0), (2, 8)]]),
    "a single prompt": _table([[(0, 8), (2, 8), (7, 8)]]),
    "a single step": _table([[(1, 8)], [(0, 8)], [(8, 8)]]),
    "one group of one rollout": _table([[(1, 1)]]),
    "trials that change from step to step": _table([[(1, 2), (40, 64), (1, 1)], [(0, 1), (3, 512), (0, 0)]]),
}
"""Name -> solved and trials [N, T]."""
NOTHING = "every group lost"
SETTINGS: dict[str, Any] = {"steps": 2, "draws": 2, "progress": False}
SHAPES = [
    *((name, "default") for name in FITTED),
    ("DenseReward", "{'family': 'beta'}"),
    ("Hierarchical", "columns"),
    ("Hierarchical", "{'levels': 3, 'nodes': None}"),
    ("LogitWalk", "columns"),
]


def history_of(case: str) -> RolloutHistory:
    if case != NOTHING:
        return RolloutHistory.from_dense(*DEGENERATE[case])
    history = RolloutHistory(3)
    for step in range(4):
        history.append(range(3), step=step, solved=[0.0] * 3, trials=0)
    return history


@pytest.mark.parametrize("case", [*DEGENERATE, NOTHING])
@pytest.mark.parametrize(("name", "label"), SHAPES)
def test_every_model_fits_and_filters_it(name: str, label: str, case: str) -> None:
    history = history_of(case)
    model = make(name, variants(name, history.num_prompts)[label])
    posterior = svi(model, history, **SETTINGS)
    for value in (posterior.losses, *posterior.point.values(), *posterior.draws.values()):
        assert bool(value.isfinite().all())
    _filters(model, history, posterior)
    solved, trials, trained, progress = history.dense()
    assert solved is not None
    law = Progress(model, model.parameters(history.num_prompts, posterior.point), Step(trials, trained, progress))
    assert bool(law.log_prob(solved).isfinite().all())
    ahead = smoothed(model, history, posterior.point).sum(-1)
    torch.testing.assert_close(ahead, torch.ones(history.num_prompts, history.num_steps))


@pytest.mark.parametrize("case", [*DEGENERATE, NOTHING])
@pytest.mark.parametrize("name", [name for name in models.__all__ if name not in FITTED])
def test_every_baseline_filters_it(name: str, case: str) -> None:
    history = history_of(case)
    _filters(make(name, arguments(name, history.num_prompts)), history, None)


def _filters(model: Any, history: RolloutHistory, posterior: Any) -> None:
    """Step by step: beliefs stay laws, chances stay chances, and nothing that came was held impossible."""
    everyone = range(history.num_prompts)
    sampler = PromptSampler(model, history.num_prompts, posterior=posterior)
    solved, trials, *_ = history.dense()
    assert solved is not None
    for t in range(history.num_steps + 1):
        torch.testing.assert_close(sampler.belief.sum(-1), torch.ones(history.num_prompts))
        chance = sampler.informative(8)
        assert bool(((chance >= 0) & (chance <= 1)).all())
        assert len(sampler.select(1)) == 1
        if t < history.num_steps:
            sampler.observe(everyone, solved[:, t], trials[:, t])
    assert sampler.metrics()["impossible"] == 0


@pytest.mark.parametrize("guide", ["low_rank", "delta"])
@pytest.mark.parametrize("name", FITTED)
def test_other_guides_fit_the_least_of_them(name: str, guide: Any) -> None:
    history = history_of("one group of one rollout")
    posterior = svi(make(name, arguments(name, 1)), history, guide=guide, **SETTINGS)
    assert all(bool(value.isfinite().all()) for value in posterior.draws.values())


@pytest.mark.parametrize("name", FITTED)
def test_mini_batches_of_a_prompt_may_have_seen_nothing(name: str) -> None:
    history = history_of("a prompt seen once, others never")
    posterior = svi(make(name, arguments(name, 3)), history, batch_size=1, **SETTINGS)
    assert all(bool(value.isfinite().all()) for value in posterior.draws.values())


@pytest.mark.parametrize("name", models.__all__)
def test_without_any_group_or_model_to_fit_it_says_so(name: str) -> None:
    model = make(name, arguments(name, 2))
    if not is_fitted(model) and name != "PaperDPS":
        with pytest.raises(ValueError, match="dynamics: expected an instance of Dynamics, got"):
            svi(model, history_of("a single prompt"), **SETTINGS)
        return
    with pytest.raises(ValueError, match="history: expected at least one group of rollouts, got none"):
        svi(model, RolloutHistory(2), **SETTINGS)
