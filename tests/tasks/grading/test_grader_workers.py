"""The grader's worker processes: killed when they are stuck, replaced when they die, and gone with their parent."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from helpers.problems.grading import BOMB, REASONS, TOWER, children
from helpers.runs.processes import gone

from dps_pyro.tasks.base import Reward
from dps_pyro.tasks.grading import grader_pool
from dps_pyro.tasks.grading.grader import Grader
from dps_pyro.tasks.grading.grader_pool import Query, Reply


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    grader = Grader(seconds=1.0, workers=2)
    yield grader
    grader.close()


HOSTILE = [
    TOWER,
    BOMB,
    r"\boxed{1000000!}",
    r"\boxed{10^{10^{10}}!}",
    r"\boxed{" + "{" * 400 + "}" * 400 + "}",
    r"\boxed{" + "(" * 300 + "2" + ")" * 300 + "}",
    r"\boxed{" + r"\sqrt{" * 100 + "2" + "}" * 100 + "}",
    r"\boxed{" + r"\frac{1}{" * 90 + "0" + "}" * 90 + "}",
    r"\boxed{\sum_{k=1}^{10000000} \frac{1}{k}}",
    r"\boxed{\frac{1}{0}}",
    r"\boxed{" + "9" * 900 + "^" + "9" * 50 + "}",
    r"\boxed{\int_0^1 x^{x^{x^x}} dx}",
    "\\boxed{\0\x01\ud800}",
    '\\boxed{"], ["2", "2", true]}\n',
    r"\boxed{__import__('os').system('true')}",
    "\\frac{" * 200_000,
    "\\boxed{" * 150_000,
    "{" * 1_000_000,
    "\\left(" * 180_000,
    "x" * 1_000_000,
]


def test_hostile_answers_end_in_time_and_leave_nothing_behind() -> None:
    before = children()
    grader = Grader(seconds=0.5, workers=2)
    grader.grade("2", r"\boxed{\sqrt{4}}")  # started, so that only grading is timed
    for completion in HOSTILE:
        start = time.monotonic()
        reward = grader.grade("2", completion)
        taken = time.monotonic() - start
        assert reward.value == 0.0
        assert reward.reason in REASONS
        # Processor time is what is limited: on a busy machine the wall-clock limit, 3 s here, is what holds.
        assert taken < grader.pool.patience + 30, completion[:40]
    assert grader.grade("2", r"\boxed{\sqrt{4}}") == Reward(1.0, "correct")
    grader.close()
    assert children() <= before


def test_memory_is_limited() -> None:
    grader = Grader(seconds=20.0, workers=1, memory=600 << 20)
    reward = grader.grade("2", r"\boxed{\operatorname{gcd}(2^{4000000000}, 3)}")
    assert reward.value == 0.0
    assert reward.reason in REASONS
    for pid in grader.pool.pids:
        peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmPeak"))
        assert int(peak.split()[1]) <= 600 << 10
    grader.close()


def test_a_worker_that_dies_is_replaced(grader: Grader) -> None:
    grader.grade("3", r"\boxed{\sqrt{9}}")
    for pid in grader.pool.pids:
        os.kill(pid, signal.SIGKILL)
    assert grader.grade("5", r"\boxed{\sqrt{25}}") == Reward(1.0, "correct")


def test_a_stuck_worker_is_killed() -> None:
    """One that neither answers nor uses the processor."""
    grader = Grader(seconds=0.2, workers=1)
    grader.grade("3", r"\boxed{\sqrt{9}}")
    (pid,) = grader.pool.pids
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(0.5, os.kill, (pid, signal.SIGCONT))  # the alarm that has come by then ends it
    timer.start()
    reward = grader.grade("5", r"\boxed{\sqrt{26}}")
    timer.join()
    assert reward.reason in ("not compared, timed out", "wrong value")
    grader.close()
    assert gone(pid, 60)


def test_threads_share_a_grader(grader: Grader) -> None:
    """math-verify's own time limits work in the main thread only."""
    rewards: list[list[Reward]] = []

    def grade(n: int) -> None:
        rewards.append(grader.grade_all([str(n)] * 2, [f"\\boxed{{\\sqrt{{{n * n}}}}}", "no"]))

    threads = [threading.Thread(target=grade, args=(n,)) for n in range(31, 35)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reward.value for pair in rewards for reward in pair] == [1.0, 0.0] * 4


def _graded(grader: Grader, results: multiprocessing.SimpleQueue[tuple[float, list[int]]]) -> None:
    results.put((grader.grade("7", r"\boxed{\sqrt{49}}").value, grader.pool.pids))
    grader.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_workers_of_its_own(grader: Grader) -> None:
    grader.grade("3", r"\boxed{\sqrt{9}}")
    ours = set(grader.pool.pids)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=_graded, args=(grader, results))
    process.start()
    value, theirs = results.get()
    process.join(30)
    assert value == 1.0
    assert theirs and not ours & set(theirs)
    assert set(grader.pool.pids) == ours
    assert grader.grade("3", r"\boxed{\sqrt{9} + 1}").reason == "wrong value"


ORPHAN = r"""
import json, sys, threading
from dps_pyro.tasks.grading.grader import Grader
grader = Grader(seconds=1.0, workers=1)
grader.grade("3", r"\boxed{\sqrt{9}}")
print(json.dumps(grader.pool.pids), flush=True)
if sys.argv[1] == "busy":
    grader.grade("3", r"\boxed{\int_{0}^{1} \sin(x^2)\cos(x^{3})\ln(1+x) dx}")
sys.stdin.read()
"""


@pytest.mark.parametrize("at", ["idle", "busy"])
def test_workers_end_with_a_parent_that_is_killed(at: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, at], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    (worker,) = json.loads(parent.stdout.readline())
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert parent.stdin is not None
    parent.stdin.close()
    assert gone(worker, 60)


def test_workers_end_with_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, "idle"], input="", capture_output=True, text=True, check=True, timeout=120
    )
    (worker,) = json.loads(done.stdout)
    assert done.stderr == ""
    assert gone(worker, 60)


def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "latex2sympy2_extended.py").write_text("raise ImportError('math-verify is not here')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    grader = Grader(workers=1)
    with pytest.raises(RuntimeError, match=r"(?s)expected the grader's worker to start .*math-verify is not here"):
        grader.grade("2", r"\boxed{\sqrt{4}}")
    assert grader.pool.pids == []


def _megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def test_what_is_seen_at_sight_or_was_seen_before_starts_no_computer_algebra(grader: Grader) -> None:
    fresh = Grader(workers=1)
    golds = [str(n) for n in range(256)]
    assert all(reward.value for reward in fresh.grade_all(golds, [f"\\boxed{{{gold}}}" for gold in golds]))
    assert not any(reward.value for reward in fresh.grade_all(golds, [f"\\boxed{{{gold}1}}" for gold in golds]))
    assert [_megabytes(pid) < 40 for pid in fresh.pool.pids] == [True]
    fresh.close()
    grader.grade("11", r"\boxed{\sqrt{121}}")
    start = time.process_time()
    for _ in range(256):
        grader.grade("11", r"\boxed{\sqrt{121}}")
    assert time.process_time() - start < 0.5


def test_a_batch_of_bombs_costs_its_budget_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    grader = Grader(seconds=0.5, batch_seconds=1.0, workers=2)
    grader.grade("2", r"\boxed{\sqrt{4}}")
    bombs = [BOMB.replace("x^{3}", f"x^{{{3 + place}}}") for place in range(12)]
    asked = [0.0]
    run = grader.pool.run

    def counted(queries: Sequence[Query], seconds: float | None = None) -> list[Reply]:
        replies = run(queries, seconds)
        asked[0] += sum(reply.seconds for reply in replies)
        return replies

    monkeypatch.setattr(grader.pool, "run", counted)
    rewards = grader.grade_all(["2"] * 13, [*bombs, r"\boxed{\sqrt{4}}"])
    grader.close()
    assert asked[0] < 12 * 0.2 + 2 * 1.0 + 0.5  # where a limit for each would be 6
    assert {reward.reason for reward in rewards[:-1]} == {"not compared, timed out"}
    assert rewards[-1].reason == "correct"


def test_time_outs_are_never_kept() -> None:
    grader = Grader(seconds=0.3, workers=1)
    assert grader.grade("2", BOMB).reason == "not compared, timed out"
    assert not grader._kept
    assert grader.grade("2", r"\boxed{\sqrt{4}}").reason == "correct"
    assert list(grader._kept.values()) == ["equal"]
    grader.close()


def test_a_worker_that_stands_still_is_replaced() -> None:
    """One that is stopped for good: it neither answers nor uses the processor."""
    grader = Grader(seconds=0.2, workers=1)
    grader.grade("3", r"\boxed{\sqrt{9}}")
    (pid,) = grader.pool.pids
    os.kill(pid, signal.SIGSTOP)
    assert grader.grade("5", r"\boxed{5}").reason == "correct"
    assert pid not in grader.pool.pids
    grader.close()


def test_a_worker_that_is_killed_before_it_is_ready_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine does that is out of memory for a moment; one that is never well is an error."""
    started: list[int] = []
    deaths = 2
    begin = grader_pool._Worker.__init__

    def doomed(worker: grader_pool._Worker, memory: int) -> None:
        begin(worker, memory)
        started.append(worker.pid)
        if len(started) <= deaths:
            worker.kill()

    monkeypatch.setattr(grader_pool._Worker, "__init__", doomed)
    grader = Grader(workers=1)
    assert grader.grade("5", r"\boxed{5}").reason == "correct"
    assert len(started) == 3
    grader.close()
    deaths = 100
    with pytest.raises(RuntimeError, match="expected the grader's worker to start"):
        grader.grade("5", r"\boxed{5}")
    assert grader.pool.pids == []
