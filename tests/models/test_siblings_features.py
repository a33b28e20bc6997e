"""Siblings told features: the score against a plain regression, and what it buys within groups."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro import PromptSampler
from dps_pyro.models import LogitWalk, Siblings
from dps_pyro.models.by_name import make
from dps_pyro.models.siblings.scores import KNOTS, SPREAD, Places, Scores
from dps_pyro.tracking.choice import pooled_tracker

N = 240
LABELS = [f"g{row % 3}" for row in range(N)]


def prompts(seed: int, slope: float = 2.0, noise: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, 1 + noise], of which the first tells the success rate, and the rates [N]."""
    features = torch.randn(N, 1 + noise, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return features, (slope * features[:, 0] - 1).sigmoid()


def play(model: Any, rates: torch.Tensor, steps: int = 20, seed: int = 0) -> tuple[Any, float]:
    """The filter after `steps` steps of ten first visits each, and the mean log-probability of the first visits in the
    last quarter."""
    tracker, rng = model.tracker(N, dtype=torch.float64), np.random.default_rng(seed)
    scores = []
    for step in range(steps):
        rows = torch.arange(10 * step, 10 * step + 10)
        solved = torch.from_numpy(rng.binomial(4, rates[rows].numpy()))
        scores.append(float(tracker.observe(rows, solved, torch.full([10], 4)).mean()))
    return tracker, float(np.mean(scores[-steps // 4 :]))


@given(st.integers(0, 10_000))
def test_the_score_is_a_weighted_ridge_regression_within_groups(seed: int) -> None:
    """Against a plain solution with a column for each group: the penalty is at the fixed point of the evidence."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 3))
    scores, logit = Scores(torch.from_numpy(features)), LogitWalk(rungs=9).grid.double()[None]
    group = torch.from_numpy(rng.integers(0, 3, 60))
    start = torch.full([60, 9], 1 / 9, dtype=torch.float64)
    centre = features @ [1.0, -0.5, 0.0] + group.numpy()
    belief = torch.from_numpy(np.exp(-((logit.numpy() - centre[:, None]) ** 2) / 2))
    belief = belief / belief.sum(-1, keepdim=True)
    found = scores.learn(belief, start, logit, torch.arange(60), group).numpy()

    mean, variance = (belief * logit).sum(-1).numpy(), 0.0
    variance = (belief * logit.square()).sum(-1).numpy() - mean**2
    wide = float(logit.square().mean())
    known = np.clip(1 - variance / wide, 0.02, 0.98)
    weight = 1 / (SPREAD + wide * (1 - known) / known)
    columns = np.concatenate([scores.matrix.numpy(), np.eye(3)[group.numpy()]], 1)
    gram = columns.T @ (weight[:, None] * columns)
    moment = columns.T @ (weight * mean / known)

    def solved(precision: float) -> np.ndarray:
        return np.linalg.solve(gram + np.diag([precision] * 3 + [1e-9] * 3), moment)[:3]

    # The precision that was used, from the solution; the size of the weights falls as it rises.
    low, high = 1e-4, 1e5
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if np.linalg.norm(solved(middle)) > np.linalg.norm(found) else (low, middle)
    np.testing.assert_allclose(found, solved(middle), rtol=1e-5, atol=1e-7)
    inner = np.linalg.eigvalsh(gram[:3, :3] - gram[:3, 3:] @ np.linalg.solve(gram[3:, 3:], gram[3:, :3]))
    again = ((inner / (inner + middle)).sum() + 0.5) / (found @ found + 0.5)
    np.testing.assert_allclose(again, middle, rtol=0.02)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(0, 2))
def test_places_interpolate_between_knots(values: list[float], group: int) -> None:
    score = torch.tensor(values, dtype=torch.float64)
    knots = score.quantile(torch.linspace(0, 1, KNOTS, dtype=torch.float64))
    places = Places.among(score, knots, torch.full([len(score)], group))
    assert bool(((places.lower // KNOTS == group) & (places.upper // KNOTS == group)).all())
    levels = torch.zeros(3 * KNOTS, 1, dtype=torch.float64)
    levels[group * KNOTS : (group + 1) * KNOTS, 0] = knots
    torch.testing.assert_close(places.between(levels)[:, 0], score, atol=1e-9, rtol=0)
    assert float(sum(share.sum() for _, share in places.shares(levels) if share is not None)) == pytest.approx(
        len(score)
    )


def test_features_tell_strangers_apart_within_groups() -> None:
    features, rates = prompts(0)
    _, without = play(Siblings(LABELS), rates)
    tracker, told = play(Siblings(LABELS, features), rates)
    assert told > without + 0.15
    strangers = tracker.belief[200:] @ LogitWalk().grid.double().sigmoid()
    assert float(torch.corrcoef(torch.stack([strangers, rates[200:]]))[0, 1]) > 0.85


def test_features_that_tell_nothing_do_no_harm() -> None:
    features, rates = prompts(1)
    _, without = play(Siblings(LABELS), rates)
    _, told = play(Siblings(LABELS, features[:, 1:]), rates)
    assert told > without - 0.02


def test_features_that_are_the_group_say_no_more_than_it() -> None:
    """A column that is the same for all prompts of a group has no say within it, and two prompts with the same features
    are believed the same."""
    _, rates = prompts(2)
    number = [float(row % 3) for row in range(N)]
    alike, _ = play(Siblings(LABELS, {"number": number}), rates)
    plain, _ = play(Siblings(LABELS), rates)
    torch.testing.assert_close(alike.belief[210], alike.belief[213])
    torch.testing.assert_close(alike.belief, plain.belief, atol=0.05, rtol=0)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_a_late_group_and_a_resumed_filter(seed: int) -> None:
    """A late group is filtered with what was believed at its step, and a filter that was saved goes on alike."""
    rng = np.random.default_rng(seed)
    features, rates = prompts(seed % 7)
    samplers = [PromptSampler(Siblings(LABELS, features), N, trials=4, seed=1) for _ in range(2)]
    for _ in range(6):
        rows = torch.from_numpy(rng.choice(N - 1, 12, replace=False))
        samplers[0].observe(rows, torch.from_numpy(rng.binomial(4, rates[rows].numpy())), 4)
    samplers[1].load_state_dict(copy.deepcopy(samplers[0].state_dict()))
    before = samplers[0].belief[N - 1] @ LogitWalk().grid
    for sampler in samplers:
        sampler.observe([N - 1], [4], 4, step=3)
    assert torch.equal(samplers[0].belief, samplers[1].belief)
    assert samplers[0].belief[N - 1] @ LogitWalk().grid > before
    for sampler in samplers:
        sampler.observe([0, 1], [4, 0], 4)
    assert torch.equal(samplers[0].belief, samplers[1].belief)
    samplers[0].tracker.refilter({})  # type: ignore[attr-defined]
    assert samplers[0].belief.isfinite().all()


def test_prompts_of_other_numbers_join() -> None:
    features, rates = prompts(3)
    sampler = PromptSampler(Siblings(LABELS, features), N - 20, trials=4)
    for first in range(0, 100, 10):
        sampler.observe(
            torch.arange(first, first + 10),
            torch.from_numpy(np.random.default_rng(first).binomial(4, rates[first : first + 10])),
            4,
        )
    sampler.add(20)
    new = sampler.belief[-20:].double() @ LogitWalk().grid.double().sigmoid()
    assert float(torch.corrcoef(torch.stack([new, rates[-20:]]))[0, 1]) > 0.6
    with pytest.raises(ValueError, match="features: expected those of 241 prompts, got those of 240"):
        sampler.add(1)


def test_many_columns_are_reduced() -> None:
    embedding = torch.randn(N, 200)
    assert Siblings(features=embedding).scores.matrix.shape == (N, 64)  # type: ignore[union-attr]
    tracker, _ = play(Siblings(features=embedding), torch.full([N], 0.5))
    assert tracker.belief.isfinite().all()


def test_with_features_each_prompt_has_a_belief_of_its_own() -> None:
    assert pooled_tracker(Siblings(features=torch.randn(N, 2)), N) is None


def test_features_by_name() -> None:
    table: dict[str, Any] = {"length": [1.0, 2.0, 3.0], "subject": ["a", "b", "a"]}
    model: Any = make("Siblings", {"features": ["length"]}, table)
    assert model.scores.matrix.shape == (3, 1)
    model = make("Siblings", {"groups": "subject"}, table)
    assert model.scores.matrix.shape == (3, 3)  # all that is known, if nothing else is said
    many: dict[str, Any] = {"id": [f"p{row}" for row in range(1500)], "length": [float(row) for row in range(1500)]}
    model = make("Siblings", {}, many)
    assert model.scores.matrix.shape == (1500, 1)  # not those that name the prompts
    model = make("Siblings", {"features": []}, table)
    assert model.scores is None
    assert make("Siblings", {}, {}).scores is None  # type: ignore[union-attr]
