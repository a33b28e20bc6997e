"""Files that are whole or not there."""

from __future__ import annotations

import ast
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import dps_pyro.models
import dps_pyro.trainers
from dps_pyro import storage
from dps_pyro.storage import atomic_path, load_state, save_state, strict_json

STATE = {
    "numbers": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
    "scalar": torch.tensor(3),
    "nested": {"deep": {"bits": torch.tensor([True, False]), "empty": torch.zeros(0, 3)}, "rate": 0.1 + 0.2},
    "a.b": {"c/d": torch.ones(2), "~e~1": torch.zeros(1), "": torch.tensor([7])},
    "ids": ["x", "y"],
    "none": None,
    "bottom": -float("inf"),
}


def test_a_nested_state_comes_back_exactly(tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    again = load_state(tmp_path)
    assert again.keys() == STATE.keys()
    for path in (
        ("numbers",),
        ("scalar",),
        ("nested", "deep", "bits"),
        ("nested", "deep", "empty"),
        ("a.b", "c/d"),
        ("a.b", "~e~1"),
        ("a.b", ""),
    ):
        one, other = STATE, again
        for key in path:
            one, other = one[key], other[key]  # type: ignore[index, call-overload]
        assert one.dtype == other.dtype  # type: ignore[attr-defined]
        assert torch.equal(one, other)  # type: ignore[arg-type]
    assert again["nested"]["rate"] == 0.1 + 0.2
    assert (again["ids"], again["none"], again["bottom"]) == (["x", "y"], None, -float("inf"))


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    save_state(tmp_path, {"whole": whole, "part": whole[1:3]})
    assert load_state(tmp_path)["part"].tolist() == [1, 2]


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_damaged_file_is_named(name: str, damage: str, tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    file = tmp_path / name
    content = file.read_bytes()
    file.write_bytes({"missing": b"", "cut": content[: len(content) // 2], "garbage": b"\xff" * 40}[damage])
    if damage == "missing":
        file.unlink()
    with pytest.raises(ValueError, match=f"{name}: expected a whole saved state"):
        load_state(tmp_path)


@pytest.mark.parametrize("text", ["null", "[]", "3", '{"tracker": 3}', "[" * 100_000])
def test_json_of_another_kind_is_named(text: str, tmp_path: Path) -> None:
    save_state(tmp_path, {"tracker": {"belief": torch.ones(2)}})
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ValueError, match=r"state\.json: expected a"):
        load_state(tmp_path)


def write(path: Path, text: str, folder: bool) -> None:
    with atomic_path(path) as aside:
        if folder:
            aside.mkdir()
            (aside / "one").write_text(text)
            (aside / "two").write_text(text)
        else:
            aside.write_text(text)


def read(path: Path) -> set[str]:
    return {file.read_text() for file in path.iterdir()} if path.is_dir() else {path.read_text()}


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("exchange", [False, True])
def test_the_new_content_takes_the_place_of_the_old(
    folder: bool, exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:  # as where the system cannot exchange two names
        monkeypatch.setattr(storage.sys, "platform", "elsewhere")
    path = tmp_path / "deeper" / "thing"
    for text in ("old", "new", "newer"):
        write(path, text, folder)
        assert read(path) == {text}
        assert names(path.parent) == ["thing"]


@pytest.mark.parametrize("folder", [False, True])
def test_an_exception_inside_leaves_the_old_content(folder: bool, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    write(path, "old", folder)
    with pytest.raises(TypeError, match="data must be str"):
        write(path, 3, folder)  # type: ignore[arg-type]  # fails with the file or folder made
    assert read(path) == {"old"}
    assert names(tmp_path) == ["thing"]


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "thing", "old", folder=True)
    with pytest.raises(OSError, match="thing"):
        write(tmp_path / "thing", "new", folder=False)
    assert read(tmp_path / "thing") == {"old"}
    assert names(tmp_path) == ["thing"]


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.test_storage import write
for k in range(10**6):
    for name in ("file", "folder"):
        write(Path({there!r}) / name, str(k) * 50000, name == "folder")
    if k == 2:
        print("ready", flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_old_or_new_and_never_a_part(tmp_path: Path) -> None:
    code = WRITER.format(tests=str(Path(__file__).parents[1]), there=str(tmp_path))
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        for pause in range(12):  # stopped here and there, looked at, let go on; then killed
            time.sleep(0.003 * pause)
            writer.send_signal(signal.SIGKILL if pause == 11 else signal.SIGSTOP)
            time.sleep(0.005)
            for name in ("file", "folder"):
                (content,) = read(tmp_path / name)  # both files of the folder are of one time
                first = content[: len(content) // 50000]
                assert content == first * 50000
            writer.send_signal(signal.SIGCONT)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()  # type: ignore[union-attr]


def test_nothing_of_ours_pickles() -> None:
    root = Path(dps_pyro.__file__).parent
    files = [*root.rglob("*.py"), *Path(dps_pyro.models.__file__).parent.rglob("*.py")]
    files += Path(dps_pyro.trainers.__file__).parent.rglob("*.py")
    assert len(files) > 12
    for file in files:
        if file.name in ("refit.py", "refit_worker.py", "laws.py"):  # bytes of our own in memory and pipes, no file
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [name.name for name in node.names] + [getattr(node, "module", "") or ""]
                assert not {name.split(".")[0] for name in names} & {
                    "pickle",
                    "dill",
                    "joblib",
                    "cloudpickle",
                    "shelve",
                }
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                assert node.attr not in ("load", "save"), file


def test_json_is_strict() -> None:
    value = {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": {"c": math.nan, "d": True}, "e": None, "f": "NaN"}
    expected = {"a": [1.5, None, [None, None]], "b": {"c": None, "d": True}, "e": None, "f": "NaN"}
    assert json.loads(strict_json(value), parse_constant=pytest.fail) == expected
