"""States keep their labels whatever the seed: the committed fits from twenty seeds, and a few made here."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.fits import svi
from pyro.infer.autoguide import AutoNormal, init_to_sample

from benchmarks.docs import evidence
from benchmarks.inference.gallery import FITTED, SMALL, arguments, make
from benchmarks.inference.labels import STARTS, measure
from dps_pyro import Step
from dps_pyro.evaluation.simulation import simulate

pytestmark = pytest.mark.no_cover


def test_no_model_of_the_gallery_switches_labels_over_twenty_seeds() -> None:
    """In order from any start; and from the prior's mean, where `fit` begins, in one place."""
    result = json.loads((evidence.RESULTS / "labels.json").read_text(encoding="utf-8"))
    rows = {(row["model"], row["start"]): row for row in result["rows"]}
    assert rows.keys() == {(name, start) for name in FITTED for start in STARTS}
    for (name, start), row in rows.items():
        assert row["arguments"] == SMALL.get(name, {})
        assert row["ordered"] == row["seeds"] >= 20, (name, start)
        if start == "mean":
            assert row["best"] == row["seeds"], name
            assert row["chance_spread"] < 0.05, name
            assert row["useful_spread"] < 0.1, name
            assert row["states_moved"] < 0.1, name
        else:
            assert row["best"] >= row["seeds"] / 2, name


def test_a_row_of_the_benchmark() -> None:
    torch.set_default_dtype(torch.float64)
    settings = {"seeds": 2, "prompts": 40, "steps": 8, "observed": 0.9, "svi_steps": 300, "history_seed": 1}
    row = measure("SolvingProgress", "draws", **settings)
    assert (row["ordered"], row["seeds"]) == (2, 2)
    assert row["chance_spread"] < 0.1
    assert row["states_moved"] < 0.1
    few = measure("SolvingProgress", "draws", **(settings | {"svi_steps": 1}))
    assert few["chance_spread"] > 2 * row["chance_spread"]  # they did begin apart


@pytest.mark.parametrize("name", FITTED)
def test_random_starts_fit_the_same_rates_in_the_same_order(name: str) -> None:
    num_prompts, group = 30, 8
    model = make(name, {**arguments(name, num_prompts, only_needed=True), **SMALL.get(name, {})})
    levels = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    log, _, _ = simulate(model, prompts=num_prompts, num_steps=6, centre=True, progress=levels, seed=1)
    rates = []
    for seed in range(2):
        found = svi(
            model, log, steps=80, learning_rate=0.15, draws=20, tolerance=0, seed=seed, progress=False,
            guide=lambda density: AutoNormal(density, init_loc_fn=init_to_sample, init_scale=0.05),
        )  # fmt: skip
        theta = model.parameters(num_prompts, found.point)
        law = model.emission(theta, Step(torch.full((num_prompts,), group)))
        rates.append(law.mean.expand(num_prompts, -1)[0] / group)
    together = torch.stack(rates)
    assert bool((together.diff(dim=-1) >= -1e-6).all())
    if name not in ("DenseReward", "Ladder"):  # they have more than one mode to end in
        assert bool((together.amax(0) - together.amin(0) < 0.1).all()), together
