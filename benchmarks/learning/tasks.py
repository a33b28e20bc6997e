"""Does each embedded policy learn its task: held-out accuracy before and after a default run, over seeds.

    python -m benchmarks.learning.tasks                     # five runs a task, into results/tasks.json
    python -m benchmarks.learning.tasks --tasks math --seeds 15 16

A run is `dps-pyro train --task ...` with `results.SELECTION` and otherwise the defaults, on one thread. Each is kept as
it ends, so that a killed benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import results

RESULT = Path(__file__).parents[1] / "results" / "tasks.json"
KEPT = ("accuracy_before", "accuracy_after", "useful_share", "rollouts", "steps", "seconds")
TASKS = ("countdown", "math", "blocks", "geometry")
TUNED_ON = 900
"""The seed that defaults were chosen on."""


def run(task: str, seed: int, steps: int) -> dict[str, Any]:
    """One run with the defaults, without report, on one thread."""
    from dps_pyro.trainers.config.settings import TrainConfig
    from dps_pyro.trainers.grpo import train

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.flat(
            out=Path(folder) / "run",
            task=task,
            seed=seed,
            steps=steps,
            eval_every=0,
            report=False,
            threads=1,
            **results.SELECTION,
        )
        started = os.times()
        summary = train(config)
        spent = sum(os.times()[:2]) - sum(started[:2])
        lines = [json.loads(line) for line in (config.task.out / "metrics.jsonl").read_text("utf-8").splitlines()]  # type: ignore[operator]
    errors = [line["stderr"] for line in lines if line["kind"] == "eval"]
    return (
        {"seed": seed}
        | {name: summary[name] for name in KEPT}
        | {"stderr_before": errors[0], "stderr_after": errors[-1], "processor_seconds": spent}
    )


def table(result: dict[str, Any]) -> str:
    """A result as the docs show it: means ± standard deviations over the seeds, and every seed's gain, in points."""
    columns = ("task", "seeds", "before", "after", "gain", "every seed's", "useful groups", "processor time")
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for task in sorted(result["runs"], key=TASKS.index):
        runs = sorted(result["runs"][task], key=lambda run: run["seed"])
        found = {name: [run[name] for run in runs] for name in runs[0]}
        before, after = found["accuracy_before"], found["accuracy_after"]
        gains = [late - early for early, late in zip(before, after, strict=True)]
        cells = [", ".join(map(str, found["seed"])), _spread(before), _spread(after), f"**{_spread(gains, '+')}**"]
        cells += [", ".join(f"{100 * gain:+.1f}" for gain in gains), f"{statistics.fmean(found['useful_share']):.0%}"]
        cells += [f"{statistics.fmean(found['processor_seconds']):.0f} s"]
        rows.append(f"| `{task}` | {' | '.join(cells)} |")
    runs = next(iter(result["runs"].values()))
    error = max(run["stderr_after"] for found in result["runs"].values() for run in found)
    note = (
        f"Accuracy in %, gains in points, mean ± standard deviation over the seeds; "
        f"{runs[0]['steps']} steps, 256 test prompts, four samples each, so that one evaluation's standard error is up "
        f"to {100 * error:.1f} points. {result['machine']}; {result['date']}."
    )
    return "\n".join([*rows, "", note])


def _spread(values: list[float], sign: str = "") -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):{sign}.1f}{spread}"


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, and keep every run as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12, 13, 14])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args(argv)

    found: dict[str, Any] = {"runs": {}}
    if arguments.out.exists():
        found = json.loads(arguments.out.read_text("utf-8"))
    for seed in arguments.seeds:
        for task in arguments.tasks:
            done = found["runs"].setdefault(task, [])
            if any(line["seed"] == seed and line["steps"] == arguments.steps for line in done):
                continue
            done.append(run(task, seed, arguments.steps))
            found |= {
                "command": "python -m benchmarks.learning.tasks",
                "date": results.today(),
                "machine": f"{results.machine()}, one thread",
            }
            results.write(arguments.out, found)
    print(table(found))


if __name__ == "__main__":
    main()
