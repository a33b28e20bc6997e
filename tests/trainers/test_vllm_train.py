"""Training with vLLM from end to end, on the CPU: in step, one step off, and when its processes are killed."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.runs.processes import until
from helpers.runs.tiny import killed, metrics, tiny

from dps_pyro.rollouts import EngineError, scratch
from dps_pyro.rollouts.vllm import VllmEngine
from dps_pyro.trainers.config.config_file import save_config
from dps_pyro.trainers.grpo import train

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

VLLM: dict[str, Any] = {"engine": "vllm", "kv_cache_gib": 0.1, "vllm_args": {"max_num_seqs": 32}, "batch_size": 8}
APART: dict[str, Any] = {**VLLM, "vllm_args": {"max_num_seqs": 32, "distributed_executor_backend": "mp"}}
"""vLLM's worker in a process of its own."""


@pytest.mark.parametrize("ahead", [False, True])
def test_a_run_with_vllm_stays_in_step(tmp_path: Path, ahead: bool) -> None:
    train(tiny(tmp_path / "run", steps=4, async_rollouts=ahead, checkpoint_every=2, **VLLM))
    lines = [line for line in metrics(tmp_path / "run", timings=True) if line["kind"] == "train"]
    drift = [line["engine_kl"] for line in lines if line["engine_kl"] is not None]
    assert len(drift) > 1
    if ahead:
        assert [line["policy_version"] for line in lines] == [0, 0, 1, 2]
        assert 1e-7 < max(drift) < 1  # one update behind
    else:
        assert max(drift) < 1e-6
    assert any(line["reward"] > 0 for line in lines)
    # A resumed run starts the engine with the checkpoint's policy.
    train(tiny(tmp_path / "run", steps=5, resume=True, async_rollouts=ahead, **VLLM))
    last = metrics(tmp_path / "run")[-2]
    assert last["step"] == 4
    if not ahead and last["engine_kl"] is not None:
        assert last["engine_kl"] < 1e-6


def children(of: int) -> list[int]:
    """The processes of `of`'s session, itself left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != of:
            try:
                if os.getsid(int(entry.name)) == of and "Z" not in (entry / "stat").read_text().split()[2]:
                    found.append(int(entry.name))
            except (ProcessLookupError, FileNotFoundError, PermissionError):
                continue
    return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long run, vLLM's worker in a process of its own, in its fourth step or so."""
    config = tiny(tmp_path / "run", steps=10_000, checkpoint_every=2, eval_every=0, **APART)
    (tmp_path / "run.yaml").write_text(save_config(config), encoding="utf-8")
    command = [sys.executable, "-m", "dps_pyro.cli", "train", "--config", str(tmp_path / "run.yaml")]
    with subprocess.Popen(
        command, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            until(
                lambda: (tmp_path / "run" / "checkpoints" / "step-000002").exists() or process.poll() is not None, 200
            )
            assert process.poll() is None, process.communicate()[1][-2000:]
            yield process
        finally:
            for left in [process.pid, *children(process.pid)]:
                try:
                    os.kill(left, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def worker(of: int) -> int:
    names = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/comm").read_bytes() for pid in children(of)
    }
    (found,) = [pid for pid, name in names.items() if b"Worker" in name]
    return found


@pytest.mark.slow
def test_an_engine_that_dies_stops_the_run_and_names_the_checkpoint(run: subprocess.Popen[str]) -> None:
    os.kill(worker(run.pid), signal.SIGKILL)
    error = run.communicate(timeout=120)[1]
    assert run.returncode == 1, error[-3000:]
    assert "dps-pyro train: vLLM failed while" in error
    assert "The last checkpoint is of step" in error
    until(lambda: not children(run.pid), 30)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_leaves_no_process(run: subprocess.Popen[str], kind: signal.Signals, tmp_path: Path) -> None:
    assert children(run.pid)
    os.kill(run.pid, kind)
    run.communicate(timeout=60)
    until(lambda: not children(run.pid), 60)


def left_behind() -> set[Path]:
    """Folders of engines, in memory and on disk."""
    return {
        found
        for parent in (scratch.memory(), Path(tempfile.gettempdir()))
        for found in (parent or Path()).glob("dps-pyro-*")
    }


@pytest.mark.slow
def test_what_a_run_killed_in_a_sync_leaves_is_removed_when_it_goes_on(tmp_path: Path) -> None:
    before = {folder for folder in left_behind() if scratch.is_stale(folder)}
    # The worker has taken the new weights; the files that they came in are about to be removed.
    killed(tiny(tmp_path / "run", steps=3, checkpoint_every=1, **APART), "shutil.rmtree", "dps-pyro-weights-", count=3)
    left = {folder for folder in left_behind() - before if scratch.is_stale(folder)}
    assert {folder.name.split("-")[2] for folder in left} >= {"weights", "vllm"}
    assert any(list(folder.glob("*.safetensors")) for folder in left)
    train(tiny(tmp_path / "run", steps=3, checkpoint_every=1, resume=True, **VLLM))
    assert not left & left_behind()
    assert [line["step"] for line in metrics(tmp_path / "run") if line["kind"] == "train"] == [0, 1, 2]


def test_prompts_longer_than_the_engine_takes_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model was made for 64 tokens; one of 10 leaves no room for 24 more in 33."""
    train(tiny(tmp_path / "run", max_model_len=33, **{**VLLM, "batch_size": 2}))
    out = " ".join(capsys.readouterr().out.split())
    assert "of 32 train prompts are longer than 9 tokens, and are left out" in out


def test_an_error_after_the_engine_has_started_closes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    close = VllmEngine.close
    monkeypatch.setattr(VllmEngine, "close", lambda self: closed.append(self) or close(self))
    with pytest.raises(ValueError, match="batch_size: expected at most 4"):
        train(tiny(tmp_path / "run", **{**VLLM, "task_args": {"train_size": 4, "test_size": 8}}))
    (engine,) = closed
    with pytest.raises(EngineError, match="it was closed"):
        engine.sync(None)


def test_an_engine_that_does_not_start_leaves_no_process(tmp_path: Path) -> None:
    """Its worker has started when there turns out to be no room for keys and values."""
    with pytest.raises(EngineError, match=r"vLLM did not start: .*memory"):
        train(tiny(tmp_path / "run", **{**APART, "kv_cache_gib": 1e-6}))
    assert multiprocessing.active_children() == []
    assert [folder for folder in left_behind() if f"-{os.getpid()}-" in folder.name and "-vllm-" in folder.name] == []
