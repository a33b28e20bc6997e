"""LoRA: what is trained, what is saved, and that the merged policy is the adapted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs.same_run import assert_same_run
from helpers.runs.tiny import killed, metrics, tiny
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, PreTrainedModel

from dps_pyro.policies.embedded import EMBEDDED
from dps_pyro.rollouts import Sampling
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.rollouts.weights import base_model, merged_weights
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.policy.load import load_policy, load_reference
from dps_pyro.trainers.policy.lora import save_merged, save_trained

IDS = torch.tensor([[3, 17, 5, 40, 8, 9]])


def adapted(**settings: Any) -> tuple[PreTrainedModel, Any, TrainConfig]:
    """The embedded policy with adapters that change it."""
    config = tiny(Path(), lora_rank=4, device="cpu", **settings)
    policy, tokenizer = load_policy(config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) / 8)
    return policy, tokenizer, config


def logits(policy: Any) -> torch.Tensor:
    with torch.no_grad():
        return policy(input_ids=IDS).logits


def test_new_adapters_change_nothing_and_are_all_that_is_trained() -> None:
    policy, _ = load_policy(tiny(Path(), lora_rank=4))
    plain, _ = load_policy(tiny(Path()))
    torch.testing.assert_close(logits(policy), logits(plain))
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    again, _ = load_policy(tiny(Path(), lora_rank=4))
    other, _ = load_policy(tiny(Path(), lora_rank=4, seed=1))
    name = next(name for name in trained if "lora_A" in name)
    assert torch.equal(policy.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(policy.get_parameter(name), other.get_parameter(name))


def test_targets_and_scale() -> None:
    policy, _ = load_policy(tiny(Path(), lora_rank=2, lora_alpha=6, lora_targets=["q_proj"]))
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in policy.named_parameters() if "lora_" in name}
    assert layers == {"q_proj"}
    assert {layer.scaling["default"] for layer in policy.modules() if isinstance(layer, LoraLayer)} == {3.0}
    with pytest.raises(ValueError, match=r"lora_targets: expected modules of LlamaForCausalLM, got \['no_proj'\]"):
        load_policy(tiny(Path(), lora_rank=2, lora_targets=["no_proj"]))


def test_merged_weights_compute_what_the_adapted_policy_computes(tmp_path: Path) -> None:
    policy, tokenizer, _ = adapted()
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    plain, _ = load_policy(tiny(Path()))
    assert (logits(policy) - logits(plain)).abs().max() > 0.1
    merged = merged_weights(policy)
    assert merged.keys() == plain.state_dict().keys()
    plain.load_state_dict(merged)
    torch.testing.assert_close(logits(plain), logits(policy), rtol=1e-4, atol=1e-4)
    save_merged(policy, tokenizer, tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert "lora" not in " ".join(loaded.state_dict())
    torch.testing.assert_close(logits(loaded), logits(plain))
    after = policy.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())  # bit for bit: it trains on


def test_an_ordinary_policy_is_its_own_merged_one() -> None:
    policy, _ = load_policy(tiny(Path()))
    assert base_model(policy) is policy
    merged = merged_weights(policy)
    assert all(merged[name].data_ptr() == weight.data_ptr() for name, weight in policy.state_dict().items())


def test_saved_adapters_come_back_bit_for_bit(tmp_path: Path) -> None:
    policy, tokenizer, config = adapted()
    save_trained(policy, tokenizer, tmp_path / "policy")
    assert not (tmp_path / "policy/model.safetensors").exists()
    again, _ = load_policy(config, tmp_path / "policy")
    ours, theirs = policy.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    trained = [[w.requires_grad for w in model.parameters()] for model in (policy, again)]
    assert trained[0] == trained[1]


def test_the_reference_is_the_policy_without_its_adapters() -> None:
    policy, _, config = adapted(kl=0.1)
    reference = load_reference(config, policy)
    assert reference is not None
    plain, _ = load_policy(tiny(Path()))
    with reference() as initial:
        torch.testing.assert_close(logits(initial), logits(plain))
    assert (logits(policy) - logits(plain)).abs().max() > 0.1
    assert load_reference(tiny(Path(), lora_rank=4), policy) is None


def test_the_engine_samples_from_the_adapted_policy() -> None:
    policy, tokenizer, _ = adapted()
    engine = TransformersEngine(policy, tokenizer)
    plain, _ = load_policy(tiny(Path()))
    plain.load_state_dict(merged_weights(policy))
    greedy = Sampling(max_new_tokens=8, temperature=0)
    prompts = ["3 5 7 = 15 :", "1 2 = 3 :"]
    ours = engine.generate(prompts, 1, greedy, seed=0)
    assert ours.texts == TransformersEngine(plain, tokenizer).generate(prompts, 1, greedy, seed=0).texts
    engine.sync(policy)


def test_a_run_with_adapters_learns_saves_them_and_resumes_exactly(tmp_path: Path) -> None:
    """Two optimizer steps a step, a schedule with warm-up, a KL to the initial policy; killed in the third step."""

    def settings(out: Path) -> TrainConfig:
        return tiny(
            out, steps=4, checkpoint_every=2, eval_every=0, mini_batches=2, batch_size=8, lora_rank=4, kl=0.05,
            learning_rate=3e-3, schedule="cosine", warmup_steps=2,
        )  # fmt: skip

    straight, run = tmp_path / "straight", tmp_path / "run"
    train(settings(straight))
    killed(settings(run), "open", "metrics.jsonl", 6)  # the third step is done and not yet logged
    train(settings(run).replaced(resume=True))
    assert_same_run(run, straight)
    lines = [line for line in metrics(run) if line["kind"] == "train"]
    assert lines[0]["reference_kl"] < lines[-1]["reference_kl"]
    sizes = [
        path.stat().st_size
        for path in (
            run / "checkpoints/step-000004/policy/adapter_model.safetensors",
            EMBEDDED["countdown"] / "model.safetensors",
        )
    ]
    assert sizes[0] < sizes[1]
    with pytest.raises(ValueError, match="lora_rank: expected the run's own, 4, to resume it, got 8"):
        train(settings(run).replaced(resume=True, lora_rank=8, steps=5))
