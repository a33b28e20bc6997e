"""How the policy computes and is kept: `--attention` and `--weights`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.runs.tiny import call, metrics, tiny
from safetensors.torch import load_file
from torch.testing import assert_close

from dps_pyro.rollouts import Sampling
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.policy.load import load_policy

PROMPTS = ["3 5 7 = 15 :", "1 2 = 3 :"]


def test_attention_is_what_was_asked_for_and_changes_no_number() -> None:
    drawn = []
    for attention in ("eager", "sdpa"):
        policy, tokenizer = load_policy(tiny(Path(), attention=attention))
        assert policy.config._attn_implementation == attention
        drawn.append(TransformersEngine(policy, tokenizer).generate(PROMPTS, 4, Sampling(8), seed=0))
    assert drawn[0].texts == drawn[1].texts
    assert_close(drawn[0].logprobs, drawn[1].logprobs, atol=1e-4, rtol=0)
    assert load_policy(tiny(Path()))[0].config._attn_implementation == "sdpa"  # transformers' choice


def test_runs_with_either_attention_are_the_same_run(tmp_path: Path) -> None:
    found = []
    for attention in ("eager", "sdpa"):
        train(tiny(tmp_path / attention, attention=attention, steps=2, batch_size=8, learning_rate=1e-3))
        found.append([line for line in metrics(tmp_path / attention) if line["kind"] == "train"])
    for one, other in zip(*found, strict=True):
        assert one["reward"] == other["reward"]
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_attention_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "train", "--out", str(tmp_path / "run"), "--attention", "flash_attention_2")
    assert status == 2
    assert "attention: expected one that works for" in err
    assert "got flash_attention_2" in err
    assert not (tmp_path / "run").exists()


def test_weights_in_half_precision_are_trained_and_saved_as_such(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", weights="bfloat16", steps=2, batch_size=8, learning_rate=1e-2)
    policy, _ = load_policy(config)
    assert {weight.dtype for weight in policy.parameters()} == {torch.bfloat16}
    train(config)
    saved = load_file(tmp_path / "run/checkpoints/step-000002/policy/model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
    initial = policy.state_dict()
    assert any(not torch.equal(initial[name], weight) for name, weight in saved.items())
    again, _ = load_policy(config, tmp_path / "run/checkpoints/step-000002/policy")
    assert {weight.dtype for weight in again.parameters()} == {torch.bfloat16}
    losses = [line["loss"] for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert any(loss is not None for loss in losses)


def test_adapters_stay_in_single_precision(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", weights="bfloat16", lora_rank=2, steps=1, batch_size=8)
    policy, _ = load_policy(config)
    kinds = {weight.requires_grad: weight.dtype for weight in policy.parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}
    train(config)
    saved = load_file(tmp_path / "run/checkpoints/step-000001/policy/adapter_model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
