"""The walk on success logits: a population, a ladder, and the exact filter on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.fits import BY_DEFAULT_AND_BY_SVI, fitted

from dps_pyro import Progress, PromptSampler, RolloutHistory, Step, Tracker
from dps_pyro.models import LogitWalk

VALUES = {
    "start": torch.tensor([0.5, -0.3, 0.2, -1.0]),
    "resting": torch.tensor([0.1, 0.7, 0.2]),
    "learning": torch.tensor([0.2, 0.3, 0.5]),
    "leave": torch.tensor([0.25, 0.5]),
    "tilt_scale": torch.tensor([1.0, 0.5, 2.0]),
    "z_tilt": torch.tensor([[1.0, -1.0, 0.5], [-0.5, 0.3, -1.0]]),
}


def by_hand(group: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Initial [4], matrix [4, 4] and rates [4] at `VALUES`, as the docstring says them."""
    values = {name: value.double().numpy() for name, value in VALUES.items()}
    grid = np.linspace(-2, 2, 4)
    rates, x = 1 / (1 + np.exp(-grid)), grid / 2
    logits = values["start"].copy()
    if group is not None:
        tilt = values["tilt_scale"] * values["z_tilt"][group]
        logits += tilt[0] * x + tilt[1] * x**2 + tilt[2] * np.array([1, 0, 0, 0])
    matrix = np.zeros((4, 4))
    for k in range(4):
        s = 4 * rates[k] * (1 - rates[k])
        down, _, up = (1 - s) * values["resting"] + s * values["learning"]
        leave = values["leave"][0] if k == 0 else values["leave"][1] if k == 3 else 1.0
        if k > 0:
            matrix[k, k - 1] = down * leave
        if k < 3:
            matrix[k, k + 1] = up * leave
        matrix[k, k] = 1 - matrix[k].sum()
    return np.exp(logits) / np.exp(logits).sum(), matrix, rates


@pytest.mark.parametrize("groups", [None, ["hard", "easy", "hard"]])
def test_the_filter_equals_brute_force_over_all_paths(groups: list[str] | None) -> None:
    model = LogitWalk(groups, rungs=4, limit=2.0)
    values = VALUES if groups else {name: value for name, value in VALUES.items() if "tilt" not in name}
    solved = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 8.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    trials = torch.tensor([[4, 0, 8, 2], [0, 8, 8, 1], [3, 3, 0, 0]])
    law = Progress(model, model.parameters(3, values), Step(trials))
    tracker = Tracker(model, 3, values=values)
    expected = []
    for row in range(3):
        initial, matrix, rates = by_hand(None if groups is None else int(groups[row] == "hard"))
        likelihood = [oracle.binomial(y, n, rates) for y, n in zip(solved[row], trials[row], strict=True)]
        expected.append(oracle.brute_force(initial, [matrix] * 4, likelihood))
    np.testing.assert_allclose(law.log_prob(solved), [evidence for evidence, _ in expected], atol=1e-5)
    for t in range(4):
        np.testing.assert_allclose(tracker.belief, np.stack([beliefs[t] for _, beliefs in expected]), atol=1e-5)
        tracker.observe(torch.arange(3), solved[:, t], trials[:, t])
    np.testing.assert_allclose(tracker.belief, np.stack([beliefs[4] for _, beliefs in expected]), atol=1e-5)


@pytest.mark.parametrize("method", BY_DEFAULT_AND_BY_SVI)
def test_prompts_never_seen_start_with_what_their_group_has_shown(method: str | None) -> None:
    """Easy and hard prompts are rolled out; of each group some never are."""
    groups = ["easy", "hard"] * 100
    trials = torch.zeros(200, 6, dtype=torch.long)
    trials[:150] = 8
    rates = torch.tensor([0.85, 0.03] * 100).unsqueeze(-1).expand(200, 6)
    torch.manual_seed(0)
    history = RolloutHistory.from_dense(torch.binomial(trials.float(), rates), trials)
    model = LogitWalk(groups)
    posterior = fitted(model, history, method, steps=300)
    chance = Tracker(model, 200, values=posterior.point).draw(torch.Generator().manual_seed(0))[150:]
    assert chance[0::2].mean() > 0.7
    assert chance[1::2].mean() < 0.15
    others = LogitWalk(["hard", "hard", "easy"], labels=model.groups.labels if model.groups else None)
    first, _, third = Tracker(others, 3, values=posterior.point).belief @ others.grid.sigmoid()
    assert third > 0.7 > 0.15 > first


def test_groups_are_checked() -> None:
    with pytest.raises(ValueError, match="groups: expected a label for each of 3 prompts, got 2"):
        PromptSampler(LogitWalk(["a", "b"]), 3)


def test_it_tells_a_hard_prompt_from_a_middling_one_where_three_states_cannot() -> None:
    """One right of eight and four right of eight are both mixed; the chance that the next group is mixed differs."""
    sampler = PromptSampler(LogitWalk(), num_prompts=2)
    for _ in range(3):
        sampler.observe([0, 1], [1, 4], trials=8)
    hard, middling = sampler.informative(8).tolist()
    assert hard < 0.8 < 0.95 < middling


@pytest.mark.parametrize("method", BY_DEFAULT_AND_BY_SVI)
def test_a_fit_finds_the_population_and_the_moves(method: str | None) -> None:
    truth = LogitWalk(rungs=9, limit=4.0)
    values = {
        "start": torch.tensor([1.5, 0.0, 0.0, -1.0, -1.0, -1.0, 0.0, 0.0, 0.5]).log_softmax(-1),
        "resting": torch.tensor([0.02, 0.95, 0.03]),
        "learning": torch.tensor([0.05, 0.6, 0.35]),
        "leave": torch.tensor([0.1, 0.3]),
    }
    trials = torch.full((400, 20), 8)
    torch.manual_seed(0)
    history = RolloutHistory.from_dense(Progress(truth, truth.parameters(400, values), Step(trials)).sample(), trials)
    posterior = fitted(truth, history, method, steps=600)
    share = posterior.draws["start"].softmax(-1)
    assert bool(((share.mean(0) - values["start"].exp()).abs() < 4 * share.std(0) + 0.02).all())
    for name in ("resting", "learning", "leave"):
        sure = posterior.draws[name].std(0)
        assert bool(((posterior.point[name] - values[name]).abs() < 4 * sure + 0.03).all()), (name, posterior.point)


def test_every_rung_has_a_name_and_rates_increase() -> None:
    model = LogitWalk(rungs=5)
    assert len(model.states) == 5
    one = Step(torch.ones(1, dtype=torch.long))
    assert bool((model.emission(model.parameters(1), one).mean.diff(dim=-1) > 0).all())


@pytest.mark.parametrize(
    "wrong",
    [
        {"rungs": 2},
        {"limit": 0.0},
        {"ends": (1.0,)},
        {"ends": (0.6, 0.4)},
        {"resting": (1.0, -1.0, 1.0)},
        {"spread": 0},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        LogitWalk(**wrong)  # type: ignore[arg-type]
