"""Does the embedded geometry policy learn? Held-out accuracy before and after a short training run, over seeds.

    python -m benchmarks.learning.geometry --out benchmarks/results/geometry.json

Both policies are also asked with every picture blanked. Runs are kept as they end, so that a killed benchmark goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import results

BATCH, GROUP, SAMPLES = 32, 8, 4


def main() -> None:
    """Run what is missing, then write the result and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/geometry"), help="where single runs are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/geometry.json"))
    options = parser.parse_args()
    from dps_pyro.policies.embedded import defaults_of

    runs = [_run(seed, options) for seed in options.seeds]
    result = {
        "what": "held-out accuracy of the embedded geometry policy before and after training, and with blank pictures",
        "date": results.today(),
        "machine": results.machine(),
        "configuration": {"steps": options.steps, "learning_rate": defaults_of("geometry").learning_rate,
                          "batch_size": BATCH, "group_size": GROUP, "dynamics": "SolvingProgress",
                          "acquisition": "soft", "loss": "grpo", "test_prompts": 256, "samples": SAMPLES},
        "runs": runs,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results.write(options.out, result)
    print(table(result))


def read(path: Path) -> dict[str, Any]:
    """A result file."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def table(result: dict[str, Any]) -> str:
    """A result as the docs show it, in Markdown."""
    names = ("before", "after", "blank_before", "blank_after")
    rows = ["| seed | before | after | before, blank | after, blank |", "|---|---|---|---|---|"]
    for run in result["runs"]:
        values = " | ".join(f"{run[name]:.3f}" for name in names)
        rows += [f"| {run['seed']} | {values} |"]
    return "\n".join(rows)


def _run(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    kept: Path = options.runs / f"{options.steps}-{seed}.json"
    if kept.exists():
        return read(kept)
    from dps_pyro.trainers.config.settings import TrainConfig
    from dps_pyro.trainers.grpo import train

    folder: Path = options.runs / f"{options.steps}-{seed}"
    config = TrainConfig.flat(
        out=folder, resume=folder.exists(), task="geometry", steps=options.steps, batch_size=BATCH, group_size=GROUP,
        eval_every=0, eval_samples=SAMPLES, seed=seed, threads=1, report=False, **results.SELECTION,
    )  # fmt: skip
    train(config)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    accuracy = [line["accuracy"] for line in lines if line["kind"] == "eval"]
    found = {"seed": seed, "before": accuracy[0], "after": accuracy[-1]}
    saved = folder / "checkpoints" / f"step-{options.steps:06d}" / "policy"
    found |= {"blank_before": _blank(config, None), "blank_after": _blank(config, saved)}
    kept.write_text(json.dumps(found), encoding="utf-8")
    print(f"seed {seed}: {found['before']:.3f} to {found['after']:.3f}", flush=True)
    return found


def _blank(config: Any, saved: Path | None) -> float:
    """Accuracy on the test prompts with every picture white."""
    from PIL import Image

    from dps_pyro.rollouts import Query
    from dps_pyro.rollouts.transformers import TransformersEngine
    from dps_pyro.tasks import Geometry, judge
    from dps_pyro.tasks.geometry.bitmap import SIZE
    from dps_pyro.trainers.policy.load import load_policy

    task = Geometry()
    prompts = list(task.prompts("test"))
    white = (Image.new("RGB", (SIZE, SIZE), "white"),)
    engine = TransformersEngine(*load_policy(config, saved))
    texts = engine.generate(
        [Query(p.text, white) for p in prompts], SAMPLES, config.sampling, seed=config.machine.seed
    ).texts
    owners = [prompt for prompt in prompts for _ in range(SAMPLES)]
    return sum(reward.value for reward in judge(task, owners, texts)) / len(texts)


if __name__ == "__main__":
    main()
