"""The embedded policy: the shipped checkpoint, its tokenizer, and the script that makes it."""

from __future__ import annotations

import importlib.util
import random
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import dps_pyro.tasks
from dps_pyro.tasks import Countdown
from dps_pyro.tasks.planning.countdown import random_problem

CHECKPOINT = Path(dps_pyro.tasks.__file__).parents[1] / "policies" / "countdown"
SCRIPT = Path(__file__).parents[3] / "scripts" / "make_policy.py"
TASK = Countdown()


@pytest.fixture(scope="module")
def make_policy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_policy", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(CHECKPOINT, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(CHECKPOINT, local_files_only=True)
    return model.eval()


def test_is_a_small_stock_float32_llama(model: Any) -> None:
    assert type(model) is LlamaForCausalLM
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 6_000_000
    assert not [*CHECKPOINT.glob("*.bin"), *CHECKPOINT.glob("*.py"), *CHECKPOINT.glob("*.pt")]


def test_vocabulary_and_special_tokens_agree(model: Any, tokenizer: Any) -> None:
    assert model.config.vocab_size == len(tokenizer)
    for config in (model.config, model.generation_config):
        assert config.eos_token_id == tokenizer.eos_token_id
        assert config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.padding_side == "left"


def test_generation_defaults_to_the_policys_own_distribution(model: Any) -> None:
    config = model.generation_config
    assert (config.do_sample, config.temperature, config.top_k, config.top_p) == (True, 1.0, 0, 1.0)


def test_every_prompt_and_solution_makes_the_round_trip(tokenizer: Any) -> None:
    for split in ("train", "test"):
        for prompt in TASK.prompts(split):
            for text in (prompt.text, TASK.solution(prompt)):
                ids = tokenizer(text)["input_ids"]
                assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids
                assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_number_in_range_makes_the_round_trip(tokenizer: Any) -> None:
    rng = random.Random(0)
    for target in range(TASK.targets[0], TASK.targets[1] + 1):
        text = TASK.prompt([rng.randint(*TASK.numbers) for _ in range(rng.randint(2, 6))], target).text
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    for number in range(TASK.numbers[0], TASK.numbers[1] + 1):
        text = TASK.prompt([number, number], 10).text
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_spaces_do_not_matter_and_numbers_stay_apart(tokenizer: Any) -> None:
    assert tokenizer("(3+7)*25")["input_ids"] == tokenizer("( 3 + 7 ) * 25")["input_ids"]
    assert tokenizer.decode(tokenizer("3 7", add_special_tokens=False)["input_ids"]) == "3 7"
    assert tokenizer.unk_token_id in tokenizer("٣ + 7")["input_ids"]


def test_the_longest_solutions_fit(make_policy: ModuleType, tokenizer: Any) -> None:
    rng = random.Random(0)
    solutions = [random_problem(rng, 6).solution for _ in range(1000)]
    lengths = [len(ids) + 1 for ids in tokenizer(solutions, add_special_tokens=False)["input_ids"]]  # and EOS
    assert 18 <= max(lengths) <= 20 < make_policy.MAX_NEW_TOKENS


def test_solves_some_always_some_never_and_some_now_and_then(
    make_policy: ModuleType, model: Any, tokenizer: Any
) -> None:
    torch.manual_seed(0)
    row = make_policy.summarise(make_policy.solved(model, tokenizer, TASK, TASK.prompts("test"), 8), 8)
    assert 0.18 < row.accuracy < 0.38
    assert 0.20 < row.useful < 0.40
    assert 0.07 < row.easy < 0.25
    assert row.hopeless > 0.33


def test_greedy_answers_are_expressions_over_the_numbers(make_policy: ModuleType, model: Any, tokenizer: Any) -> None:
    prompts = TASK.prompts("test")[:64]
    inputs = tokenizer([prompt.text for prompt in prompts], return_tensors="pt", padding=True)
    ids = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False, max_new_tokens=24
    )
    texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    reasons = [TASK.reward(prompt, text).reason for prompt, text in zip(prompts, texts, strict=True)]
    assert reasons.count("correct") / 64 > 0.18
    assert (reasons.count("correct") + reasons.count("wrong value")) / 64 > 0.8


def test_the_card_names_the_command_and_the_numbers() -> None:
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert "python scripts/make_policy.py --seed" in card
    for row in ("| all |", "| test |", "| 2 numbers |", "| 6 numbers |"):
        assert row in card


def test_demonstrations_slip_as_often_as_stated_and_none_is_of_the_inventory(
    make_policy: ModuleType, tokenizer: Any
) -> None:
    held_out = {*TASK.prompts("train").ids, *TASK.prompts("test").ids}
    rows = make_policy.examples(tokenizer, TASK, 1)
    reasons: dict[bool, list[str]] = {True: [], False: []}  # with two numbers, with more
    for _ in range(400):
        ids, asked = next(rows)
        numbers, target = tokenizer.decode(ids[:asked], skip_special_tokens=True).rstrip(" :").split(" = ")
        prompt = TASK.prompt([int(number) for number in numbers.split()], int(target))
        answer = tokenizer.decode(ids[asked:], skip_special_tokens=True)
        reasons[len(prompt.answer[0]) == 2].append(TASK.reward(prompt, answer).reason)
        assert ids[-1] == tokenizer.eos_token_id and prompt.id not in held_out
    assert set(reasons[True]) == {"correct"}
    # A slip uses the given numbers, and is now and then right by chance.
    assert set(reasons[False]) <= {"correct", "wrong value", "division by zero"}
    assert 0.5 < reasons[False].count("correct") / len(reasons[False]) < 0.75


def test_the_script_makes_a_checkpoint(
    make_policy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_policy, "Countdown", partial(Countdown, train_size=60, test_size=12))  # what is measured
    out = tmp_path / "policy"
    make_policy.main(["--steps", "1", "--samples", "1", "--out", str(out)])
    made = AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    shipped = AutoModelForCausalLM.from_pretrained(CHECKPOINT, local_files_only=True)
    assert made.config.to_dict() | {"_name_or_path": ""} == shipped.config.to_dict() | {"_name_or_path": ""}
    assert AutoTokenizer.from_pretrained(out, local_files_only=True)("3 7 = 10 :")["input_ids"][0] == 1
    assert "1 steps" in (out / "README.md").read_text(encoding="utf-8")
