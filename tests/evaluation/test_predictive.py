"""Predictive checks one step ahead: right at the truth whatever selected the groups, and counted right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.inference.predictive import TRUTH, played
from dps_pyro import Posterior, PromptSampler, RolloutHistory
from dps_pyro.evaluation.predictive import predictive_checks, replicate
from dps_pyro.evaluation.smoothing import law
from dps_pyro.models import SolvingProgress

DRAWS = {name: value.expand(99, *value.shape) for name, value in TRUTH.items()}


def selected(seed: int, acquisition: str = "soft") -> RolloutHistory:
    posterior = Posterior({}, TRUTH, torch.zeros(0), True)
    sampler = PromptSampler(SolvingProgress(), 40, acquisition=acquisition, posterior=posterior, seed=seed)
    return played(SolvingProgress(), TRUTH, sampler, 10, 6, seed)


def test_replications_have_the_filters_own_chances() -> None:
    history = RolloutHistory.from_dense(torch.tensor([[0.0, 3.0, 8.0, 8.0]]), 8)
    many = {name: value.expand(4000, *value.shape) for name, value in TRUTH.items()}
    drawn = replicate(SolvingProgress(), history, many, seed=3)
    whole = law(SolvingProgress(), history, TRUTH)
    solved = history.dense().solved
    assert solved is not None
    belief = whole.filter(solved).belief[:, 0]
    before = torch.cat([TRUTH["initial"].unsqueeze(0), belief[:-1] @ TRUTH["transition"]])
    rates = TRUTH["gaps"].cumsum(-1)[:3]
    for t in range(4):
        chances = stats.binom.pmf(np.arange(9)[:, None], 8, rates.numpy()) @ before[t].numpy()
        counts = torch.bincount(drawn[:, t].long(), minlength=9).numpy()
        np.testing.assert_allclose(counts / 4000, chances, atol=0.04)
    assert torch.equal(drawn[:9], replicate(SolvingProgress(), history, many, seed=3)[:9])


def test_tails_at_the_truth_are_not_small_though_groups_are_selected() -> None:
    tails: dict[str, list[float]] = {}
    for seed in range(6):
        for check in predictive_checks(SolvingProgress(), selected(seed), DRAWS, seed=seed):
            tails.setdefault(check.name, []).append(check.tail)
    assert set(tails) == {
        "useful share by step", "solve rate by visit", "changes of class", "wrong once more", "right once more",
        "predictive ranks",
    }  # fmt: skip
    assert min(min(found) for found in tails.values()) > 0.001
    assert all(np.mean(found) > 0.2 for found in tails.values())


def test_classes_are_compared_with_those_that_the_log_has_before() -> None:
    solved, trials = torch.tensor([[0.0, 0.0, 4.0], [8.0, 8.0, 8.0]]), torch.tensor([[8, 8, 8], [8, 0, 8]])
    history = RolloutHistory.from_dense(solved, trials)
    found = {check.name: check for check in predictive_checks(SolvingProgress(), history, DRAWS)}
    assert found["changes of class"].observed.tolist() == [pytest.approx(1 / 3)]
    assert found["wrong once more"].observed.tolist() == [0.5]  # of the second and the third visit of the first prompt
    assert found["right once more"].observed.tolist() == [1.0]
    ranks = found["predictive ranks"]
    assert float(ranks.observed.sum()) == pytest.approx(1) and ranks.replicated.shape == (99, 10)
    drawn = replicate(SolvingProgress(), history, DRAWS)  # prompt by prompt
    again = ((drawn[:, 1] <= 0).double() + (drawn[:, 2] <= 0).double()) / 2
    torch.testing.assert_close(found["wrong once more"].replicated[:, 0], again)


# ------------------------------------------------------------------------------------------------- the committed result


def test_tails_are_uniform_at_the_truth_however_groups_were_selected_and_a_wrong_model_is_caught() -> None:
    """The committed logs: fifty under each acquisition, chi-square over five bins, at least 0.01 over the number of
    checks (Bonferroni), and nine of ten logs of another model."""
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "predictive.json"
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    assert parts.keys() == {"uniform", "soft", "thompson", "top", "wrong"}
    wrong = parts.pop("wrong")
    assert wrong["logs"] >= 10 and wrong["caught"] >= 0.9 * wrong["logs"]
    for name, part in parts.items():
        assert part["logs"] >= 50
        for check, tails in part["tails"].items():
            counts = torch.histc(torch.tensor(tails), 5, 0, 1)
            p = float(stats.chisquare(counts.numpy()).pvalue)
            assert p == pytest.approx(part["p"][check], abs=0.05), (name, check)  # tails are rounded
            assert p > 0.01 / len(part["tails"]), (name, check)
