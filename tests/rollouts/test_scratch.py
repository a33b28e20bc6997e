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
from dps_pyro.rollouts.scratch import remove_stale, scratch_folder

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
    assert f"-{os.getpid()}-" in one.name
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
    for _ in range(2):  # a zombie first, whose entry in /proc is still there; then gone
        left.mkdir(exist_ok=True)
        while (state := Path(f"/proc/{process.pid}/stat")).exists() and b") Z" not in state.read_bytes():
            pass
        assert remove_stale() == [left]
        assert not left.exists()
        process.wait()
    assert mine.exists()


def test_a_process_with_the_same_id_is_another_one() -> None:
    """Ids are used again; the time that the process started at is not."""
    mine = scratch_folder("vllm")
    head, machine, pid, start, tail = mine.name.rsplit("-", 4)
    earlier = mine.with_name("-".join([head, machine, pid, str(int(start) - 1), tail]))
    mine.rename(earlier)
    assert remove_stale() == [earlier]


@pytest.mark.parametrize("name", ["dps-pyro-vllm-00000000-999999999-1-x", "dps-pyro-vllm-abcdefgh", "dps-pyro-notes"])
def test_what_may_be_anybodys_stays(here: Path, name: str) -> None:
    """Of another machine, where that id may well be alive; of an earlier version; of somebody else."""
    (here / name).mkdir()
    assert remove_stale() == []
    assert (here / name).exists()
