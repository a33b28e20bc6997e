"""The benchmark for a GPU, in small on the CPU: its runs, its numbers, and the time that it plans with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import gpu, gpu_runs
from benchmarks.gpu_runs import EVALUATIONS, Pace, pace_of, steps_within
from dps_pyro.trainers.config.settings import TrainConfig

SMALL: dict[str, Any] = {
    "task_args": {"levels": ["1+1", "2+1", "1*1"], "train_size": 48, "test_size": 9},
    "batch_size": 4,
    "group_size": 4,
    "max_new_tokens": 6,
    "learning_rate": 1e-4,
    "eval_samples": 2,
}


def _command(folder: Path, *more: str) -> list[str]:
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    places = ("--settings", folder / "small.yaml", "--runs", folder / "runs", "--out", folder / "gpu.json")
    return ["--model", "math", "--seeds", "0", *map(str, places), *more]


@pytest.mark.slow  # two processes
@pytest.mark.timeout(1800)
def test_all_arms_run_in_small_and_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.main(_command(tmp_path, "--steps", "2", "--engine", "transformers", "--together", "2"))
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert set(result["runs"]) == set(result["rows"]) == set(gpu.ARMS)
    assert set(result["savings"]) == set(gpu.ARMS) - {"uniform"} and result["together"] == 2
    for arm, row in result["rows"].items():
        run = result["runs"][arm]["0"]
        assert row["rollouts"]["values"] == [2 * 4 * 4]
        assert run["curve"]["steps"] == [0, 1, 2] and run["curve"]["rollouts"] == [0, 16, 32]
        assert all(0 <= row[name]["mean"] <= 1 for name in ("before", "average", "final", "useful", "selection"))
        assert 32 <= run["tokens"] <= 6 * 32
        assert row["tokens_per_second"]["mean"] > 0 and row["memory"]["process_mib"] > 0
        assert {"select", "observe", "rollout", "update"} <= run["seconds"].keys()
        share = (run["seconds"]["select"] + run["seconds"]["observe"]) / sum(run["seconds"].values())
        assert share == pytest.approx(row["selection"]["mean"])
        assert sum(run["seconds"].values()) < run["wall"]
    assert result["engine"] == "transformers" and result["model"] == "math"
    assert result["configuration"]["steps"] == 2 and "acquisition" not in result["configuration"]
    assert str(tmp_path) not in (tmp_path / "gpu.json").read_text(encoding="utf-8")
    assert not any(path.is_dir() for path in (tmp_path / "runs").iterdir()), "weights are not kept"

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a run that has ended is not run again")

    monkeypatch.setattr(gpu_runs.subprocess, "Popen", refused)
    (tmp_path / "gpu.json").unlink()
    gpu.main(_command(tmp_path))  # the steps are those that were fixed
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["runs"] == result["runs"]
    with pytest.raises(SystemExit, match="these settings and steps"):
        gpu.main(_command(tmp_path, "--steps", "3"))
    with pytest.raises(SystemExit, match="these settings and steps"):
        gpu.main(_command(tmp_path, "--engine", "vllm"))


def _lines(seconds: list[float]) -> list[dict[str, float]]:
    shares = {"seconds/rollout": 0.5, "seconds/reward": 0.1, "seconds/update": 0.4}
    return [
        {name: share * step for name, share in shares.items()} | {"rollouts": 32 * (number + 1)}
        for number, step in enumerate(seconds)
    ]


def test_the_pace_leaves_the_warm_up_to_the_start() -> None:
    pace = pace_of(30.0, _lines([5.0, 2.0, 2.0, 2.0]), completions=64)
    assert pace == pytest.approx(Pace(start=30 - 11 + 3, step=2.0, evaluation=0.6 * 2.0 * 64 / 32))


@pytest.mark.parametrize("pace", [Pace(20.0, 0.5, 1.0), Pace(3.0, 2.0, 0.1), Pace(30.0, 6.0, 2.0)])
@pytest.mark.parametrize("runs", [2, 6])
def test_the_steps_fill_the_time_and_do_not_exceed_it(pace: Pace, runs: int) -> None:
    steps = steps_within(480.0, runs, pace)

    def takes(number: int) -> float:
        return runs * (pace.start + number * pace.step + (min(EVALUATIONS, number) - 1) * pace.evaluation)

    assert 0 < takes(steps) <= 480
    assert steps < EVALUATIONS or steps % EVALUATIONS == 0
    assert takes(steps + EVALUATIONS) > gpu_runs.MARGIN * 480


def test_there_may_be_no_time_for_a_step() -> None:
    assert steps_within(60.0, 6, Pace(20.0, 0.5, 0.0)) == 0


def test_the_steps_are_fixed_by_one_run_that_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, int]] = []

    def timed(name: str, settings: dict[str, Any], runs: Path) -> dict[str, Any]:
        asked.append((name, settings["seed"], settings["steps"]))
        if name != "probe":
            raise SystemExit("stopped")
        assert runs == tmp_path / "runs"
        found = {"wall": 60.0, "pace": {"start": 20.0, "step": 0.5, "evaluation": 0.0}}
        return found | {"curve": {"accuracy": [0.0, 0.0]}}

    monkeypatch.setattr(gpu, "run", timed)
    for _ in range(2):  # a second time the steps are known, and stay whatever is asked
        with pytest.raises(SystemExit, match="stopped"):
            gpu.main(_command(tmp_path, "--minutes", "8"))
    steps = steps_within(420.0, len(gpu.ARMS), Pace(20.0, 0.5, 0.0))
    assert asked == [("probe", gpu.PROBE_SEED, gpu.PROBE_STEPS), ("predicted-0", 0, steps), ("predicted-0", 0, steps)]


def test_runs_that_share_a_gpu_are_timed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, int] = {}
    slower = {"probe": 0.5, "probe-1": 0.75}

    def timed(name: str, settings: dict[str, Any], _: Path) -> dict[str, Any]:
        if name not in slower:
            raise SystemExit("stopped")
        asked[name] = settings["seed"]
        found = {"wall": 60.0, "pace": {"start": 20.0, "step": slower[name], "evaluation": 0.0}}
        return found | {"curve": {"accuracy": [0.0, 0.0]}}

    monkeypatch.setattr(gpu, "run", timed)
    with pytest.raises(SystemExit, match="stopped"):
        gpu.main(_command(tmp_path, "--minutes", "8", "--together", "2"))
    assert asked == {"probe": gpu.PROBE_SEED, "probe-1": gpu.PROBE_SEED + 1}, "none of them has a reported seed"
    plan = json.loads((tmp_path / "runs" / "plan.json").read_text(encoding="utf-8"))
    assert plan["steps"] == steps_within(420.0, len(gpu.ARMS) // 2, Pace(20.0, 0.75, 0.0))
    with pytest.raises(SystemExit):
        gpu.main(_command(tmp_path, "--together", "0"))


def test_every_arm_draws_as_many_rollouts() -> None:
    for arm in gpu.ARMS:
        config = TrainConfig.flat(**gpu.arm_of(arm, gpu.SETTINGS)).rollouts
        assert config.batch_size * config.group_size == gpu.SETTINGS["batch_size"] * gpu.SETTINGS["group_size"]


def test_too_little_time_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"wall": 60.0, "pace": {"start": 20.0, "step": 0.5, "evaluation": 0.0}, "curve": {"accuracy": [0.0, 0.0]}}
    monkeypatch.setattr(gpu, "run", lambda *_: found)
    with pytest.raises(SystemExit, match="--minutes"):
        gpu.main(_command(tmp_path, "--minutes", "1.2"))


def test_a_gpu_gets_vllm_if_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def stopped(_: str, settings: dict[str, Any], __: Path) -> dict[str, Any]:
        asked.append(settings)
        raise SystemExit("stopped")

    monkeypatch.setattr(gpu, "run", stopped)
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    for number, (there, graphs) in enumerate([(True, ()), (True, ("--graphs",)), (False, ())]):
        monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _, there=there: object() if there else None)
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(SystemExit, match="stopped"):
            gpu.main(_command(folder, "--steps", "8", *graphs))
    assert [settings["engine"] for settings in asked] == ["vllm", "vllm", "transformers"]
    assert [settings["vllm_args"]["enforce_eager"] for settings in asked[:2]] == [True, False]
    assert "vllm_args" not in asked[2]
    for settings in asked:
        config = TrainConfig.flat(**settings)
        assert config.selection == TrainConfig().selection, "the predicted arm is what the trainer does by default"
        assert config.machine.precision == "auto", "bfloat16 on a GPU"


def test_the_memory_is_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.cuda.is_available() or gpu_runs.taken_mib() is None
    told = tmp_path / "nvidia-smi"
    told.write_text('#!/bin/sh\n[ "$2" = 3 ] && echo 4321\n', encoding="utf-8")
    told.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(gpu_runs.torch.cuda, "is_available", lambda: True)
    assert gpu_runs.taken_mib() == 4321
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    assert gpu_runs.taken_mib() is None


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["stub", "real"])
def test_a_run_that_fails_says_why(real: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not real:  # a process that fails at once, where the real one imports for seconds what it fails with
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\necho 'model: expected a folder, got none' >&2\nexit 1\n", encoding="utf-8")
        python.chmod(0o755)
        monkeypatch.setattr(gpu_runs.sys, "executable", str(python))
    settings = {"out": "never made", "steps": 1, "model": str(tmp_path / "none"), "task": "countdown"}
    with pytest.raises(SystemExit, match=r"a run failed:[\s\S]*model: expected"):
        gpu_runs.run("one", settings, tmp_path)
    assert not (tmp_path / "one.json").exists()
