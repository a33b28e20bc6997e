"""`python -m benchmarks`: every measurement again, in order (hours), and the docs' tables from them.

`benchmarks.trainer` and `benchmarks.smollm2` are apart: they need vLLM and a language model, and say where from.
"""

from __future__ import annotations

import subprocess
import sys

COMMANDS = (
    ["benchmarks.sampler", "--out", "benchmarks/results/sampler.json"],
    ["benchmarks.selectors", "--out", "benchmarks/results/selectors.json"],
    [
        "benchmarks.selectors",
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
    ["benchmarks.sbc", "--out", "benchmarks/results/sbc.json"],
    ["benchmarks.trl", "--out", "benchmarks/results/trl.json"],
    ["benchmarks.geometry", "--out", "benchmarks/results/geometry.json"],
    ["benchmarks.evidence"],
)

for command in COMMANDS:
    print(f"python -m {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)
