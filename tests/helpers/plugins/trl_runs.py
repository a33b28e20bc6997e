"""TRL's real trainers on the embedded policy, small enough for a test. Also a script, for several processes:

accelerate launch --multi_gpu --num_processes 2 tests/helpers/plugins/trl_runs.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress
from dps_pyro.tasks.planning.countdown import Countdown

POLICY = str(Path(__file__).parents[3] / "dps_pyro/policies/countdown")
TASK = Countdown(train_size=24, test_size=4)
PROMPTS = {prompt.id: prompt for prompt in TASK.prompts("train")}


def ours() -> Any:
    """Our module. Imported when it is first needed, because TRL takes long, and with the warnings of all that it
    imports left aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import dps_pyro.trainers.trl
    return dps_pyro.trainers.trl


class Solving:
    """The task's reward, as TRL calls it, that keeps what this process was asked to judge."""

    def __init__(self) -> None:
        self.__name__ = "solving"
        self.calls: list[list[str]] = []
        self.rewards: list[list[float]] = []

    def __call__(self, completions: list[str], id: list[str], **_: Any) -> list[float]:  # noqa: A002 - the column's
        known = {**PROMPTS, **{prompt.id: prompt for prompt in TASK.prompts("test")}}
        self.calls.append(list(id))
        self.rewards.append([TASK.reward(known[i], text).value for i, text in zip(id, completions, strict=True)])
        return self.rewards[-1]


def dataset(split: str = "train") -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"prompt": prompt.text, "id": prompt.id} for prompt in TASK.prompts(split)])


def policy() -> dict[str, Any]:
    """The embedded policy, fresh, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    return {"model": model, "processing_class": AutoTokenizer.from_pretrained(POLICY)}


SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 24, "max_steps": 3,
    "learning_rate": 1e-3, "logging_steps": 1, "report_to": [], "use_cpu": True, "save_strategy": "no",
    "disable_tqdm": True, "seed": 1, "bf16": False, "dataloader_pin_memory": False,
}  # fmt: skip


def config(out: Path, kind: str = "GRPO", **settings: Any) -> Any:
    ours()
    import trl

    return getattr(trl, f"{kind}Config")(output_dir=str(out), **{**SETTINGS, **settings})


def sampler(**settings: Any) -> PromptSampler:
    return PromptSampler(SolvingProgress(), len(PROMPTS), **{"trials": 4, "seed": 5, **settings})


def predictive(out: Path, *, prompts: PromptSampler | None = None, **settings: Any) -> Any:
    """A trainer of ours; `reward_funcs`, `solved_by` and the like go to it, the others to its configuration."""
    names = ("reward_funcs", "solved_by", "solved_at", "prompt_id", "train_dataset", "eval_dataset")
    own = {name: settings.pop(name) for name in names if name in settings}
    own = {"reward_funcs": Solving(), "train_dataset": dataset(), **own}
    own |= {"args": config(out, **settings), "prompt_sampler": prompts or sampler()}
    return ours().PredictiveGRPOTrainer(**policy(), **own)


def selections(trainer: Any) -> list[list[int]]:
    """The rows selected, a list a generation, as the sampler's log has them."""
    events = trainer.prompt_sampler.history.events
    return [events.prompt[events.step == step].tolist() for step in range(trainer.prompt_sampler.history.num_steps)]


def main(out: Path) -> None:
    """In every process: train, then go on from the middle in a fresh trainer, and write down what was judged."""
    rank = int(os.environ.get("RANK", "0"))
    settings: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    settings |= {"per_device_train_batch_size": 6, "num_generations": 4}  # groups straddle the processes
    whole = predictive(out / "run", **settings)
    whole.train()
    rest = predictive(out / "run", **settings)
    rest.train(resume_from_checkpoint=str(out / "run/checkpoint-2"))
    found = {
        "whole": whole.reward_funcs[0].calls,
        "rest": rest.reward_funcs[0].calls,
        "rewards": whole.reward_funcs[0].rewards,
        "selected": selections(whole),
        "solved": whole.prompt_sampler.history.events.solved.tolist(),
        "logged": [sorted(entry) for entry in whole.state.log_history],
    }
    (out / f"rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
