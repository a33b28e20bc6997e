"""`python -m benchmarks`: every measurement again, in order (hours), and the docs' tables from them.

`benchmarks.cost.trainer` and `benchmarks.learning.smollm2` are not among them: they need vLLM and a language model, and
say where to get these.
"""

from __future__ import annotations

import subprocess
import sys

COMMANDS = (
    ["benchmarks.cost.sampler", "--out", "benchmarks/results/sampler.json"],
    ["benchmarks.learning.selectors", "--out", "benchmarks/results/selectors.json"],
    [
        "benchmarks.learning.selectors",
        "--arms",
        "sharpness",
        "--seeds",
        "100",
        "101",
        "102",
        "--steps",
        "120",
        "--out",
        "benchmarks/results/sharpness.json",
    ],
    ["benchmarks.inference.sbc", "--out", "benchmarks/results/sbc.json"],
    ["benchmarks.inference.predictive", "--out", "benchmarks/results/predictive.json"],
    ["benchmarks.learning.trl", "--out", "benchmarks/results/trl.json"],
    ["benchmarks.learning.geometry", "--out", "benchmarks/results/geometry.json"],
    ["benchmarks.docs.evidence"],
)

for command in COMMANDS:
    print(f"python -m {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)
