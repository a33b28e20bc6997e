"""Two processes that start at the same moment in one run folder."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.torture.runs import barrier, begin, command, differences, finish, make_config, text_of

__all__ = ["start_pairs"]


def start_pairs(folder: Path, pairs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Start pairs of processes: half of them in a new folder, half in one with a run to resume. One has to run and the
    other to be refused, and the folder has to come out as if there had been one.

    Returns:
        The number of pairs, how each ended, and what was wrong.
    """
    folder.mkdir(parents=True)
    config = make_config(folder / "config.yaml", steps=2, checkpoint_every=1)
    straight, half = folder / "straight", folder / "half"
    if finish(begin(command(straight, config), folder / "straight.log")) != 0:
        raise RuntimeError(f"the run of one process failed: {text_of(folder / 'straight.log')[-500:]}")
    process = begin(command(half, config), folder / "half.log")
    while not (half / "checkpoints/step-000001").exists():
        time.sleep(0.005)
    process.kill()
    process.join()
    ended, wrong = Counter[str](), []
    for number in range(pairs):
        run, logs = folder / "run", [folder / "one.log", folder / "two.log"]
        if number % 2:
            shutil.copytree(half, run)
        gate = barrier(2)
        processes = [begin(command(run, config), log, gate) for log in logs]
        statuses = [finish(process) for process in processes]
        said = [text_of(log) for log in logs]
        refused = [status == 2 and "is in use: process " in text for status, text in zip(statuses, said, strict=True)]
        ended[f"{statuses.count(0)} ran, {sum(refused)} refused"] += 1
        apart = differences(run, straight)
        if apart or statuses.count(0) != 1 or sum(refused) != 1:
            wrong.append({"pair": number, "statuses": statuses, "said": [text[-200:] for text in said], "apart": apart})
            say(f"pair {number}: {wrong[-1]}")
        shutil.rmtree(run)
        for log in logs:
            log.unlink()
    return {"pairs": pairs, "ended": dict(ended), "wrong": wrong}
