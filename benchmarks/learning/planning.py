r"""What a policy learns where choosing prompts can pay, by selector: the comparisons of plans/.

    python -m benchmarks.learning.planning --workers 2      # planning.yaml, into benchmarks/results/planning.json
    python -m benchmarks.learning.planning --plan benchmarks/learning/plans/visits.yaml \
        --runs runs/visits --out benchmarks/results/visits.json

It runs `dps-pyro bench`, so that it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from dps_pyro.cli import main as dps_pyro
from dps_pyro.storage import atomic_path

HERE = Path(__file__).parent
OUT = HERE.parent / "results" / "planning.json"


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
