"""Is more of what TRL rolls out useful? Its GRPOTrainer with its own sampler, and with predicted prompts.

    python -m benchmarks.learning.trl --out benchmarks/results/trl.json

Both arms share policy, prompts, group size, optimizer, steps and seeds. A group is useful where its rewards differ
(1 - TRL's own `frac_reward_zero_std`). Runs are kept as they end, so that a killed benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results

ARMS = ("TRL's RepeatSampler", "SolvingProgress, soft")
PROMPTS, BATCH, GROUP = 256, 16, 8


def main() -> None:
    """Run what is missing, then write the result and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--runs", type=Path, default=Path("runs/trl"), help="where single runs are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/trl.json"))
    options = parser.parse_args()
    runs = {arm: [_run(arm, seed, options) for seed in options.seeds] for arm in ARMS}
    columns = ("useful", "useful_late", "reward_late")
    result = {
        "what": "TRL's GRPOTrainer on the embedded Countdown policy, with its own sampler and with predicted prompts",
        "date": results.today(),
        "machine": results.machine(),
        "trl": importlib.metadata.version("trl"),
        "configuration": {"steps": options.steps, "learning_rate": options.learning_rate, "prompts": PROMPTS,
                          "batch_size": BATCH, "group_size": GROUP, "loss": "TRL's default"},
        "columns": "useful: mean share of the steps; useful_late: of their second half; reward_late: mean training "
                   "reward of it, on the prompts that were selected",
        "seeds": options.seeds,
        "arms": {arm: {name: _spread([run[name] for run in runs[arm]]) for name in columns} for arm in ARMS},
        "curves": {arm: [run["curve"] for run in runs[arm]] for arm in ARMS},
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results.write(options.out, result)
    print(f"{'arm':24s}" + "".join(f"{name:>20s}" for name in columns))
    for arm, row in result["arms"].items():
        print(f"{arm:24s}" + "".join(f"{row[name]['mean']:>12.3f} ± {row[name]['sd']:.3f}" for name in columns))


def _run(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    kept: Path = options.runs / f"{ARMS.index(arm)}-{options.steps}-{options.learning_rate:g}-{seed}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from dps_pyro import PromptSampler
    from dps_pyro.models import SolvingProgress
    from dps_pyro.policies.embedded import EMBEDDED
    from dps_pyro.tasks.planning.countdown import Countdown
    from dps_pyro.trainers.trl import PredictiveGRPOTrainer

    torch.set_num_threads(1)
    task = Countdown(train_size=PROMPTS, test_size=1)
    known = {prompt.id: prompt for prompt in task.prompts("train")}

    def solving(completions: list[str], id: list[str], **_: Any) -> list[float]:  # noqa: A002 - the column's
        return [task.reward(known[i], text).value for i, text in zip(id, completions, strict=True)]

    train = Dataset.from_list([{"prompt": prompt.text, "id": prompt.id} for prompt in known.values()])
    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=BATCH * GROUP, num_generations=GROUP,
            max_completion_length=48, max_steps=options.steps, learning_rate=options.learning_rate,
            lr_scheduler_type="constant", logging_steps=1, report_to=[], use_cpu=True, bf16=False,
            save_strategy="no", disable_tqdm=True, seed=seed, dataloader_pin_memory=False,
        )  # fmt: skip
        settings: dict[str, Any] = {
            "model": AutoModelForCausalLM.from_pretrained(EMBEDDED["countdown"], dtype=torch.float32),
            "processing_class": AutoTokenizer.from_pretrained(EMBEDDED["countdown"]),
            "reward_funcs": solving, "args": args, "train_dataset": train,
        }  # fmt: skip
        if arm == ARMS[0]:
            trainer = GRPOTrainer(**settings)
        else:
            sampler = PromptSampler(SolvingProgress(), len(train), acquisition="soft", trials=GROUP, seed=seed)
            trainer = PredictiveGRPOTrainer(**settings, prompt_sampler=sampler)
        trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    late = steps[len(steps) // 2 :]
    curve = [1 - entry["frac_reward_zero_std"] for entry in steps]
    found = {
        "useful": float(np.mean(curve)), "useful_late": float(np.mean(curve[-len(late) :])),
        "reward_late": float(np.mean([entry["reward"] for entry in late])),
        "curve": [round(share, 4) for share in curve],
    }  # fmt: skip
    options.runs.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found), encoding="utf-8")
    print(f"{arm}, seed {seed}: useful {found['useful']:.3f}", flush=True)
    return found


def _spread(values: list[float]) -> dict[str, Any]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {
        "mean": round(float(np.mean(values)), 4),
        "sd": round(deviation, 4),
        "values": [round(v, 4) for v in values],
    }


if __name__ == "__main__":
    main()
