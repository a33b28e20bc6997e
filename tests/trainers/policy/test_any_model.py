"""Any causal LM instead of the embedded policy: its prompts, its chat template, its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.engines.chat import chat_model
from helpers.runs.tiny import metrics, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from dps_pyro.policies.embedded import EMBEDDED
from dps_pyro.rollouts import Sampling
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.parts import make_task
from dps_pyro.trainers.policy.chat import render
from dps_pyro.trainers.policy.load import load_policy


def test_any_causal_lm_trains_on_prompts_in_english(tmp_path: Path) -> None:
    model = chat_model(tmp_path / "model")
    config = tiny(tmp_path / "run", model=model, max_new_tokens=6)
    _, tokenizer = load_policy(config)
    task = make_task(config, tokenizer)
    text = render(tokenizer, task.prompts("train")[0].text)
    assert text.startswith("<user>Using the numbers [")
    assert text.endswith("</answer>.<assistant>")
    train(config)
    line = metrics(tmp_path / "run")[1]
    assert (line["length"], line["reward"]) == (6, 0)
    saved = AutoTokenizer.from_pretrained(tmp_path / "run/checkpoints/step-000001/policy")
    assert saved.chat_template == tokenizer.chat_template


def test_what_suits_the_embedded_policy_is_not_asked_of_others(tmp_path: Path) -> None:
    def numbers(**settings: Any) -> tuple[int | None, float | None]:
        config = TrainConfig.flat(**settings).resolved()
        assert (config.sampling.max_new_tokens, config.step_size) == (
            config.rollouts.max_new_tokens,
            config.update.learning_rate,
        )
        return config.rollouts.max_new_tokens, config.update.learning_rate

    assert numbers() == (24, 1e-4)
    assert numbers(model="some/hub-id") == (1024, 1e-6)
    assert numbers(model=chat_model(tmp_path)) == (1024, 1e-6)
    assert numbers(model=str(EMBEDDED["countdown"])) == (24, 1e-4)
    assert numbers(model="some/hub-id", max_new_tokens=5) == (5, 1e-6)
    assert numbers(learning_rate=0.0) == (24, 0.0)


@pytest.mark.parametrize(("template_writes", "tokenizer_adds"), [(True, True), (True, False), (False, True)])
def test_a_chat_prompt_begins_once(template_writes: bool, tokenizer_adds: bool, tmp_path: Path) -> None:
    """Llama 3, Gemma and Mistral: the template writes the beginning of the sequence, and the tokenizer adds it."""
    from tokenizers.processors import TemplateProcessing

    model = chat_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    tokenizer.chat_template = ("{{ bos_token }}" if template_writes else "") + tokenizer.chat_template
    if tokenizer_adds:
        single = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)])
        tokenizer.backend_tokenizer.post_processor = single
    policy = AutoModelForCausalLM.from_pretrained(model)
    policy.resize_token_embeddings(len(tokenizer))
    texts = [render(tokenizer, text) for text in ("Using 3", "A <|begin|> within")]
    rollouts = TransformersEngine(policy, tokenizer).generate(texts, 1, Sampling(2), seed=0)
    for text, ids, mask in zip(texts, rollouts.prompt_ids, rollouts.prompt_mask, strict=True):
        assert ids[mask][0] == tokenizer.bos_token_id
        assert (ids[mask] == tokenizer.bos_token_id).sum() == (2 if "within" in text else 1)
        assert tokenizer.decode(ids[mask][1:]).startswith("<user>")


def test_a_prompt_without_a_chat_template_stays_as_it_is() -> None:
    _, tokenizer = load_policy(tiny(Path()))
    assert render(tokenizer, "3 7 25 = 46 :") == "3 7 25 = 46 :"


def test_a_checkpoint_is_a_policy_to_start_from(tmp_path: Path) -> None:
    """Its tokenizer has no words, so that it gets the compact prompts without being told."""
    train(tiny(tmp_path / "first"))
    model = str(tmp_path / "first/checkpoints/step-000001/policy")
    assert tiny(Path(), model=model).sampling.max_new_tokens == 24  # nor these defaults
    train(tiny(tmp_path / "next", model=model, eval_every=0))
    assert metrics(tmp_path / "next")[0]["accuracy"] == metrics(tmp_path / "first")[-1]["accuracy"]
