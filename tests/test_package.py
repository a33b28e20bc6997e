"""The package as a user gets it: a wheel, installed somewhere else, without this checkout in reach."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import dps_pyro

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAPPING: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
HEAVY = ["transformers", "vllm", "trl", "verl", "arviz", "matplotlib"]

# Isolated from PYTHONPATH and the checkout: only the installed wheel, then what it depends on.
IMPORT = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise OSError("the network was used")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
# Dropping the import hooks of an editable install leaves the wheel as the only dps_pyro there is.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2].split():
    __import__(name)
files = {name: module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "dps_pyro"}
json.dump({"files": files, "loaded": sorted(sys.modules)}, sys.stdout)
"""


def clean_environment() -> dict[str, str]:
    """This process's environment without what would lead Python, coverage or a model hub elsewhere."""
    drop = ("PYTHON", "COV", "HF_", "TRANSFORMERS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(drop)}


def python(*arguments: str, cwd: Path) -> str:
    """The output of a Python process that knows nothing of this checkout."""
    done = subprocess.run(
        [sys.executable, "-I", *arguments],
        cwd=cwd,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the package: where it lies in the wheel, and its file."""
    for package in ("dps_pyro", "dps_pyro.models", "dps_pyro.trainers"):
        folder = ROOT / MAPPING[package]
        for file in sorted(folder.rglob("*.py")):
            yield f"{package.replace('.', '/')}/{file.relative_to(folder).as_posix()}", file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist without network, as `python -m build` does it."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, so that building neither reads an old build/ nor leaves a new one in the checkout.
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in MAPPING.values():
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    python("-m", "build", "--no-isolation", "--outdir", str(folder), str(copy), cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed, without its dependencies."""
    target = tmp_path_factory.mktemp("site")
    python(
        "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel), cwd=target
    )
    return target


def imported(site: Path, names: str, cwd: Path) -> dict[str, dict[str, str] | list[str]]:
    """The files of dps_pyro's modules and the names of all modules after importing `names` from the wheel."""
    result: dict[str, dict[str, str] | list[str]] = json.loads(python("-c", IMPORT, str(site), names, cwd=cwd))
    return result


def test_every_part_imports_from_the_wheel(site: Path, tmp_path: Path) -> None:
    names = PROJECT["tool"]["setuptools"]["packages"]
    files = imported(site, " ".join(names), tmp_path)["files"]
    assert isinstance(files, dict)
    assert set(names) <= set(files)
    outside = {name: file for name, file in files.items() if not Path(file).is_relative_to(site)}
    assert not outside, f"expected every module from {site}, but these came from elsewhere: {outside}"


def test_importing_the_package_is_light_and_stays_offline(site: Path, tmp_path: Path) -> None:
    """Neither the package nor the process that judges rewards loads PyTorch; nothing of these loads what is heavier."""
    loaded = imported(site, "dps_pyro dps_pyro.tasks.own.task_worker dps_pyro.tasks.own.reward_worker", tmp_path)
    assert [name for name in ("torch", "pyro", *HEAVY) if name in loaded["loaded"]] == []
    assert [name for name in loaded["loaded"] if name.startswith(("dps_pyro.models", "dps_pyro.trainers"))] == []
    more = imported(site, "dps_pyro.models dps_pyro.tasks dps_pyro.rollouts", tmp_path)["loaded"]
    assert {"torch", "pyro"} <= set(more)
    assert [name for name in HEAVY if name in more] == []


def test_every_public_name_is_there() -> None:
    for name in dps_pyro.__all__:
        assert name in dir(dps_pyro) and getattr(dps_pyro, name).__module__ == dps_pyro._PLACES[name]
    with pytest.raises(AttributeError, match="module 'dps_pyro' has no attribute 'nothing'"):
        dps_pyro.nothing  # noqa: B018


def test_the_wheel_holds_every_module_and_the_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name, _ in sources()} <= names
    assert "dps_pyro/py.typed" in names
    assert {"config.json", "model.safetensors", "README.md"} <= {
        name.removeprefix("dps_pyro/policies/countdown/")
        for name in names
        if name.startswith("dps_pyro/policies/countdown/")
    }
    templates = {f"dps_pyro/templates/{file.name}" for file in (ROOT / "dps_pyro/templates").iterdir()}
    assert templates and templates <= names
    # The mapping puts models/ and trainers/ below the package, and nothing else into anyone's site-packages.
    assert {name.partition("/")[0] for name in names} == {"dps_pyro", "dps_pyro-0.1.0.dist-info"}


def test_the_wheel_declares_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read("dps_pyro-0.1.0.dist-info/METADATA").decode()
        scripts = archive.read("dps_pyro-0.1.0.dist-info/entry_points.txt").decode()
    assert "License-Expression: Apache-2.0" in metadata
    core = {line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line}
    for name in ("torch", "pyro-ppl", "numpy", "safetensors", "pyarrow"):
        assert any(line.startswith(f"Requires-Dist: {name}>=") for line in core), f"{name} is not among {core}"
    for name in ("transformers", "arviz", "math-verify"):
        assert f"Requires-Dist: {name}" not in "\n".join(core), f"{name} belongs to an extra, got {core}"
    assert not any("==" in line for line in core), f"expected lower bounds only, got {core}"
    assert "dps-pyro = dps_pyro.cli:main" in scripts


def imports(file: Path) -> set[str]:
    """The absolute names a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: expected an absolute import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FLOORS = (
    ("support", "storage", "lm", "policies"),
    ("history", "rollouts", "tasks"),
    ("dynamics",),
    ("tracking", "inference"),
    ("selection", "testing", "models"),
    ("evaluation", "serve"),
    ("report",),
    ("trainers",),
    ("cli",),
)
"""The packages from the ground up: one imports only packages of the floors below its own."""


def packages(names: Iterable[str]) -> set[str]:
    """The packages of dps_pyro that dotted names lie in; the public names of `dps_pyro` itself count as "dps_pyro"."""
    parts = [name.split(".") for name in names if name.split(".")[0] == "dps_pyro"]
    known = {package for floor in FLOORS for package in floor}
    return {part[1] if len(part) > 1 and part[1] in known else "dps_pyro" for part in parts}


def test_nothing_imports_upwards() -> None:
    floor_of = {package: height for height, floor in enumerate(FLOORS) for package in floor}
    wrong = []
    for module, file in sources():
        if module == "dps_pyro/__init__.py":
            continue
        own = module.removesuffix(".py").split("/")[1]
        assert own in floor_of, f"{module}: expected its package among {', '.join(floor_of)}"
        # The command line asks for the version, which `dps_pyro` itself holds.
        allowed = {own, *(["dps_pyro"] if own == "cli" else [])}
        wrong += [
            f"{module} imports {package}"
            for package in packages(imports(file)) - allowed
            if package == "dps_pyro" or floor_of[package] >= floor_of[own]
        ]
    assert wrong == []


def test_no_module_has_the_name_of_a_function_that_it_holds() -> None:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    wrong = [
        module
        for module, file in sources()
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, functions) and node.name == file.stem
    ]
    assert wrong == []


def test_no_module_has_the_name_of_a_function_that_its_package_exports() -> None:
    wrong = []
    for module, file in sources():
        if file.name == "__init__.py" and module != "dps_pyro/__init__.py":
            body = ast.parse(file.read_text(encoding="utf-8")).body
            taken = {
                alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names
            }
            taken |= {node.name for node in body if isinstance(node, ast.FunctionDef)}
            wrong += [f"{module}: {name}" for name in taken & {other.stem for other in file.parent.glob("*.py")}]
    assert wrong == []


FEW, MANY = 12, 16
"""The most files in a folder; more where there is one per command or per model, or one per file that is tested."""
ROOMY = ("dps_pyro/cli", "models", "tests/models")


def test_no_folder_of_code_is_crowded_and_no_file_is_long() -> None:
    roots = ("dps_pyro", "models", "trainers", "tests", "benchmarks", "scripts", "examples")
    files = [file.relative_to(ROOT) for root in roots for file in sorted((ROOT / root).rglob("*.py"))]
    assert len(files) > len(dict(sources()))
    crowded = {
        str(folder): count
        for folder, count in Counter(file.parent for file in files).items()
        if count > (MANY if any(folder.is_relative_to(roomy) for roomy in ROOMY) else FEW)
    }
    assert crowded == {}
    lengths = {str(file): len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in files}
    assert {file: length for file, length in lengths.items() if length > 400} == {}
