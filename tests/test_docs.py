"""Every Python block of the README and the guides runs, in order, as a reader would type it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from dps_pyro import NUTS, SVI, Dynamics, PromptSampler, fit
from dps_pyro.models import SolvingProgress
from scripts import run_examples

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WRITTEN = DOCS / "examples"  # by scripts/run_examples.py, from examples/
PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if WRITTEN not in page.parents)]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut every fit short: blocks are to run as they are written, and what a fit finds is tested elsewhere."""
    limits: dict[Any, dict[str, int]] = {
        SVI: {"steps": 20, "draws": 20},
        NUTS: {"warmup": 4, "draws": 4, "max_tree_depth": 3},
    }
    for method, most in limits.items():

        def cut(self: Any, checked: Any = method.__post_init__, most: dict[str, int] = most) -> None:
            checked(self)
            for name, limit in most.items():
                object.__setattr__(self, name, min(getattr(self, name), limit))

        monkeypatch.setattr(method, "__post_init__", cut)


# torchdata 0.11 calls what torch 2.13 no longer wants called.
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
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
    posterior = fit(model, sampler.history, progress=False)
    assert 0.5 < posterior.point["stay"] < 1


def test_relative_links_lead_somewhere() -> None:
    for page in [*PAGES, *WRITTEN.glob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_links_between_pages_lead_to_their_headings() -> None:
    for page in PAGES:
        for target, heading in re.findall(
            r"\]\((?!https?://)([^)#]*\.md)?#([^)]+)\)", page.read_text(encoding="utf-8")
        ):
            text = (page.parent / target if target else page).read_text(encoding="utf-8")
            assert heading in _headings(text), f"{page.relative_to(ROOT)} links to {target}#{heading}"


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", run_examples.EXAMPLES)
def test_every_example_runs_and_its_page_shows_it(name: str, tmp_path: Path) -> None:
    written = run_examples.run(name, tmp_path)
    page = (WRITTEN / f"{name}.md").read_text(encoding="utf-8")
    again = f"python -m scripts.run_examples {name} writes the page again"
    assert _without_outputs(page) == _without_outputs(written), again
    pictures = re.findall(r"\]\(images/([^)]+)\)", page)
    assert sorted(pictures) == sorted(path.name for path in tmp_path.iterdir())
    assert all((WRITTEN / "images" / picture).is_file() for picture in pictures)


def test_the_cells_of_an_example_are_told_apart() -> None:
    source = "# ruff: noqa\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\n# a comment\nx = 1\nx + 1\n"
    text, code = run_examples.cells(source)
    assert text == (True, "# Title\n\nText.") and code == (False, "# a comment\nx = 1\nx + 1")
    assert ast.parse(code.source).body


def test_the_new_paths_of_modules_exist() -> None:
    table = (DOCS / "migrating.md").read_text(encoding="utf-8").split("## Modules")[1].split("\n## ")[0]
    paths = re.findall(r"^\| `[\w.]+` \| `dps_pyro\.([\w.]+)`", table, flags=re.MULTILINE)
    assert len(paths) > 80
    for path in paths:
        room = path.split(".")[0]
        place = ROOT / ("" if room in ("models", "trainers") else "dps_pyro") / path.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), f"dps_pyro.{path}"


def test_a_fields_comment_is_found_with_the_lines_that_it_goes_on() -> None:
    field_comments = pytest.importorskip("scripts.field_comments", reason="needs the tools of make docs")
    fields = "x: int  # long [N], the first", "        # of two lines", 'y: str = "#"', "z: int  # other"
    source = "\n".join(["class A:", *(f"    {field}" for field in fields)]) + "\n"
    assert field_comments.comment(source, 2) == "Long [N], the first of two lines"
    assert field_comments.comment(source, 4) == ""
    assert field_comments.comment(source, 5) == "Other"


def _headings(text: str) -> set[str]:
    """The anchors of a page's headings, as the site makes them."""
    lines = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", line).strip().lower()) for line in lines}


def _without_outputs(page: str) -> str:
    return re.sub(r'```text title="Output"\n.*?\n```', "", page, flags=re.DOTALL)


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
