"""What a policy learns where choosing prompts can pay, by selector: the comparison of plans/planning.yaml.

    python -m benchmarks.learning.planning --workers 2      # writes benchmarks/results/planning.json

It runs `dps-pyro bench`, so that it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from dps_pyro.cli import main as dps_pyro
from dps_pyro.storage import atomic_path
from dps_pyro.trainers.bench.curves import Curve
from dps_pyro.trainers.bench.measures import average

HERE = Path(__file__).parent
OUT = HERE.parent / "results" / "planning.json"


ROOM = 0.03
"""A testbed is admitted if dynamic sampling is ahead of uniform selection by at least this, at equal steps."""


def admission(result: dict[str, Any]) -> str:
    """A Markdown table: how far dynamic sampling is ahead of uniform selection at equal steps, and whether choosing
    prompts can therefore pay there."""
    lines = ["| testbed | seeds | uniform | dynamic sampling | difference | room |", "|---|---|---|---|---|---|"]
    for testbed, arms in result["curves"].items():
        seeds = sorted(arms["uniform"].keys() & arms["dynamic sampling"].keys(), key=int)
        over = {
            arm: np.array([np.mean(arms[arm][seed]["accuracy"][1:]) for seed in seeds])
            for arm in ("uniform", "dynamic sampling")
        }
        ahead = over["dynamic sampling"] - over["uniform"]
        error = ahead.std(ddof=1) / len(seeds) ** 0.5 if len(seeds) > 1 else float("nan")
        lines.append(
            f"| {testbed} | {', '.join(seeds)} | {over['uniform'].mean():.3f} | {over['dynamic sampling'].mean():.3f} "
            f"| {ahead.mean():+.3f} ± {error:.3f} | {'yes' if ahead.mean() >= ROOM else 'no'} |"
        )
    return "\n".join(
        [*lines, "", "Mean held-out accuracy of all evaluations after the first; difference ± standard error."]
    )


OURS = "Siblings, soft"


def ahead(result: dict[str, Any]) -> str:
    """A Markdown table: how far `OURS` is ahead of the other arms with as many rollouts, seed by seed."""
    lines = [f"| {OURS}, less | accuracy over the run | seeds ahead |", "|---|---|---|"]
    for arms in result["curves"].values():
        runs = {arm: {seed: Curve(**run) for seed, run in of.items()} for arm, of in arms.items()}
        until = min(run.rollouts[-1] for run in runs[OURS].values())
        over = {arm: {seed: average(run, until) for seed, run in of.items()} for arm, of in runs.items()}
        for arm, theirs in over.items():
            alike = arms[arm].keys() == arms[OURS].keys() and runs[arm][min(theirs)].rollouts[-1] == until
            if arm != OURS and alike:
                less = np.array([over[OURS][seed] - theirs[seed] for seed in theirs])
                error = less.std(ddof=1) / len(less) ** 0.5 if len(less) > 1 else float("nan")
                lines.append(f"| {arm} | {less.mean():+.3f} ± {error:.3f} | {(less > 0).sum()} of {len(less)} |")
    return "\n".join([*lines, "", "Mean held-out accuracy over equal rollouts; difference ± standard error."])


def main() -> None:
    """Run what is missing, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=HERE / "plans" / "planning.yaml", help="what runs")
    parser.add_argument("--runs", type=Path, default=Path("runs/planning"), help="the folder of the curves")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--table", action="store_true", help="run nothing: keep what has ended")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args()
    command = ["bench", str(options.plan), "--out", str(options.runs), "--workers", str(options.workers)]
    if status := dps_pyro([*command, *(["--table"] if options.table else [])]):
        raise SystemExit(status)
    with atomic_path(options.out) as aside:
        shutil.copyfile(options.runs / "results.json", aside)
    print(options.out)


if __name__ == "__main__":
    main()
