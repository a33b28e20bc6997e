"""Small models for vLLM."""

from __future__ import annotations

from typing import Any

import torch
from helpers.engines.small import EOS, PROMPTS, VOCAB, make_tokenizer
from torch import nn
from torch.testing import assert_close
from transformers import Qwen2Config, Qwen2ForCausalLM

from dps_pyro.lm.logprobs import completion_logprobs
from dps_pyro.rollouts import Sampling
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.rollouts.vllm import VllmEngine

__all__ = ["SMALL", "TOKENIZER", "assert_in_step", "disturb", "make_model"]

SMALL: dict[str, Any] = {"kv_cache_gib": 0.1, "args": {"max_num_seqs": 64}}

TOKENIZER = make_tokenizer(pad_token="<pad>")


def make_model(seed: int = 0, *, tied: bool = True) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(VOCAB), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3, bos_token_id=1, eos_token_id=EOS,
        pad_token_id=0, tie_word_embeddings=tied,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def disturb(model: nn.Module, scale: float = 0.03) -> None:
    """An update, as an optimizer step would make one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def assert_in_step(engine: VllmEngine, policy: Any, **sampling: Any) -> None:
    """Greedy completions are the policy's own; log-probabilities of drawn ones are, too (float32: far within 1e-3)."""
    greedy = Sampling(12, temperature=0)
    mine, theirs = (
        each.generate(PROMPTS, 1, greedy, seed=0) for each in (TransformersEngine(policy, TOKENIZER), engine)
    )
    assert theirs.texts == mine.texts
    assert theirs.finish == mine.finish
    assert_close(theirs.completion_ids[theirs.completion_mask], mine.completion_ids[mine.completion_mask])
    assert_close(theirs.logprobs, mine.logprobs, atol=2e-4, rtol=0)
    drawn = engine.generate(PROMPTS, 8, Sampling(12, **sampling), seed=1)
    with torch.no_grad():
        own = completion_logprobs(policy, *drawn[:4], temperature=sampling.get("temperature", 1.0))
    assert_close(drawn.logprobs, own, atol=2e-4, rtol=0)
