"""What every model of the gallery owes: the contract, and states that keep their labels whatever the seed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import oracle
from helpers.fits import svi
from helpers.variants import EACH, OTHERS, variants
from pyro.infer.autoguide import AutoNormal, init_to_mean
from torch import Tensor

from benchmarks.inference.gallery import FITTED, arguments, make
from dps_pyro import RolloutHistory, models
from dps_pyro.models import PaperDPS
from dps_pyro.testing import check_dynamics


def test_the_gallery_is_all_there() -> None:
    assert {"SolvingProgress", "LogitWalk"} <= set(FITTED) <= set(models.__all__)
    assert OTHERS.keys() <= set(FITTED)
    assert "PaperDPS" not in FITTED


@pytest.mark.parametrize(("name", "label"), EACH, ids=lambda part: str(part).replace(" ", ""))
def test_every_fitted_model_keeps_the_contract(name: str, label: str) -> None:
    check_dynamics(make(name, variants(name, 7)[label]))


@pytest.mark.parametrize("name", FITTED)
def test_every_fitted_model_keeps_it_in_double_precision(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    check_dynamics(make(name, variants(name, 5)["default"]), num_prompts=5, num_steps=4, trials=(1, 8), seed=1)


@pytest.mark.parametrize("arguments", [{}, {"prior_alpha": 3.0, "initial": [0.5, 0.3, 0.2]}], ids=str)
def test_the_papers_tracker_keeps_it_as_the_pyro_model_that_it_also_is(arguments: dict[str, Any]) -> None:
    check_dynamics(PaperDPS(**arguments), trials=(2, 5))  # one rollout cannot be mixed


def own_guide(model: Any) -> AutoNormal:
    return AutoNormal(model, init_loc_fn=init_to_mean)


@pytest.mark.parametrize(
    "guide", ["normal", "low_rank", "delta", own_guide], ids=["normal", "low_rank", "delta", "own"]
)
@pytest.mark.parametrize("name", FITTED)
def test_a_fit_leaves_the_model_as_it_was(name: str, guide: Any) -> None:
    """What a prior's mean is told to be must not follow the guide that starts at it: nor does a second fit differ."""
    model = make(name, arguments(name, 5))
    before = copy.deepcopy(vars(model))
    solved, trials = oracle.random_groups(5, 3)
    history = RolloutHistory.from_dense(solved, trials)
    one, two = (svi(model, history, guide=guide, steps=2, draws=2, progress=False) for _ in range(2))
    for attribute, value in before.items():
        now = vars(model)[attribute]
        assert not isinstance(value, Tensor) or torch.equal(value, now), attribute
    assert torch.equal(one.losses, two.losses)
    kept = {site: value.clone() for site, value in one.point.items()}
    svi(model, history, guide=guide, steps=2, draws=2, start=one, progress=False)
    assert all(torch.equal(value, one.point[site]) for site, value in kept.items())
