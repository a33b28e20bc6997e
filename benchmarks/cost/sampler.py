"""What one sampler step costs: select 256 prompts, observe their groups, predict all.

    python -m benchmarks.cost.sampler --out benchmarks/results/sampler.json

On one thread, the median of many repetitions, beside a copy of the belief tensor made in the same run (its bytes read
and written once): the ratio travels from machine to machine, the milliseconds do not. Target: under 150 ms at a million
prompts for SolvingProgress.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.inference.rows import machine
from dps_pyro import Dynamics, PromptSampler
from dps_pyro.models import PaperDPS, SolvingProgress

MODELS: dict[str, Callable[[], Dynamics[Any]]] = {"SolvingProgress": SolvingProgress, "PaperDPS": PaperDPS}
PARTS = ("select", "observe")
TARGET_MS = 150.0
"""What a step of SolvingProgress may take at a million prompts."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--acquisition", default="thompson")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args()

    torch.set_num_threads(1)
    rows = [_measure(name, size, options) for size in options.prompts for name in options.models]
    print(f"{'prompts':>10} {'model':<16} {'select':>9} {'observe':>9} {'step':>9} {'copy':>9} {'ratio':>7}")
    for row in rows:
        times = " ".join(f"{row[part]:>6.2f} ms" for part in (*PARTS, "step", "copy"))
        print(f"{row['prompts']:>10,} {row['model']:<16} {times} {row['ratio']:>7.1f}")
    if options.out is not None:
        result = {
            "what": "one sampler step, medians in milliseconds on one thread; ratio: step / copy of the beliefs",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "configuration": {name: value for name, value in vars(options).items() if name not in ("out", "seed")},
            "seed": options.seed,
            "rows": rows,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"Written to {options.out}.")
    slow = [row for row in rows if row["model"] == "SolvingProgress" and row["step"] > TARGET_MS]
    if slow:
        raise SystemExit(f"expected a step under {TARGET_MS:.0f} ms, got {slow[0]['step']:.0f} ms")


def _measure(model: str, num_prompts: int, options: argparse.Namespace) -> dict[str, Any]:
    sampler = PromptSampler(MODELS[model](), num_prompts, acquisition=options.acquisition, seed=options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    belief, target = sampler.belief.clone(), torch.empty_like(sampler.belief)
    times: dict[str, list[float]] = {name: [] for name in (*PARTS, "step", "copy")}
    for repetition in range(-3, options.repetitions):  # the first three warm up
        start = time.perf_counter()
        rows = sampler.select(options.batch_size)
        selected = time.perf_counter()
        solved = torch.randint(0, 9, (options.batch_size,), generator=generator)
        rolled_out = time.perf_counter()
        sampler.observe(rows, solved, 8)
        observed = time.perf_counter()
        target.copy_(belief)
        copied = time.perf_counter()
        if repetition >= 0:
            step = selected - start + observed - rolled_out
            for name, seconds in zip(
                times, (selected - start, observed - rolled_out, step, copied - observed), strict=True
            ):
                times[name].append(1e3 * seconds)
    medians = {name: round(statistics.median(values), 4) for name, values in times.items()}
    ratio = round(statistics.median(times["step"]) / statistics.median(times["copy"]), 2)
    return {"model": model, "prompts": num_prompts, **medians, "ratio": ratio}


if __name__ == "__main__":
    main()
