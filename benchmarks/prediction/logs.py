"""Full logs of real training runs: every prompt rolled out at every step, whatever the run was trained on.

    python -m benchmarks.prediction.logs

Records the logs that `benchmarks.prediction.replay` compares models and selectors on, into
benchmarks/logs/. Each is a run of the embedded policy on 512 Countdown prompts of its own for 120 steps, under a mix of
difficulties and a selector of its
own. Two of them are for developing models; what is reported is measured on the others. A killed recording goes on
where it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import results
from dps_pyro import RolloutHistory

MIXES: dict[str, dict[int, float]] = {
    "default": {2: 0.20, 3: 0.20, 4: 0.10, 5: 0.15, 6: 0.35},
    "easy": {2: 0.45, 3: 0.30, 4: 0.25},
    "hard": {3: 0.25, 4: 0.25, 5: 0.25, 6: 0.25},
    "middle": {2: 0.20, 3: 0.30, 4: 0.30, 5: 0.20},
}
LOGS: dict[str, dict[str, Any]] = {
    "develop-default": {"mix": "default", "seed": 100, "acquisition": "soft"},
    "develop-middle": {"mix": "middle", "seed": 101, "acquisition": "uniform"},
    "report-default": {"mix": "default", "seed": 0, "acquisition": "uniform"},
    "report-easy": {"mix": "easy", "seed": 1, "acquisition": "soft"},
    "report-hard": {"mix": "hard", "seed": 2, "acquisition": "soft"},
    "report-middle": {"mix": "middle", "seed": 3, "acquisition": "uniform"},
}
FOLDER = Path(__file__).parents[1] / "logs"


def main() -> None:
    """Record what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", nargs="+", choices=list(LOGS), default=list(LOGS))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/logs"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(lambda name: _record(name, options), options.logs))


def shown(log: RolloutHistory, batch_size: int, seed: int) -> RolloutHistory:
    """What a run that chooses at random would have left of a full log: so many groups a step."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(log.num_steps, log.num_prompts, dtype=torch.bool)
    for step in chosen:
        step[torch.randperm(log.num_prompts, generator=generator)[:batch_size]] = True
    return log.where(chosen[log.events.step, log.events.prompt])


def joined(logs: Sequence[RolloutHistory]) -> RolloutHistory:
    """Several logs as one of all their prompts, side by side. The policies' progress is averaged, as a step has one."""
    features = {name: [value for log in logs for value in log.features[name]] for name in logs[0].features}
    both = RolloutHistory(sum(log.num_prompts for log in logs), features=features)  # type: ignore[arg-type]
    progress = [log.progress() for log in logs]
    for step in range(max(log.num_steps for log in logs)):
        known = [float(one[step]) for one in progress if step < len(one)]
        first = 0
        for log in logs:
            events = log.events
            now = events.step == step
            both.append(
                events.prompt[now] + first, step=step, solved=events.solved[now], trials=events.trials[now],
                trained=events.trained[now], progress=statistics.fmean(known),
            )  # fmt: skip
            first += log.num_prompts
    return both


def _record(name: str, options: argparse.Namespace) -> None:
    kept = options.out / f"{name}.parquet"
    if kept.exists():
        return
    about, run = LOGS[name], options.runs / name
    settings = {
        "out": str(run), "seed": about["seed"], "steps": options.steps, "full_log": True, "report": False, "threads": 1,
        "acquisition": about["acquisition"], "eval_every": 10, "eval_samples": 4, "rollout_batch": 1024,
        "task_args": {"operands": MIXES[about["mix"]], "train_size": options.prompts, "seed": 1000 + about["seed"]},
        **results.SELECTION,
    }  # fmt: skip
    options.runs.mkdir(parents=True, exist_ok=True)
    config = options.runs / f"{name}.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    resume = ["--resume"] if (run / "config.yaml").exists() else []
    command = [sys.executable, "-m", "dps_pyro.cli", "train", "--config", str(config), *resume]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "full_log.parquet", kept)
    print(f"{kept}: recorded", flush=True)


if __name__ == "__main__":
    main()
