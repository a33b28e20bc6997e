"""Folders that go with their process: those of living ones stay, those of killed ones are removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dps_pyro.rollouts import scratch
from dps_pyro.rollouts.scratch import remove, remove_stale, scratch_folder

HOLD = """
import pathlib, sys
from dps_pyro.rollouts.scratch import scratch_folder
folder = scratch_folder("vllm", pathlib.Path(sys.argv[1]))
(folder / "weights").write_bytes(b"0" * 100)
print(folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the system's folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "memory", lambda: None)
    return tmp_path


@pytest.fixture
def other(here: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process, and its folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(here)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_folder_is_its_owners_alone(here: Path) -> None:
    one, two = scratch_folder("vllm"), scratch_folder("vllm")
    assert one != two
    assert one.parent == here
    assert one.name.startswith("dps-pyro-vllm-")
    assert one.stat().st_mode & 0o077 == 0


def test_folders_of_living_processes_stay(other: tuple[subprocess.Popen[str], Path]) -> None:
    mine = scratch_folder("vllm")
    assert remove_stale() == []
    assert mine.exists()
    assert (other[1] / "weights").exists()


def test_what_a_killed_process_left_is_removed(other: tuple[subprocess.Popen[str], Path]) -> None:
    process, left = other
    mine = scratch_folder("weights")
    process.send_signal(signal.SIGKILL)
    # It is a zombie until somebody asks for its exit status, and holds nothing any more.
    while b") Z" not in Path(f"/proc/{process.pid}/stat").read_bytes():
        pass
    assert remove_stale() == [left]
    assert not left.exists()
    assert mine.exists()


def test_a_folder_that_is_removed_leaves_nothing_open() -> None:
    """Each new set of weights gets one."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        folder = scratch_folder("weights")
        (folder / "model.safetensors").touch()
        remove(folder)
        assert not folder.exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_forked_child_does_not_keep_a_folder(here: Path) -> None:
    reader, writer = os.pipe()
    maker = os.fork()
    if maker == 0:
        scratch_folder("vllm")
        if os.fork() == 0:  # its child, which outlives it
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os._exit(0)
    os.waitpid(maker, 0)
    assert len(remove_stale()) == 1
    os.close(writer)


@pytest.mark.parametrize("name", ["dps-pyro-vllm-abcdefgh", "dps-pyro-notes"])
def test_what_may_be_anybodys_stays(here: Path, name: str) -> None:
    """A folder that is about to get its lock, and somebody else's with files in it; an old one that is empty goes."""
    (here / name).mkdir()
    assert remove_stale() == []
    os.utime(here / name, (0, 0))
    (here / name / "file").touch()
    os.utime(here / name, (0, 0))
    assert remove_stale() == []
    (here / name / "file").unlink()
    os.utime(here / name, (0, 0))
    assert remove_stale() == [here / name]


def test_a_link_to_somewhere_else_stays(here: Path) -> None:
    (here / "kept").mkdir()
    (here / "kept" / ".lock").touch()
    (here / "dps-pyro-vllm-x").symlink_to(here / "kept")
    assert remove_stale() == []
