"""The embedded policies of mathematics and blocks: the shipped checkpoints, and the script that makes them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs.tiny import metrics, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from dps_pyro.policies.embedded import EMBEDDED, defaults_of
from dps_pyro.tasks import judge
from dps_pyro.tasks.base import Prompt
from dps_pyro.trainers.grpo import train
from scripts import make_task_policy

ROOT = Path(__file__).parents[2]
TASKS = ["math", "blocks"]


def loaded(task: str) -> tuple[Any, Any]:
    folder = EMBEDDED[task]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("task", TASKS)
def test_is_a_small_stock_llama_with_a_card(task: str) -> None:
    model, tokenizer = loaded(task)
    assert type(model) is LlamaForCausalLM
    assert (EMBEDDED[task] / "model.safetensors").stat().st_size <= 6_000_000
    assert not [*EMBEDDED[task].glob("*.bin"), *EMBEDDED[task].glob("*.py"), *EMBEDDED[task].glob("*.pt")]
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.max_new_tokens == defaults_of(task).max_new_tokens
    card = (EMBEDDED[task] / "README.md").read_text(encoding="utf-8")
    assert f"python -m scripts.make_task_policy --task {task} --seed 0" in card
    assert "| test | 256 |" in card


@pytest.mark.parametrize("task", TASKS)
def test_prompts_and_answers_make_the_round_trip(task: str) -> None:
    _, tokenizer = loaded(task)
    made = make_task_policy.SPECS[task].make()
    rng = random.Random(0)
    shown = [make_task_policy.SPECS[task].example(rng, made) for _ in range(300)]
    for text in [*(prompt.text for prompt in made.prompts("test")), *(example.show for example in shown)]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace(" ", "")
    longest = max(len(tokenizer(example.show)["input_ids"]) for example in shown)
    assert longest <= make_task_policy.SPECS[task].max_new_tokens


@pytest.mark.parametrize("task", TASKS)
def test_many_prompts_are_partially_solved(task: str) -> None:
    model, tokenizer = loaded(task)
    made = make_task_policy.SPECS[task].make()
    torch.manual_seed(0)
    row = make_task_policy.summarise(make_task_policy.solved(model, tokenizer, made, made.prompts("test")[:96], 8), 8)  # type: ignore[arg-type]
    assert 0.1 < row.accuracy < 0.7
    assert row.useful > 0.35


@pytest.mark.parametrize("task", TASKS)
def test_demonstrations_are_spoilt_as_often_as_stated_and_none_is_of_the_inventory(task: str) -> None:
    _, tokenizer = loaded(task)
    spec = make_task_policy.SPECS[task]
    made = spec.make()
    held_out = {*made.prompts("train").ids, *made.prompts("test").ids}
    rows = make_task_policy.examples(tokenizer, spec, made, 1)
    asked = {
        tokenizer.decode(ids[:length], skip_special_tokens=True) for ids, length in (next(rows) for _ in range(300))
    }
    texts = {prompt.text.replace(" ", "") for split in ("train", "test") for prompt in made.prompts(split)}
    assert not asked & texts and held_out
    rng = random.Random(2)
    examples = [spec.example(rng, made) for _ in range(400)]
    if task == "math":
        exact = [Prompt(e.id, e.ask, "", {}) for e in examples]
        assert all(prompt.id == f"math:{prompt.text[:-1]}" for prompt in exact)
        return
    prompts = [
        made.prompt(*(tuple(part.split("/")) for part in e.id.removeprefix("blocks:").split(">"))) for e in examples
    ]  # type: ignore[attr-defined]
    right = [reward.value for reward in judge(made, prompts, [e.show for e in examples])]
    assert 0.55 < sum(right) / len(right) < 0.75


@pytest.mark.parametrize("task", TASKS)
def test_trains_out_of_the_box_with_a_report(task: str, tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", task=task, report=True, batch_size=8, steps=3))
    lines = metrics(tmp_path / "run")
    assert lines[-1]["accuracy"] is not None
    assert any(line.get("grad_norm") for line in lines)
    assert "reason/" in " ".join(lines[1])
    assert (tmp_path / "run/report.html").stat().st_size > 10_000


@pytest.mark.parametrize("task", TASKS)
def test_the_script_makes_a_checkpoint(task: str, tmp_path: Path) -> None:
    make_task_policy.main(["--task", task, "--steps", "1", "--samples", "0", "--out", str(tmp_path / "policy")])
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", local_files_only=True)
    shipped = AutoModelForCausalLM.from_pretrained(EMBEDDED[task], local_files_only=True)
    assert made.config.to_dict() | {"_name_or_path": ""} == shipped.config.to_dict() | {"_name_or_path": ""}
    assert "1 steps" in (tmp_path / "policy/README.md").read_text(encoding="utf-8")
