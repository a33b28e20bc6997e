"""Keep a demo's numbers for the README's picture.

dps-pyro demo --out runs/demo
python -m benchmarks.learning.demo runs/demo            # writes benchmarks/results/demo.json
python -m benchmarks.docs.evidence                  # draws docs/images/demo.png from it
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import results

OUT = Path(__file__).parents[1] / "results" / "demo.json"


def main() -> None:
    """Read both runs' metrics; write what the picture needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a demo: predicted/ and uniform/ are in it")
    options = parser.parse_args()
    result = {
        "what": "one run of `dps-pyro demo`: held-out accuracy and share of useful groups, by training rollouts",
        "date": results.today(),
        "machine": results.machine(),
        "seed": 0,
        "predicted": _curves(options.run / "predicted"),
        "uniform": _curves(options.run / "uniform"),
    }
    results.write(OUT, result)
    print(OUT)


def _curves(folder: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    held_out = [line for line in lines if line["kind"] == "eval"]
    return {
        "rollouts": [line["rollouts"] for line in train],
        "useful": [round(line["useful"], 4) for line in train],
        "held_out_rollouts": [line["rollouts"] for line in held_out],
        "accuracy": [round(line["accuracy"], 4) for line in held_out],
        "stderr": [round(line["stderr"], 4) for line in held_out],
    }


if __name__ == "__main__":
    main()
