"""A posterior takes along what its values mean: the labels of groups, and what an average feature is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.fits import svi
from helpers.runs.tiny import call

from dps_pyro import Dynamics, Posterior, PromptSampler
from dps_pyro.dynamics.features import design_matrix, design_of
from dps_pyro.evaluation.simulation import simulate
from dps_pyro.models import Covariate, Hierarchical, LogitWalk
from dps_pyro.models.by_name import make
from dps_pyro.tracking.tracker import Tracker

OLD: dict[str, Any] = {"group": ["a", "b", "c"] * 6, "length": [float(row) for row in range(18)]}
NEW: dict[str, Any] = {"group": ["b", "c", "never seen", "b"], "length": [3.0, 40.0, 3.0, -5.0]}
"""Other prompts: none of group a, and one of a group that was not there."""
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "LogitWalk": ({"groups": "group"}, "z_tilt"),
    "Hierarchical": ({"groups": "group", "levels": 3}, "z_group"),
    "Covariate": ({"features": ["group", "length"], "levels": 3}, "weights"),
}


def loaded(name: str, folder: Path) -> tuple[Dynamics[Any], Posterior]:
    """A model of the old prompts, and its fit, read back from a folder."""
    model: Any = make(name, dict(CASES[name][0]), OLD)
    log = simulate(model, 18, 4, seed=1, features=OLD).log
    posterior = svi(model, log, steps=60, draws=8, progress=False)
    return model, Posterior.load(posterior.save(folder / "prior"))


@pytest.mark.parametrize("name", CASES)
def test_other_prompts_start_where_their_group_was_left(name: str, tmp_path: Path) -> None:
    arguments, site = CASES[name]
    before, posterior = loaded(name, tmp_path)
    after: Any = make(name, dict(arguments), NEW, posterior=posterior)
    assert after.carried() == before.carried() == posterior.about["columns"]
    first = PromptSampler(after, 4, posterior=posterior).belief
    known = Tracker(before, 18, values=posterior.point).belief
    if name == "Covariate":
        same: Any = make(name, dict(arguments), OLD, posterior=posterior)
        torch.testing.assert_close(Tracker(same, 18, values=posterior.point).belief, known)
        average = {"group": ["never seen", "another"], "length": [float("nan")] * 2}
        flat = {**posterior.point, site: torch.zeros_like(posterior.point[site])}
        belief = Tracker(make(name, dict(arguments), average, posterior=posterior), 2, values=posterior.point).belief  # type: ignore[arg-type]
    else:
        torch.testing.assert_close(first[[0, 1]], known[[1, 2]])
        flat = {**posterior.point, site: torch.zeros_like(posterior.point[site])}
        belief = first[[2]]
    centre = Tracker(before, 18, values=flat).belief[:1]
    torch.testing.assert_close(belief, centre.expand_as(belief))


@pytest.mark.parametrize("name", CASES)
def test_a_model_that_reads_prompts_another_way_is_refused(name: str, tmp_path: Path) -> None:
    _, posterior = loaded(name, tmp_path)
    others: dict[str, Any] = {"group": ["b", "c", "d"] * 2, "length": [1.0, 5.0, 90.0] * 2}
    with pytest.raises(
        ValueError, match=rf"posterior: expected one fitted with the same .*make it with {name}\(\.\.\., "
    ):
        PromptSampler(make(name, dict(CASES[name][0]), others), 6, posterior=posterior)
    kinds: dict[str, Any] = {"LogitWalk": LogitWalk, "Hierarchical": Hierarchical, "Covariate": Covariate}
    column = others if name == "Covariate" else others["group"]
    more = {"levels": 3} if name != "LogitWalk" else {}
    PromptSampler(kinds[name](column, **posterior.about["columns"], **more), 6, posterior=posterior)


def test_a_design_is_read_back_as_it_was() -> None:
    design = design_matrix({"subject": ["x", "y", "x"], "length": [1.0, float("nan"), 4.0]})
    again = design_of(design.plain())
    fresh = {"subject": ["y", "z"], "length": [2.0, 3.0]}
    assert torch.equal(again.apply(fresh).matrix, design.apply(fresh).matrix)
    assert again.names == design.names
    for damage in ({"names": ["a"]}, {"centre": None}, {"strings": []}):
        with pytest.raises(ValueError, match="reference: expected"):
            design_of({**design.plain(), **damage})


@pytest.mark.parametrize("name", CASES)
def test_from_one_log_to_another_on_the_command_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--steps", "4", "--trials", "4"]
    for groups, prompts, log in (("3", "12", "old.parquet"), ("4", "4", "new.parquet")):
        status, *_ = call(capsys, "simulate", "--out", log, "--groups", groups, "--prompts", prompts, *common)
        assert status == 0
    arguments = "{features: [group]}" if name == "Covariate" else "{groups: group}"
    fitted = ["fit", "--history", "old.parquet", "--model", name, "--model-args", arguments, "--steps", "5"]
    assert call(capsys, *fitted, "--draws", "4", "--out", "prior")[0] == 0
    played = ["replay", "--log", "new.parquet", "--models", name, "--model-args", f"{{{name}: {arguments}}}"]
    status, out, error = call(capsys, *played, "--prior", "prior", "--batch-size", "2", "--out", "played")
    assert status == 0, error
    assert f"{name} (prior)" in " ".join(out.split())
