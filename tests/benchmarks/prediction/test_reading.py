"""The benchmark of the policy's own reading, on success rates whose causes are known."""

from __future__ import annotations

import torch

from benchmarks.prediction.reading import explained, regression


def test_the_share_that_each_set_of_regressors_explains() -> None:
    """Half of the logits' variance lies between groups, half along the states' first component."""
    generator = torch.Generator().manual_seed(7)
    number, trials = 1500, 16.0
    groups = torch.randint(5, (number,), generator=generator)
    states = torch.randn(number, 8, generator=generator) * torch.tensor([9.0, *[1.0] * 7])
    logps = torch.randn(number, generator=generator)
    logit = (groups - 2).double() / 2**0.5 + states[:, 0].double() / 9
    solved = torch.binomial(torch.full((number,), trials), torch.sigmoid(logit).float(), generator=generator).double()
    told = [solved, torch.full((number,), trials, dtype=torch.float64), states, logps, {("level",): groups}]
    rows = {row["regressors"]: row for row in explained(*told, [2])}
    assert 0.4 < rows["level"]["all"] < 0.6
    assert 0.4 < rows["reading, 2 components"]["all"] < 0.6
    assert rows["level, reading, 2 components"]["all"] > 0.95
    assert rows["level, reading, 2 components"]["few"] > 0.9
    assert abs(rows["level, log-probability"]["all"] - rows["level"]["all"]) < 0.02


def test_the_regression_is_where_the_gradient_is_zero() -> None:
    generator = torch.Generator().manual_seed(1)
    regressors = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    solved = torch.randint(9, (50,), generator=generator).double()
    weights = regression(regressors, solved, torch.full((50,), 8.0, dtype=torch.float64), 2.0).requires_grad_()
    chance = torch.sigmoid(regressors @ weights)
    likelihood = (solved * chance.log() + (8 - solved) * (1 - chance).log()).sum()
    (likelihood - weights.square().sum()).backward()
    assert weights.grad is not None
    assert weights.grad.abs().max() < 1e-8
