"""One run's curve, and all runs of a comparison in processes of their own."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from dps_pyro.history.log import RolloutHistory
from dps_pyro.storage import atomic_path, parse_json, strict_json
from dps_pyro.trainers.bench.plan import Job
from dps_pyro.trainers.config.config_file import save_config
from dps_pyro.trainers.config.settings import TrainConfig

__all__ = ["Curve", "curve_of", "known", "run_all"]


class Curve(NamedTuple):
    """What a run came to at each of its evaluations, the first of them before any step, and at each of its steps."""

    steps: list[int]
    rollouts: list[int]
    generated: list[float]  # tokens of all completions until then
    accuracy: list[float]  # held out
    useful: list[float]  # of each step, the share of its groups that were useful
    predicted: list[float]  # of each step, the mean predicted chance of that
    visited: list[float]  # of each step, the share of the prompts that were rolled out at least once by then
    trained: int  # groups that the update learned from, all steps together
    selection: float  # the share of the seconds that went into selecting and observing


def curve_of(folder: Path) -> Curve:
    """The curve of a finished run, from its metrics.

    Raises:
        ValueError: there is no run, or it has no steps.
    """
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    try:
        lines = [parse_json(line) for line in text.splitlines()]
        kinds = {line["kind"] for line in lines}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: expected the metrics of a run, got {error}; dps-pyro train --resume --out {folder} writes them "
            "again"
        ) from error
    if not {"train", "eval"} <= kinds:
        raise ValueError(f"{folder}: expected a run with steps and evaluations, got none")
    train = [line for line in lines if line["kind"] == "train"]
    evals = [line for line in lines if line["kind"] == "eval"]
    totals = [line["rollouts"] for line in train]
    spent = [now - before for before, now in itertools.pairwise([0, *totals])]
    tokens = [0.0, *itertools.accumulate(line["length"] * number for line, number in zip(train, spent, strict=True))]
    seconds = [sum(value for name, value in line.items() if name.startswith("seconds/")) for line in train]
    chosen = sum(line["selection_share"] * time for line, time in zip(train, seconds, strict=True))
    return Curve(
        [line["step"] for line in evals],
        [line["rollouts"] for line in evals],
        [tokens[line["step"]] for line in evals],
        [line["accuracy"] for line in evals],
        [line["useful"] for line in train],
        [line["useful_predicted"] for line in train],
        [line["visited"] for line in train],
        int(RolloutHistory.from_parquet(folder / "history.parquet").events.trained.sum()),
        chosen / max(sum(seconds), 1e-9),
    )


def known(job: Job, kept: Path) -> Curve | None:
    """The curve of a run that has ended before; None if it has not.

    Raises:
        ValueError: its file is damaged; the message names it and the way out.
    """
    path = kept / f"{job.slug}.json"
    if not path.is_file():
        return None
    try:
        return Curve(**parse_json(path.read_text(encoding="utf-8"))["curve"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: expected the curve of a run, got {error}; remove the file, and the run is made again"
        ) from error


def run_all(
    jobs: Sequence[Job], kept: Path, workers: int, told: Callable[[Job, Curve], None], *, keep_runs: bool = False
) -> list[Curve]:
    """The curve of every job; runs that have ended before are not run again, those that were interrupted go on.

    Args:
        jobs: the runs.
        kept: the folder of their curves, each written as its run ends.
        workers: runs at a time, each a process of its own.
        told: called as a run ends.
        keep_runs: keep the run folders, too, below `kept`.

    Raises:
        RuntimeError: a run failed; its error was printed. The others that were begun have ended.
    """
    kept.mkdir(parents=True, exist_ok=True)
    found = {job.slug: curve for job in jobs if (curve := known(job, kept)) is not None}
    with ThreadPoolExecutor(workers) as pool:
        missing = [job for job in jobs if job.slug not in found]
        waiting = {pool.submit(_run, job, kept, keep_runs): job for job in missing}
        try:
            for done in as_completed(waiting):
                found[waiting[done].slug] = done.result()
                told(waiting[done], found[waiting[done].slug])
        except BaseException:
            for one in waiting:
                one.cancel()
            raise
    return [found[job.slug] for job in jobs]


def _run(job: Job, kept: Path, keep_runs: bool) -> Curve:
    folder = kept / "runs" / job.slug
    folder.parent.mkdir(parents=True, exist_ok=True)
    settings = folder.parent / f"{job.slug}.yaml"
    config = TrainConfig.flat(**job.settings, seed=job.seed, out=folder)
    settings.write_text(save_config(config), encoding="utf-8")
    command = [sys.executable, "-m", "dps_pyro.cli", "train", "--config", str(settings), "--resume"]
    threads = str(config.machine.threads or 1)
    done = subprocess.run(  # noqa: S603 - this interpreter and files of ours, no shell
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{job.testbed}, {job.arm}, seed {job.seed}: the run failed:\n{done.stderr[-4000:]}")
    curve = curve_of(folder)
    whole: dict[str, Any] = {**job._asdict(), "curve": curve._asdict()}
    with atomic_path(kept / f"{job.slug}.json") as aside:
        aside.write_text(strict_json(whole) + "\n", encoding="utf-8")
    if not keep_runs:
        shutil.rmtree(folder)
        settings.unlink()
    return curve
