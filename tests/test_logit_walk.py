"""The walk on success logits: a population, a ladder, and the exact filter on it."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch

from dps_pyro import Progress, PromptSampler, RolloutHistory, Step, fit
from dps_pyro.models import LogitWalk


def test_the_filter_equals_brute_force_over_all_paths() -> None:
    model = LogitWalk(rungs=4, limit=2.0, population=(0.7, 1.3), moves=(1.0, 6.0, 3.0))
    solved = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 8.0, 1.0]])
    trials = torch.tensor([[4, 0, 8, 2], [0, 8, 8, 1]])
    rates = 1 / (1 + np.exp(-np.linspace(-2, 2, 4)))
    weight = rates**0.7 * (1 - rates) ** 1.3
    matrix = np.array([[0.7, 0.3, 0, 0], [0.1, 0.6, 0.3, 0], [0, 0.1, 0.6, 0.3], [0, 0, 0.1, 0.9]])
    theta = model.parameters(2)
    law = Progress(model, theta, Step(trials))
    sampler = PromptSampler(model, num_prompts=2)
    expected = []
    for row in range(2):
        likelihood = [oracle.binomial(y, n, rates) for y, n in zip(solved[row], trials[row], strict=True)]
        expected.append(oracle.brute_force(weight / weight.sum(), [matrix] * 4, likelihood))
    np.testing.assert_allclose(law.log_prob(solved), [evidence for evidence, _ in expected], atol=1e-5)
    for t in range(4):
        np.testing.assert_allclose(sampler.belief, np.stack([beliefs[t] for _, beliefs in expected]), atol=1e-5)
        sampler.observe([0, 1], solved[:, t], trials[:, t])
    np.testing.assert_allclose(sampler.belief, np.stack([beliefs[4] for _, beliefs in expected]), atol=1e-5)


def test_the_population_is_the_beta_distribution_on_the_grid() -> None:
    model = LogitWalk(rungs=2001, limit=14.0, population=(2.0, 3.0))
    belief = model.initial(model.parameters(1)).probs
    rates = model.grid.sigmoid()
    torch.testing.assert_close((belief * rates).sum(), torch.tensor(2 / 5), atol=1e-4, rtol=0)
    torch.testing.assert_close((belief * rates**2).sum(), torch.tensor(2 * 3 / (5 * 6)), atol=1e-4, rtol=0)


def test_it_tells_a_hard_prompt_from_a_middling_one_where_three_states_cannot() -> None:
    """One right of eight and four right of eight are both mixed; the chance that the next group is mixed differs."""
    sampler = PromptSampler(LogitWalk(), num_prompts=2)
    for _ in range(3):
        sampler.observe([0, 1], [1, 4], trials=8)
    hard, middling = sampler.informative(8).tolist()
    assert hard < 0.8 < 0.95 < middling


def test_a_fit_finds_the_drift_and_the_population() -> None:
    truth = LogitWalk(rungs=9, limit=4.0)
    values = {"shape": torch.tensor([0.3, 0.9]), "moves": torch.tensor([0.02, 0.78, 0.2])}
    theta = truth.parameters(400, values)
    trials = torch.full((400, 12), 8)
    torch.manual_seed(0)
    history = RolloutHistory.from_dense(Progress(truth, theta, Step(trials)).sample(), trials)
    posterior = fit(truth, history, steps=400, progress=False)
    for name, value in values.items():
        sure = posterior.draws[name].std(0)
        assert bool(((posterior.point[name] - value).abs() < 4 * sure + 0.03).all()), (name, posterior.point[name])


def test_every_rung_has_a_name_and_rates_increase() -> None:
    model = LogitWalk(rungs=5)
    assert len(model.states) == 5
    one = Step(torch.ones(1, dtype=torch.long))
    assert bool((model.emission(model.parameters(1), one).mean.diff(dim=-1) > 0).all())


@pytest.mark.parametrize(
    "wrong",
    [{"rungs": 2}, {"limit": 0.0}, {"population": (1.0,)}, {"population": (0.0, 1.0)}, {"moves": (1.0, -1.0, 1.0)}],
    ids=str,
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        LogitWalk(**wrong)  # type: ignore[arg-type]
