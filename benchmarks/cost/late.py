"""A storm of late groups, and saving and loading, at ten million prompts: what they cost, and that they are exact.

    OMP_NUM_THREADS=1 python -m benchmarks.cost.late --out benchmarks/results/late.json

Groups of random prompts are observed for many steps. A part of each step's groups is held back, and comes at the end,
in calls of 500 groups of one step. The beliefs are then compared with those of a sampler that saw everything in order.
Afterwards the state is saved and loaded, and both samplers select the same. Times are processor time on one thread.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.inference.rows import machine
from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress
from dps_pyro.storage import load_state, save_state


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--groups", type=int, default=105, help="groups a step")
    parser.add_argument("--late", type=int, default=50_000, help="groups that come late")
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args()

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    late, straight = (PromptSampler(SolvingProgress(), options.prompts, pooled=True) for _ in range(2))
    held: list[tuple[torch.Tensor, torch.Tensor, int]] = []
    storms = set(torch.randperm(options.steps - 1, generator=generator)[: options.late // 500].tolist())
    for step in range(options.steps):
        size = options.groups + (500 if step in storms else 0)
        rows = torch.randint(options.prompts, (size,), generator=generator).unique()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        solved = torch.randint(0, 9, (len(rows),), generator=generator)
        straight.observe(rows, solved, 8)
        away = min(500, len(rows)) if step in storms else 0
        late.observe(rows[away:], solved[away:], 8)
        if away:
            held.append((rows[:away], solved[:away], step))
    start = time.process_time()
    for rows, solved, step in held:
        late.observe(rows, solved, 8, step=step)
    storm = time.process_time() - start
    touched = torch.cat([rows for rows, _, _ in held])
    pair = [sampler.tracker.believed_of(touched) for sampler in (late, straight)]  # type: ignore[union-attr]
    result: dict[str, Any] = {
        "what": "a storm of late groups, and a saved and loaded state; seconds of processor time on one thread",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "configuration": {name: value for name, value in vars(options).items() if name != "out"},
        "late_groups": len(touched),
        "storm_seconds": round(storm, 2),
        "largest_difference": float((pair[0] - pair[1]).abs().max()),
        "visited": round(late.metrics()["visited"] * options.prompts),
    }
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        save_state(Path(folder), late.state_dict())
        saved = time.process_time()
        result["state_mebibytes"] = round(sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20, 1)
        again = PromptSampler(SolvingProgress(), options.prompts, pooled=True, seed=1)
        begun = time.process_time()
        again.load_state_dict(load_state(Path(folder)))
        result |= {"save_seconds": round(saved - start, 2), "load_seconds": round(time.process_time() - begun, 2)}
    same = all(torch.equal(late.select(512), again.select(512)) for _ in range(3))
    result["same_selections"] = same
    print(json.dumps(result, indent=1))
    if not same or result["largest_difference"] > 1e-5:
        raise SystemExit("expected the same selections and beliefs, got others")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
