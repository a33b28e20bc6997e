"""Which selector learns best? Real training runs of the embedded policy, over seeds, side by side.

    python -m benchmarks.learning.selectors --out benchmarks/results/selectors.json

Every arm shares policy, prompts, group size, optimizer, number of steps and seeds; only the choice of prompts differs.
Dynamic sampling spends more rollouts a step, and is the ceiling. Runs go in processes of one thread each; each run's
curve is written as it ends, so that a killed benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results

ARMS: dict[str, dict[str, Any]] = {
    "uniform": {"acquisition": "uniform"},
    "PaperDPS, top (the paper)": {"dynamics": "PaperDPS", "acquisition": "top"},
    "SolvingProgress, top": {"dynamics": "SolvingProgress", "acquisition": "top"},
    "SolvingProgress, soft": {"dynamics": "SolvingProgress", "acquisition": "soft"},
    "SolvingProgress, thompson": {"dynamics": "SolvingProgress", "acquisition": "thompson"},
    "SolvingProgress, entropy": {"dynamics": "SolvingProgress", "acquisition": "entropy"},
    "LogitWalk, top": {"dynamics": "LogitWalk", "acquisition": "top"},
    "LogitWalk, soft": {"dynamics": "LogitWalk", "acquisition": "soft"},
    "LogitWalk, thompson": {"dynamics": "LogitWalk", "acquisition": "thompson"},
    "LogitWalk, soft, refit every 25": {"dynamics": "LogitWalk", "acquisition": "soft", "refit_every": 25},
    "BetaBernoulli, target (MoPPS)": {
        "dynamics": "BetaBernoulli",
        "dynamics_args": {"decay": 0.5},
        "acquisition": "target",
    },
    "Siblings, soft (the default)": {
        "dynamics": "Siblings",
        "acquisition": "soft",
        "worth": "variance",
        "sharpness": 2,
    },
    "dynamic sampling (up to 4 batches)": {"acquisition": "uniform", "dynamic_sampling": 4},
}

SHARPNESS: dict[str, dict[str, Any]] = {
    f"LogitWalk, soft, sharpness {sharpness}": {"dynamics": "LogitWalk", "acquisition": "soft", "sharpness": sharpness}
    for sharpness in (4, 8)
}
"""How sharp: asked on other seeds than the comparison's. `--arms sharpness` runs these."""


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="names as in ARMS, or sharpness")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/selectors"), help="where single curves are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/selectors.json"))
    options = parser.parse_args()
    options.arms = list(SHARPNESS) if options.arms == ["sharpness"] else options.arms

    jobs = [(arm, seed) for seed in options.seeds for arm in options.arms]
    with ThreadPoolExecutor(options.workers) as pool:
        curves = list(pool.map(lambda job: _curve(job[0], job[1], options), jobs))
    result = {
        "what": "held-out accuracy of the embedded Countdown policy, by selector",
        "date": results.today(),
        "machine": results.machine(),
        "configuration": {"steps": options.steps, "learning_rate": options.learning_rate, "prompts": 1024,
                          "batch_size": 32, "group_size": 8, "loss": "grpo"},
        "seeds": options.seeds,
        "arms": {arm: _summary([curve for job, curve in zip(jobs, curves, strict=True) if job[0] == arm])
                 for arm in options.arms},
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results.write(options.out, result)
    columns = ("final", "average", "useful", "visited", "rollouts")
    print(f"{'arm':36s}" + "".join(f"{column:>18s}" for column in columns))
    for arm, row in result["arms"].items():
        shown = (f"{row[column]['mean']:.4g} ± {row[column]['sd']:.2g}" for column in columns)
        print(f"{arm:36s}" + "".join(f"{text:>18s}" for text in shown))


def _curve(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run's curve; from its file where it has been run before."""
    slug = "".join(letter if letter.isalnum() else "-" for letter in arm)
    kept = options.runs / f"{slug}-{options.steps}-{options.learning_rate:g}-{seed}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    options.runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="selectors-"))
    settings = {
        "out": str(folder / "run"), "seed": seed, "steps": options.steps, "learning_rate": options.learning_rate,
        "eval_every": 25, "eval_samples": 8, "checkpoint_every": options.steps, "report": False, "threads": 1,
    }  # fmt: skip
    (folder / "config.yaml").write_text(
        json.dumps(settings | results.SELECTION | (ARMS | SHARPNESS)[arm]), encoding="utf-8"
    )  # JSON is YAML
    command = [sys.executable, "-m", "dps_pyro.cli", "train", "--config", str(folder / "config.yaml")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evals = [line for line in lines if line["kind"] == "eval"]
    train = [line for line in lines if line["kind"] == "train"]
    curve = {
        "steps": [line["step"] for line in evals],
        "rollouts": [line["rollouts"] for line in evals],
        "accuracy": [line["accuracy"] for line in evals],
        "useful": [round(line["useful"], 4) for line in train],
        "visited": train[-1]["visited"],
    }
    shutil.copy(folder / "run/history.parquet", kept.with_suffix(".parquet"))
    kept.write_text(json.dumps(curve), encoding="utf-8")
    shutil.rmtree(folder)
    print(f"{arm}, seed {seed}: {curve['accuracy'][0]:.3f} -> {curve['accuracy'][-1]:.3f}", flush=True)
    return curve


def _summary(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds; "average" is the mean accuracy over the run's evaluations."""

    def spread(values: list[float]) -> dict[str, Any]:
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return {
            "mean": round(float(np.mean(values)), 4),
            "sd": round(deviation, 4),
            "values": [round(v, 4) for v in values],
        }

    return {
        "final": spread([curve["accuracy"][-1] for curve in curves]),
        "average": spread([float(np.mean(curve["accuracy"][1:])) for curve in curves]),
        "useful": spread([float(np.mean(curve["useful"])) for curve in curves]),
        "visited": spread([curve["visited"] for curve in curves]),
        "rollouts": spread([float(curve["rollouts"][-1]) for curve in curves]),
        "steps": curves[0]["steps"],
        "accuracy": [[round(value, 4) for value in curve["accuracy"]] for curve in curves],
        "rollouts_by_step": [curve["rollouts"] for curve in curves],
    }  # fmt: skip


if __name__ == "__main__":
    main()
