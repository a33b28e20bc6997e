"""Every Python block of the README and the guides runs, in order, as a reader would type it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers.fits import svi

from dps_pyro import Dynamics, PromptSampler
from dps_pyro.models import SolvingProgress

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# torchdata 0.11 calls what torch 2.13 no longer wants called.
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    _leave_a_history(Path("runs/first/history.parquet"))
    reader: dict[str, Any] = {
        "torch": torch, "pyro": pyro, "dist": dist, "Dynamics": Dynamics, "SolvingProgress": SolvingProgress,
        "PromptSampler": PromptSampler, "folder": tmp_path,
    }  # fmt: skip
    for block in blocks:
        exec(compile(block, str(page), "exec"), reader)


def test_the_readmes_own_model_tracks_and_fits() -> None:

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    source = re.search(r"```python\n(import pyro\n.*?class Sticky.*?)```", readme, re.DOTALL)
    assert source is not None
    reader: dict[str, Any] = {}
    exec(source[1], reader)
    model = reader["Sticky"]()
    sampler = PromptSampler(model, num_prompts=50, seed=1)
    for _ in range(5):
        rows = sampler.select(8)
        sampler.observe(rows, torch.full((8,), 4), trials=8)
    assert sampler.belief[sampler.visits > 0][:, 1].min() > 0.5
    posterior = svi(model, sampler.history, steps=300, progress=False)
    assert 0.5 < posterior.point["stay"] < 1


def test_relative_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def _leave_a_history(path: Path) -> None:
    sampler = PromptSampler(SolvingProgress(), num_prompts=100, seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        rows = sampler.select(16)
        sampler.observe(rows, torch.randint(0, 9, (16,), generator=generator), trials=8)
    sampler.history.to_parquet(path)


def test_the_example_loop_runs_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = (ROOT / "examples/any_loop.py").read_text(encoding="utf-8")
    first: dict[str, Any] = {}
    exec(compile(source, "any_loop.py", "exec"), first)
    assert first["sampler"].tracker.step == 40
    assert first["metrics"]["useful/so_far"] > 0.65  # with "uniform" it is 0.51
    second: dict[str, Any] = {}
    exec(compile(source.replace("STEPS = 200, 16, 8, 40", "STEPS = 200, 16, 8, 50"), "any_loop.py", "exec"), second)
    assert second["done"] == 40
    assert second["sampler"].tracker.step == 50
