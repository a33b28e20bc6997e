"""Filters and samplers compute on the device that they are given, exactly as on the CPU, and return tensors of the CPU.

No test machine has a GPU: `helpers.elsewhere` emulates a device that refuses tensors of the CPU. The same tests run on
CUDA where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.elsewhere import DEVICES, present
from torch import Tensor

from dps_pyro import PromptSampler
from dps_pyro.inference.refit import Refit
from dps_pyro.models import BetaBernoulli, Forgetting, LogitWalk, RunStart, Siblings, SolvingProgress, Trained
from dps_pyro.tracking.over_draws import TrackerOverDraws
from dps_pyro.tracking.predictor import Filter
from dps_pyro.tracking.tracker import Tracker, track

N, T, TRIALS = 6, 4, 4
GROUPS = ["a", "b"] * 4
MODELS: dict[str, Callable[[], Any]] = {
    "SolvingProgress": SolvingProgress,
    "LogitWalk with groups": lambda: LogitWalk(GROUPS),
    "Trained": Trained,
    "Forgetting": Forgetting,
    "RunStart": RunStart,
    "Siblings with groups": lambda: Siblings(GROUPS),
}


def apart(found: list[Tensor], expected: list[Tensor]) -> float:
    assert all(type(one) is Tensor and one.device.type == "cpu" for one in found)
    return max(float((one.double() - other.double()).abs().max()) for one, other in zip(found, expected, strict=True))


def played(tracker: Filter) -> list[Tensor]:
    """What a filter says on its way: a step is late, the state goes through a checkpoint, and prompts are added."""
    generator = torch.Generator().manual_seed(3)
    trials = torch.where(torch.rand(N, T, generator=generator) < 0.7, TRIALS, 0)
    solved = (torch.rand(N, T, generator=generator) * (trials + 1)).floor().clamp_max(trials)
    found = []
    for t in (0, 2, 3, 1):
        rows = trials[:, t].nonzero().squeeze(-1)
        found.append(tracker.observe(rows, solved[rows, t], trials[rows, t], t, progress=0.1 * t))
    tracker.load_state_dict(tracker.state_dict())
    tracker.add(2)
    rows = torch.tensor([0, 3])
    found += [tracker.belief, tracker.mass(), tracker.informative(TRIALS), tracker.draw(generator)]
    found += [tracker.expected(rows, torch.ones(2), torch.full((2,), 3)), *tracker.rates()]  # type: ignore[misc]
    assert tracker.history.events.prompt.device.type == "cpu"
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_filter(name: str, device: str) -> None:
    torch.set_default_dtype(torch.float64)
    expected = played(track(MODELS[name](), N))
    with present(device) as there:
        tracker = track(MODELS[name](), N, device=there)
        assert tracker._state["belief"].device.type == there
        assert apart(played(tracker), expected) < 1e-12


@pytest.mark.parametrize("device", DEVICES)
def test_filter_over_draws(device: str) -> None:
    torch.set_default_dtype(torch.float64)
    draws = {"initial": torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])}
    expected = played(TrackerOverDraws(SolvingProgress(), N, values=draws))
    with present(device) as there:
        assert apart(played(TrackerOverDraws(SolvingProgress(), N, values=draws, device=there)), expected) < 1e-12


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("acquisition", ["variance", "thompson"])
def test_sampler(acquisition: str, device: str) -> None:
    def selected(device: str | None) -> list[Tensor]:
        refit: dict[str, Any] = (
            {"refit_every": 2, "refit": Refit(first=3, steps=2)} if acquisition == "variance" else {}
        )
        sampler = PromptSampler(SolvingProgress(), N, acquisition=acquisition, device=device, seed=1, **refit)
        found = []
        for step in range(3):
            rows = sampler.select(3)
            sampler.observe(rows, (rows + step) % 5, TRIALS)
            found += [rows, sampler.informative(TRIALS), sampler.belief]
        found.append(sampler.baseline([0], torch.tensor([[1.0, 0.0, 1.0]])))
        found.append(torch.tensor(list(sampler.metrics().values())))
        return found

    torch.set_default_dtype(torch.float64)
    expected = selected(None)
    with present(device) as there:
        found = selected(there)
    # The noise of a fit on another device is another one, so that a real GPU's refits differ.
    assert apart(found, expected) < (1e-9 if device == "emulated" or acquisition == "thompson" else 2.0)


def test_refusals() -> None:
    with pytest.raises(
        ValueError, match="device: expected a device of this machine, such as cpu or cuda, got 'nowhere'"
    ):
        Tracker(SolvingProgress(), N, device="nowhere")
    with pytest.raises(
        ValueError, match="device: expected None for BetaBernoulli, whose own filter computes on the CPU"
    ):
        track(BetaBernoulli(), N, device="cpu")
    with pytest.raises(ValueError, match="device: expected None with pooled beliefs"):
        PromptSampler(SolvingProgress(), N, pooled=True, device="cpu")
