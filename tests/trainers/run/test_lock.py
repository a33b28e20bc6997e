"""A run folder is held by one process: others are refused by name, and a killed process leaves nothing to clean up."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dps_pyro.trainers.run.lock import LOCK, OWNER, claimed

HOLD = """
import pathlib, sys
from dps_pyro.trainers.run.lock import claimed
try:
    with claimed(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except ValueError as error:
    print(error, flush=True)
"""


@contextmanager
def holding(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that takes the folder, and what it says."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


def test_a_second_process_is_refused_with_the_first_one_s_id_and_a_kill_frees_the_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with holding(run) as (first, said):
        assert said == "held"
        with pytest.raises(ValueError, match="is in use") as caught, claimed(run, resume=True):
            pass
        message = str(caught.value)
        assert f"process {first.pid} on {socket.gethostname()} is training there, since 20" in message
        assert "give another --out" in message
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (run / OWNER).exists()  # what it left
    with claimed(run):
        assert json.loads((run / OWNER).read_text())["pid"] == os.getpid()
        with holding(run) as (_, said):
            assert f"process {os.getpid()} on" in said
    assert {entry.name for entry in run.iterdir()} == {LOCK}


def test_one_process_does_not_train_twice_in_a_folder(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()} on"), claimed(tmp_path):
        pass
    (tmp_path / "config.yaml").touch()
    for _ in range(2):  # one after the other
        with claimed(tmp_path):
            pass
    assert {entry.name for entry in tmp_path.iterdir()} == {"config.yaml", LOCK}


def test_an_owner_that_cannot_be_read_is_another_process(tmp_path: Path) -> None:
    with claimed(tmp_path):
        for text in ("", "[1]", '{"pid": "x", "host": 3, "since": 4}', '{"pid": 1}'):
            (tmp_path / OWNER).write_text(text)
            with pytest.raises(ValueError, match="is in use"), claimed(tmp_path):
                pass


def test_a_forked_child_does_not_keep_the_folder(tmp_path: Path) -> None:
    """A run's children (engines, graders) may outlive it for a moment."""
    reader, writer = os.pipe()
    with claimed(tmp_path / "run"):
        (tmp_path / "run" / "config.yaml").touch()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)  # until the parent lets go
            os._exit(0)
    with claimed(tmp_path / "run"):
        pass
    os.close(writer)
    os.waitpid(child, 0)
