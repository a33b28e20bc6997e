"""The runs of `benchmarks.gpu`: each in a process of its own, timed, watched, and kept as it ends."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import results
from dps_pyro.trainers.bench.curves import curve_of
from dps_pyro.trainers.config.settings import TrainConfig

__all__ = ["EVALUATIONS", "Pace", "numbers", "one_run", "pace_of", "run", "steps_within", "taken_mib"]

ROOT = Path(__file__).parents[1]
EVALUATIONS = 8
"""Evaluations of a run after the first one, which comes before any step."""
MARGIN = 0.9
"""The part of the remaining time that is planned."""
WATCH = 2.0
"""Seconds between two looks at the memory that the GPU says is taken."""


class Pace(NamedTuple):
    """What the timed run took, in seconds."""

    start: float
    """A run without its steps: to start, to evaluate before and after, to save."""
    step: float
    """One step after the first."""
    evaluation: float
    """One evaluation, as rollouts of a step take their time."""


def pace_of(wall: float, lines: Sequence[Mapping[str, Any]], completions: int) -> Pace:
    """What a run takes, by the timed one.

    Args:
        wall: Its seconds in all.
        lines: The metrics of its steps, at least two. The first step warms up, and counts as part of the start.
        completions: The number of completions of one evaluation.
    """
    seconds = [sum(value for name, value in line.items() if name.startswith("seconds/")) for line in lines]
    step = statistics.median(seconds[1:])
    drawing = statistics.median(line["seconds/rollout"] + line["seconds/reward"] for line in lines[1:])
    rollouts = lines[-1]["rollouts"] / len(lines)
    return Pace(wall - sum(seconds) + max(seconds[0] - step, 0.0), step, drawing * completions / rollouts)


def steps_within(seconds: float, runs: int, pace: Pace) -> int:
    """How many steps each of `runs` runs can take so that all of them end within `seconds`: a multiple of
    `EVALUATIONS`, if there are as many. 0 if there is no time for a step."""
    each = MARGIN * seconds / runs - pace.start - (EVALUATIONS - 1) * pace.evaluation
    steps = max(int(each / pace.step), 0)
    return steps // EVALUATIONS * EVALUATIONS if steps > EVALUATIONS else steps


def run(name: str, settings: dict[str, Any], runs: Path) -> dict[str, Any]:
    """One run's numbers, from its file if it has ended before. A run that was stopped starts again.

    Args:
        name: The name of the run, which is a file name.
        settings: Settings of `dps-pyro train` by their short names.
        runs: The folder where the numbers are kept.

    Raises:
        SystemExit: The run failed. The message has the end of what it said.
    """
    kept, folder = runs / f"{name}.json", runs / name
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    file = runs / f"{name}.settings.json"
    # Only the last step is saved: a checkpoint of a run of a minute costs more than it can save.
    results.write(file, settings | {"out": str(folder), "checkpoint_every": settings["steps"]})
    log = runs / f"{name}.log"
    wall, taken = _watched([sys.executable, "-m", "benchmarks.gpu", "--one", str(file)], log)
    found = numbers(folder, wall) | {"taken_mib": taken}
    results.write(kept, found)
    shutil.rmtree(folder)
    file.unlink()
    log.unlink()
    return found


def one_run(file: Path) -> None:
    """Train with the settings in a file, in this process, and write what it knows of the device beside the metrics."""
    from dps_pyro.trainers.grpo import train

    settings = json.loads(file.read_text(encoding="utf-8"))
    train(TrainConfig.flat(**settings))
    found: dict[str, Any] = {"name": "CPU", "process_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if torch.cuda.is_available():
        found |= {
            "name": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "bfloat16": torch.cuda.is_bf16_supported(),
            "allocated_mib": torch.cuda.max_memory_allocated() // 2**20,
            "reserved_mib": torch.cuda.max_memory_reserved() // 2**20,
        }
    results.write(Path(settings["out"]) / "device.json", found)


def numbers(folder: Path, wall: float) -> dict[str, Any]:
    """What a finished run says: its curve, its speed and its memory.

    Args:
        folder: The run folder, with the `device.json` of `one_run`.
        wall: The seconds that the process took.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    train, evals = ([line for line in lines if line["kind"] == kind] for kind in ("train", "eval"))
    totals = [0, *(line["rollouts"] for line in train)]
    tokens = [
        line["length"] * (now - before) for line, (before, now) in zip(train, itertools.pairwise(totals), strict=True)
    ]
    steady = slice(1, None) if len(train) > 1 else slice(None)  # the first step warms up
    drawing = sum(line["seconds/rollout"] for line in train[steady])
    parts = [name for name in train[-1] if name.startswith("seconds/")]
    return {
        "curve": curve_of(folder)._asdict(),
        "wall": wall,
        "seconds": {name.partition("/")[2]: sum(line.get(name, 0.0) for line in train) for name in parts},
        "tokens": sum(tokens),
        "tokens_per_second": sum(tokens[steady]) / drawing,
        "pace": None if len(train) < 2 else pace_of(wall, train, evals[0]["prompts"] * evals[0]["samples"])._asdict(),
        "device": json.loads((folder / "device.json").read_text(encoding="utf-8")),
    }


def _watched(command: list[str], log: Path) -> tuple[float, int | None]:
    """Run a command: its wall-clock seconds, and the most MiB that the GPU said were taken meanwhile, by anyone."""
    most, start = taken_mib(), time.perf_counter()
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env={**os.environ, "PYTHONPATH": path}
        )
        try:
            while True:
                try:
                    status = process.wait(WATCH)
                    break
                except subprocess.TimeoutExpired:
                    most = max((found for found in (most, taken_mib()) if found is not None), default=None)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if status != 0:
        raise SystemExit(f"a run failed:\n{log.read_text(encoding='utf-8')[-4000:]}")
    return time.perf_counter() - start, most


def taken_mib() -> int | None:
    """The memory of the GPU that is in use, in MiB, as nvidia-smi sees it. None if there is no such command."""
    if not torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return None
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0] or "0"
    command = ["nvidia-smi", "-i", which, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    found = subprocess.run(command, check=False, capture_output=True, text=True).stdout.split()
    return int(found[0]) if found and found[0].isdecimal() else None
