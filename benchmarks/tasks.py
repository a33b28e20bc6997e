"""Does each embedded policy learn its task: held-out accuracy before and after a default run, over seeds.

python -m benchmarks.tasks                     # three runs of 100 steps a task, into results/tasks.json
python -m benchmarks.tasks --tasks math --seeds 3 4
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

from dps_pyro.storage import atomic_path
from dps_pyro.trainers.config import TrainConfig
from dps_pyro.trainers.grpo import train

RESULT = Path(__file__).parent / "results" / "tasks.json"
KEPT = ("accuracy_before", "accuracy_after", "useful_share", "rollouts", "steps", "seconds")


def run(task: str, seed: int, steps: int) -> dict[str, Any]:
    """One run with the defaults, without report, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            out=Path(folder) / "run", task=task, seed=seed, steps=steps, eval_every=0, report=False, threads=1
        )
        summary = train(config)
    return {"seed": seed} | {name: summary[name] for name in KEPT}


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, and keep every run as it ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["countdown", "math", "blocks"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args(argv)
    found: dict[str, Any] = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {"runs": {}}
    for seed in arguments.seeds:
        for task in arguments.tasks:
            done = found["runs"].setdefault(task, [])
            if any(line["seed"] == seed and line["steps"] == arguments.steps for line in done):
                continue
            done.append(run(task, seed, arguments.steps))
            found |= {
                "command": "python -m benchmarks.tasks",
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "machine": f"{platform.machine()}, 2 cores shared with other work",
                "torch": torch.__version__,
            }
            with atomic_path(arguments.out) as aside:
                aside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
