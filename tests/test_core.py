"""The package with its core dependencies alone: everything that an extra brings is made unfindable."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

# Top-level modules of distributions outside the core are hidden from everything that runs after this.
HIDE = """
import sys
hidden = set(sys.argv[1].split())

class Filtered:
    # A finder that does not see what is hidden.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Filtered(finder) for finder in sys.meta_path]
"""


def closure(names: list[str]) -> set[str]:
    """The distributions that these bring, themselves included, by normalised name."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            asked = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        parsed = map(Requirement, asked)
        left += [one.name for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def core() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line).name for line in project["dependencies"]]


@cache
def owners_of_modules() -> dict[str, set[str]]:
    """The distributions, by normalised name, that bring each top-level module. Looks through all installed files."""
    found = importlib.metadata.packages_distributions()
    return {module: {re.sub(r"[-_.]+", "-", name).lower() for name in owners} for module, owners in found.items()}


def with_core(program: str, *also: str) -> subprocess.CompletedProcess[str]:
    """Run a program where only the core and the distributions `also`, with what they bring, can be imported."""
    kept = closure([*core(), *also]) | {"dps-pyro"}
    hidden = [
        module for module, owners in owners_of_modules().items() if not owners & kept and not module.startswith("_")
    ]
    assert "matplotlib" in hidden, hidden
    assert "tyro" in hidden, hidden
    return subprocess.run(
        [sys.executable, "-c", HIDE + program, " ".join(hidden)], capture_output=True, text=True, check=False, cwd=ROOT
    )


PLAIN = """
import torch
import dps_pyro, dps_pyro.models, dps_pyro.selection, dps_pyro.dynamics, dps_pyro.inference, dps_pyro.evaluation
from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress
sampler = PromptSampler(SolvingProgress(), num_prompts=16, trials=4)
for _ in range(3):
    rows = sampler.select(8)
    sampler.observe(rows, torch.randint(0, 5, (8,)), trials=4)
dps_pyro.fit(SolvingProgress(), sampler.history)
for name in ("transformers", "matplotlib", "lark", "pydantic"):
    assert name not in sys.modules, name
print("fine")
"""


def test_modelling_and_selection_need_the_core_alone() -> None:
    done = with_core(PLAIN)
    assert done.stdout.strip().endswith("fine"), done.stderr


def test_the_trl_plug_in_needs_the_core_and_trl() -> None:
    pytest.importorskip("trl")
    done = with_core("import dps_pyro.trainers.trl; print('fine')", "trl")
    assert done.stdout.strip().endswith("fine"), done.stderr


def test_the_settings_of_verl_need_the_core_and_pydantic() -> None:
    program = "from dps_pyro.trainers.verl.settings import Settings; print(Settings.of({}, 8).trials)"
    done = with_core(program, "pydantic")
    assert done.stdout.strip() == "8", done.stderr


MISSING = {
    "from dps_pyro.cli import main; sys.exit(main(['train', '--steps', '1']))": "dps_pyro[train]",
    "import dps_pyro.tasks": "dps_pyro[tasks]",
    "from dps_pyro.report import canvas; canvas.style().__enter__()": "dps_pyro[report]",
    "import dps_pyro.rollouts.transformers": "dps_pyro[train]",
}
"""What needs an extra, and which."""

TRIED = """
import traceback
for program in PROGRAMS:
    try:
        exec(program)
        print("nothing was missing", file=sys.stderr)
    except (Exception, SystemExit) as error:
        if not isinstance(error, SystemExit):
            traceback.print_exception(error, limit=1)
        elif not error.code:
            print("it exited with 0", file=sys.stderr)
    print("----", file=sys.stderr)
"""


def test_a_missing_extra_is_named_with_the_command() -> None:
    """One process tries all of them: what failed to be imported is not there for the next."""
    done = with_core(f"PROGRAMS = {list(MISSING)!r}\n{TRIED}")
    *said, rest = done.stderr.split("----\n")
    assert (done.returncode, rest) == (0, ""), done.stderr
    for (program, extra), text in zip(MISSING.items(), said, strict=True):
        assert f"pip install '{extra}'" in text, program
        assert "nothing was missing" not in text and "exited with 0" not in text, program
