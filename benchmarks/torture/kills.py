"""Kills at random moments, while a run works and while it resumes."""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.torture.runs import (
    CONFIGURATIONS,
    Doom,
    begin,
    command,
    differences,
    events_of,
    finish,
    make_config,
    text_of,
    warm_up,
)  # fmt: skip

__all__ = ["kill_runs"]

KINDS = ("once", "twice", "while resuming")


def kill_runs(folder: Path, names: Sequence[str], kills: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kill runs (SIGKILL) at random moments, resume them, and compare each with the run that nobody killed.

    Args:
        folder: an empty folder to work in.
        names: of `CONFIGURATIONS`.
        kills: per configuration, at least.
        seed: of the moments.

    Yields:
        A configuration's name and what was found: the kills, the runs of each kind, how far they had come when they
        were killed, and what differed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    warm_up(folder / "warm-up.log")
    for name in names:
        work = folder / name.replace(" ", "-")
        work.mkdir(parents=True)
        yield name, _configuration(work, name, kills, random.Random(f"{seed}/{name}"))
        shutil.rmtree(work)


def _configuration(work: Path, name: str, kills: int, chance: random.Random) -> dict[str, Any]:
    config = make_config(work / "config.yaml", **CONFIGURATIONS[name])
    straight = work / "straight"
    if finish(begin(command(straight, config), work / "straight.log")) != 0:
        raise RuntimeError(f"{name}: the run that nobody killed failed: {text_of(work / 'straight.log')[-500:]}")
    whole = events_of(work / "straight.log")
    done, runs, steps = 0, Counter[str](), Counter[str]()
    wrong: list[dict[str, Any]] = []
    while done < kills:
        kind, run, log = chance.choice(KINDS), work / "run", work / "run.log"
        latest = [0.95] if kind == "once" else [0.95, 0.95] if kind == "twice" else [0.95, 0.35]
        landed = 0
        for share in latest:
            landed += _killed(run, config, log, Doom(chance.randint(1, int(share * whole)), chance.uniform(0, 0.3)))
            steps[_reached(run)] += 1
        status = finish(begin(command(run, config), log))
        apart = [f"exit status {status}: {text_of(log)[-300:]}"] if status else differences(run, straight)
        done += landed
        runs[kind] += 1
        if apart:
            wrong.append({"kind": kind, "kills": landed, "apart": apart[:5]})
        shutil.rmtree(run)
        log.unlink()
        Path(f"{log}.events").unlink()
    return {"kills": done, "runs": dict(runs), "reached": dict(sorted(steps.items())), "wrong": wrong}


def _killed(run: Path, config: Path, log: Path, doom: Doom) -> int:
    """Start or resume the run, which is killed then; returns 1, or 0 where it ended before."""
    return int(finish(begin(command(run, config), log, doom=doom)) == -signal.SIGKILL)


def _reached(run: Path) -> str:
    """How far the run had come, by its newest checkpoint."""
    steps = sorted(entry.name for entry in (run / "checkpoints").glob("step-*"))
    if (run / "checksums.json").exists():
        return "the end"
    return steps[-1] if steps else "no checkpoint" if (run / "config.yaml").exists() else "nothing"
