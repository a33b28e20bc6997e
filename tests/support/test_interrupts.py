"""Ctrl-C and SIGTERM raise, and not where that would leave a thread waiting."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from dps_pyro.support.interrupts import Terminated, terminable, uninterrupted


@pytest.fixture(autouse=True)
def _as_in_the_foreground() -> Iterator[None]:
    """A shell starts what runs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_sigterm_raises_inside_and_is_what_it_was_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_an_interrupt_waits_for_the_end_of_the_block(number: signal.Signals, kind: type[BaseException]) -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append("block")
        done.append("after")

    with pytest.raises(kind), terminable():
        work()
    assert done == ["block"]
    with uninterrupted():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_go_on_as_they_would() -> None:
    done = []

    def work() -> None:
        with terminable(), uninterrupted():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


WAITS = """
import os, pathlib, signal, subprocess, threading, time
from dps_pyro.support.interrupts import Terminated, passed_on, terminable
ended = []
waiting = threading.Thread(target=lambda: ended.append(subprocess.run(["sleep", "600"]).returncode))
try:
    with terminable(), passed_on():
        waiting.start()
        threads = pathlib.Path("/proc/self/task")
        while not any((thread / "children").read_text() for thread in threads.iterdir()):  # it is not yet started
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
except Terminated:
    waiting.join()
    print(ended)
"""


def test_sigterm_is_passed_on_to_the_processes_that_are_waited_for() -> None:
    done = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.split() == ["[-15]"]  # and not after the ten minutes that it would have slept
