"""Fits and smoothing compute on the device that they are given; see tests/tracking/test_devices.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.elsewhere import DEVICES, present

from dps_pyro import NUTS, SVI, Laplace, Posterior, RolloutHistory, fit
from dps_pyro.evaluation.smoothing import smoothed
from dps_pyro.models import Hierarchical, LogitWalk, SolvingProgress, Trained

N, T = 6, 5
GROUPS = ["a", "b"] * 3
METHODS: dict[str, Any] = {
    "laplace": Laplace(steps=4, draws=5),
    "svi normal": SVI(guide="normal", steps=3, draws=4),
    "svi low rank": SVI(guide="low_rank", steps=3, draws=4),
    "svi mini-batches": SVI(guide="normal", steps=4, draws=4, batch_size=3, restarts=2),
    "nuts": NUTS(warmup=2, draws=4, max_tree_depth=2),
}


def history(columns: bool = False) -> RolloutHistory:
    generator = torch.Generator().manual_seed(5)
    made = RolloutHistory(N, num_steps=T)
    for step in range(T):
        rows = torch.randperm(N, generator=generator)[:4]
        made.append(
            rows, step=step, solved=torch.randint(0, 5, (4,), generator=generator), trials=4, progress=0.1 * step
        )
    return made


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", METHODS)
def test_fit(name: str, device: str) -> None:
    torch.set_default_dtype(torch.float64)
    log, state = history(), torch.random.get_rng_state()

    def found(device: str | None) -> Posterior:
        return fit(SolvingProgress(), log, METHODS[name], seed=2, progress=False, device=device)

    expected = found(None)
    with present(device) as there:
        posterior = found(there)
    for site, value in expected.draws.items():
        assert type(posterior.draws[site]) is torch.Tensor
        assert posterior.draws[site].shape == value.shape
        if device == "emulated":  # another device has another generator
            torch.testing.assert_close(posterior.draws[site], value)
    assert posterior.losses.device.type == "cpu"
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "make",
    [lambda: LogitWalk(GROUPS), lambda: Hierarchical(GROUPS, levels=3), Trained],
    ids=["walk", "groups", "trained"],
)
def test_fit_with_a_prior_and_a_start(make: Callable[[], Any], device: str) -> None:
    torch.set_default_dtype(torch.float64)
    log, model = history(), make()
    before = fit(model, log, SVI(guide="normal", steps=2, draws=4), progress=False)
    method = SVI(guide="normal", steps=2, draws=4, start=before)
    expected = fit(model, log, method, prior=before, progress=False)
    with present(device) as there:
        posterior = fit(model, log, method, prior=before, progress=False, device=there)
    for site, value in expected.point.items():
        assert posterior.point[site].shape == value.shape
        if device == "emulated":
            torch.testing.assert_close(posterior.point[site], value)


@pytest.mark.parametrize("device", DEVICES)
def test_smoothing(device: str) -> None:
    torch.set_default_dtype(torch.float64)
    log, values = history(), {"initial": torch.tensor([0.2, 0.5, 0.3])}
    expected = smoothed(SolvingProgress(), log, values)
    with present(device) as there:
        found = smoothed(SolvingProgress(), log, values, device=there)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, expected)
