"""What one sampler step costs, from a thousand prompts to ten million: fresh, after 1,000 and after 10,000 steps.

    OMP_NUM_THREADS=1 python -m benchmarks.cost.sampler --out benchmarks/results/sampler.json

A step is `select` and `observe` of one batch. Times are processor time of this process on one thread, which other
processes on the machine change less than the clock's; medians and means over the last steps before each mark, and the
longest. Beside them stand a copy of a belief tensor of all prompts (the same bytes, read and written once), and the
published sampler's way, a Python loop over prompts, timed at a few thousand and scaled up. Memory is what the process
holds more than before the sampler was made, the model with its labels included. Success rates differ between prompts:
two fifths are hopeless, a fifth is solved, and the others are spread evenly.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import results
from dps_pyro import Dynamics, PromptSampler
from dps_pyro.models import LogitWalk, PaperDPS, Siblings, SolvingProgress

MODELS: dict[str, Callable[[int], Dynamics[Any] | Siblings]] = {
    "SolvingProgress": lambda _: SolvingProgress(),
    "LogitWalk": lambda _: LogitWalk(),
    "LogitWalk, 4 groups": lambda number: LogitWalk((torch.arange(number) % 4).tolist()),
    "Siblings, 16 groups": lambda number: Siblings((torch.arange(number) % 16).tolist()),
    "PaperDPS": lambda _: PaperDPS(),
}
PUBLISHED = {"prompts": 10_000_000, "seconds": 2.4, "gibibytes": 0.9, "source": "arXiv 2603.10887"}
TARGET_MS = 10.0
"""What a step of SolvingProgress may take at a million prompts."""
LAST = 100
"""Steps before a mark that its numbers are of."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[10**k for k in range(3, 8)])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--acquisitions", nargs="+", default=["soft", "thompson"])
    parser.add_argument("--marks", type=int, nargs="+", default=[20, 1_000, 10_000], help="steps to report after")
    parser.add_argument("--batch-size", type=int, default=512, help="prompts a step; at most an eighth of all")
    parser.add_argument(
        "--dense-most", type=int, default=1_000_000, help="the most prompts for a model that stays dense"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to; rows in it already are kept")
    options = parser.parse_args()

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if options.out is not None and options.out.exists():
        rows = json.loads(options.out.read_text(encoding="utf-8")).get("rows", [])
    print(HEADER)
    for size in options.prompts:
        for name in options.models:
            if name == "PaperDPS" and size > options.dense_most:
                continue
            for acquisition in options.acquisitions:
                made = measure(name, size, acquisition, options)
                rows = [row for row in rows if _key(row) not in {_key(new) for new in made}] + made
                for row in made:
                    print(_line(row), flush=True)
                if options.out is not None:
                    _write(rows, options)


HEADER = "   prompts model                acquisition  steps    median      mean       max     copy   visited    MiB"


def _line(row: dict[str, Any]) -> str:
    times = f"{row['median_ms']:>6.2f} ms {row['mean_ms']:>6.2f} ms {row['max_ms']:>6.1f} ms {row['copy_ms']:>5.1f} ms"
    return (
        f"{row['prompts']:>10,} {row['model']:<20} {row['acquisition']:<11} {row['steps']:>6,} {times} "
        f"{row['visited']:>9,} {row['mebibytes']:>6.0f}"
    )


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["prompts"], row["model"], row["acquisition"], row["steps"]


def measure(name: str, number: int, acquisition: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each mark."""
    before = _resident()
    sampler = PromptSampler(MODELS[name](number), number, acquisition=acquisition, seed=options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    batch = min(options.batch_size, number // 8)
    copy = _copy(number, len(sampler.tracker.mass()))
    times: list[float] = []
    found = []
    for step in range(max(options.marks)):
        start = time.process_time()
        rows = sampler.select(batch)
        selected = time.process_time()
        solved = torch.binomial(torch.full([batch], 8.0), _rates(rows), generator=generator)
        rolled_out = time.process_time()
        sampler.observe(rows, solved, 8)
        times.append(1e3 * (time.process_time() - rolled_out + selected - start))
        if step + 1 in options.marks:
            last = times[-min(LAST, max(1, step - 9)) :]
            metrics = sampler.metrics()
            found.append(
                {
                    "prompts": number,
                    "model": name,
                    "acquisition": acquisition,
                    "steps": step + 1,
                    "batch": batch,
                    "pooled": sampler.pooled,
                    "median_ms": round(statistics.median(last), 3),
                    "mean_ms": round(statistics.mean(last), 3),
                    "max_ms": round(max(last), 3),
                    "copy_ms": copy,
                    "visited": round(metrics["visited"] * number),
                    "useful": round(metrics["useful/so_far"], 4),
                    "mebibytes": round((_resident() - before) / 2**20, 1),
                    "peak_mebibytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
                }
            )
    return found


def _rates(rows: Tensor) -> Tensor:
    """Success rates that a row's number decides."""
    place = rows.double() * 0.6180339887498949 % 1
    return ((place - 0.4) / 0.4).clamp(0.0005, 0.9995).float()


def _copy(number: int, states: int) -> float:
    """Milliseconds to copy the beliefs of all prompts; of ten million they are copied in parts of one million."""
    part = torch.rand(min(number, 1_000_000), states)
    target = torch.empty_like(part)
    took = []
    for _ in range(7):
        start = time.process_time()
        target.copy_(part)
        took.append(time.process_time() - start)
    return round(1e3 * statistics.median(took) * number / len(part), 3)


def published_loop(number: int = 3000) -> float:
    """Microseconds a prompt of the published sampler's way: for each prompt, one after the other, counts that forget,
    the expected matrix and the prediction (arXiv 2603.10887 and its code's loop, written anew)."""
    counts = [np.ones((3, 3)) for _ in range(number)]
    beliefs = [np.full(3, 1 / 3) for _ in range(number)]
    start = time.process_time()
    for prompt in range(number):
        counts[prompt] = 0.7 * counts[prompt] + 0.3 * np.ones((3, 3))
        matrix = counts[prompt] / counts[prompt].sum(axis=0, keepdims=True)
        belief = matrix @ beliefs[prompt]
        beliefs[prompt] = belief / belief.sum()
    return 1e6 * (time.process_time() - start) / number


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()


def _write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    result = {
        "what": "one sampler step (select and observe of one batch), milliseconds of processor time on one thread",
        "date": results.today(),
        "machine": results.machine(),
        "seed": options.seed,
        "published": {**PUBLISHED, "loop_us_a_prompt": round(published_loop(), 2)},
        "rows": sorted(rows, key=_key),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results.write(options.out, result)


if __name__ == "__main__":
    main()
