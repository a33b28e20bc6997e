"""Small models and tokenizers for rollout engines."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["EOS", "PROMPTS", "SPECIAL", "VOCAB", "WORDS", "make_model", "make_tokenizer", "warped_logprobs"]

SPECIAL = ["<pad>", "<s>", "</s>"]

WORDS = [str(i) for i in range(10)] + ["+", "-", "="]

VOCAB = {word: i for i, word in enumerate(SPECIAL + WORDS)}

EOS = VOCAB["</s>"]

PROMPTS = ["1 + 2 =", "7", "3 - 4 + 5 - 6 ="]


def make_tokenizer(**special):
    backend = Tokenizer(WordLevel(VOCAB, unk_token="="))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", VOCAB["<s>"])])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **special)


def make_model(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(VOCAB), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, initializer_range=0.3, bos_token_id=1, eos_token_id=EOS, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def warped_logprobs(model, rollouts, temperature, keep):
    """Log-probabilities by the definition, `keep(probabilities of one position, descending) -> how many stay`."""
    ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids], 1)
    mask = torch.cat([rollouts.prompt_mask, rollouts.completion_mask], 1).long()
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    probs = (logits[:, rollouts.prompt_ids.shape[1] - 1 : -1] / temperature).softmax(-1)
    result = torch.zeros(rollouts.completion_ids.shape)
    for row, step in rollouts.completion_mask.nonzero().tolist():
        order = probs[row, step].argsort(descending=True)
        kept = order[: keep(probs[row, step][order])]
        token = rollouts.completion_ids[row, step]
        assert token in kept
        result[row, step] = (probs[row, step, token] / probs[row, step, kept].sum()).log()
    return result
