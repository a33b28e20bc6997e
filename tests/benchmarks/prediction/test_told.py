"""The benchmark of what `Siblings` is told, on a log whose features tell the success rates."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.docs.prediction import told
from benchmarks.prediction.told import models, play
from dps_pyro import RolloutHistory
from dps_pyro.tracking.tracker import track


def test_what_is_told_is_scored() -> None:
    """A level and a hidden number decide the rates: the reading, which has the number, helps beside the level."""
    rng = np.random.default_rng(0)
    level, hidden = rng.integers(0, 3, 200), rng.normal(size=200)
    rates = 1 / (1 + np.exp(-(level - 1.0 + 1.5 * hidden)))
    history = RolloutHistory(200, features={"level": level.astype(float).tolist()})
    for step in range(40):
        rows = rng.choice(200, 8, replace=False)
        history.append(
            torch.from_numpy(rows), step=step, solved=torch.from_numpy(rng.binomial(4, rates[rows])), trials=4
        )
    reading = {"reading 1": hidden.tolist(), "reading 2": rng.normal(size=200).tolist()}
    made = models(history, ["level"], reading)
    rows = [{"testbed": "made up", "told": name, **play(track(model, 200), history)} for name, model in made.items()]
    scores = {row["told"]: row for row in rows}
    alone = scores["nothing, each prompt by itself (LogitWalk)"]
    assert scores["groups by level, the reading"]["first"] > scores["groups by level"]["first"] + 0.05
    assert scores["groups by level, the reading"]["all"] > alone["all"] + 0.1
    assert scores["noise"]["first"] > scores["nothing"]["first"] - 0.03
    assert alone["visited"] == len(history.events.prompt.unique())
    share = alone["visited"] / len(history.events.prompt)
    assert np.isclose(alone["all"], share * alone["first"] + (1 - share) * alone["again"])
    page = told({"rows": rows, "configuration": {"steps": 40, "components": 2, "seed": 0}})
    assert page.count("\n| made up |") == len(made)
