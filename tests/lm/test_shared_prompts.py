"""A prompt computed once for its group gives the log-probabilities and gradients of the plain pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs.tiny import tiny
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

from dps_pyro.lm.logprobs import completion_logprobs
from dps_pyro.lm.shared_prompts import prompt_owners, shares_prompts
from dps_pyro.rollouts import Rollouts
from dps_pyro.trainers.step.batches import micro_batches

SMALL: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=64),
}


def made(config: Any, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    # Eager attention takes its softmax in single precision, where double's mask of padding overflows.
    return model if attention == "eager" else model.double()


def batch(prompts: list[int], completions: list[int], owners: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of distinct prompts of these lengths, with completions of these."""
    generator = torch.Generator().manual_seed(1)
    width, longest, rows = max(prompts), max(completions), torch.tensor(owners)
    ids = torch.randint(3, 40, (len(prompts), width), generator=generator)
    mask = torch.arange(width) >= width - torch.tensor(prompts)[:, None]
    drawn = torch.randint(3, 40, (len(owners), longest), generator=generator)
    ended = torch.arange(longest) < torch.tensor(completions)[:, None]
    return ids.masked_fill(~mask, 0)[rows], mask[rows], drawn, ended


BATCHES = {
    "groups": batch([7, 4, 6], [5, 2, 4, 1, 5, 3], [0, 0, 1, 1, 2, 2]),
    "mixed up": batch([7, 4], [5, 2, 4, 1, 5], [1, 0, 1, 1, 0]),
    "alone": batch([3, 5], [2, 6], [0, 1]),
    "one token": batch([3, 5], [1, 1, 1], [0, 1, 0]),
    "an empty one": batch([3], [0, 4], [0, 0]),
}


def both(model: Any, rows: tuple[Tensor, Tensor, Tensor, Tensor], **options: Any) -> list[list[Tensor]]:
    """Log-probabilities and gradients, plain and shared."""
    found = []
    for share in (False, True):
        model.zero_grad()
        logprobs = completion_logprobs(model, *rows, share_prompts=share, **options)
        (logprobs * torch.linspace(-1, 2, logprobs.numel()).view_as(logprobs)).sum().backward()
        gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
        found.append([logprobs.detach(), *gradients])
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES)
def test_shared_is_plain(rows: tuple[Tensor, Tensor, Tensor, Tensor], name: str, attention: str) -> None:
    model = made(CONFIGS[name], attention)
    assert shares_prompts(model)
    plain, shared = both(model, rows, temperature=0.7)
    assert len(plain) == len(shared) > 10
    # Llama's and Qwen's norms compute in single precision whatever the weights' is.
    close = {"rtol": 1e-9, "atol": 1e-12} if (name, attention) == ("gpt2", "sdpa") else {"rtol": 1e-4, "atol": 1e-4}
    for one, other in zip(plain, shared, strict=True):
        torch.testing.assert_close(one, other, **close)
    assert (plain[0] == 0).equal(~rows[3])


def test_with_adapters_too() -> None:
    import peft

    model = peft.get_peft_model(
        made(CONFIGS["llama"]), peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    ).double()
    assert shares_prompts(model)
    plain, shared = both(model, BATCHES["groups"])
    assert len(plain) == len(shared) > 10
    for one, other in zip(plain, shared, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_models_that_cannot_do_not() -> None:
    assert not shares_prompts(made(MistralConfig(**SMALL, sliding_window=4)))  # it forgets a long prompt's beginning
    model = made(CONFIGS["llama"])
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert not shares_prompts(model)
    model.gradient_checkpointing_disable()
    assert shares_prompts(model)
    model.config._attn_implementation = "flash_attention_2"
    assert not shares_prompts(model)
    assert not shares_prompts(torch.nn.Linear(2, 2))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=12))
def test_owners_are_rows_with_the_same_prompt(rows: list[tuple[int, int]]) -> None:
    """Told apart by length as well as content; what lies under the mask does not matter."""
    ids = torch.tensor([[9, token, token] for _, token in rows]) + torch.arange(len(rows))[:, None] * torch.tensor(
        [[10, 0, 0]]
    )
    mask = torch.arange(3) >= 3 - torch.tensor([min(length, 2) for length, _ in rows])[:, None]
    first, owners = prompt_owners(ids, mask)
    keys = [(min(length, 2), token) for length, token in rows]
    assert len(first) == len(set(keys))
    for row, owner in enumerate(owners.tolist()):
        assert keys[row] == keys[int(first[owner])]
        assert int(first[owner]) == keys.index(keys[row])


def test_groups_stay_together_where_that_saves_more() -> None:
    def rollouts(prompt: int, lengths: list[int], size: int) -> Rollouts:
        groups = len(lengths) // size
        ids, mask, drawn, ended = batch([prompt] * groups, lengths, [g for g in range(groups) for _ in range(size)])
        count = len(lengths)
        return Rollouts(ids, mask, drawn, ended, torch.zeros(drawn.shape), ["stop"] * count, [""] * count)

    config = tiny(Path(), micro_batch=4)
    lengths = [3, 9, 4, 8, 9, 3, 8, 4]
    long_prompts = micro_batches(rollouts(60, lengths, 4), torch.arange(8), config, shared=True)
    assert sorted(sorted(part.tolist()) for part in long_prompts) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    lengths = [3, 90, 4, 80, 90, 3, 80, 4]
    long_completions = micro_batches(rollouts(5, lengths, 4), torch.arange(8), config, shared=True)
    assert sorted(sorted(part.tolist()) for part in long_completions) == [[0, 2, 5, 7], [1, 3, 4, 6]]
