"""Computes a prompt's part of the forward and backward pass once for all of its completions.

A group of n completions repeats its prompt n times. Under causal attention the prompt's part of the computation is the
same in all of them. It is therefore done once, and the completions continue from the prompt's keys and values, through
which gradients flow back. With n = 8, a prompt of 40 tokens and completions of 10 tokens this takes 40 + 8 * 10 = 120
tokens instead of 8 * 50 = 400. The log-probabilities and gradients are those of the plain pass, up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dps_pyro.lm.inputs import forward_parameters, model_inputs, position_ids

__all__ = ["prompt_owners", "shared_logits", "shares_prompts"]

_NEEDED = frozenset({"past_key_values", "logits_to_keep", "position_ids"})
_MASKED = ("sdpa", "eager")  # attention that takes any mask: others expect padding on the left of a cache


def shares_prompts(model: nn.Module) -> bool:
    """Whether a model's completions can continue from a prompt that was computed once. The model has to be a causal LM
    of transformers whose layers all keep the keys and values of the whole sequence, and which attends by a mask. It
    must not recompute its activations, because gradient checkpointing drops the keys and values."""
    config: Any = getattr(model, "config", None)
    if config is None or not forward_parameters(model) >= _NEEDED:
        return False
    if getattr(model, "is_gradient_checkpointing", False) or config._attn_implementation not in _MASKED:
        return False
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=config)
    return len(cache.layers) > 0 and all(type(layer) is DynamicLayer for layer in cache.layers)


def prompt_owners(prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Find the rows that have the same prompt.

    Args:
        prompt_ids, prompt_mask: long and bool [B, P].

    Returns:
        `first`, long [D], one row for each of the D distinct prompts, and `owners`, long [B], the number of each row's
        prompt in 0..D - 1.
    """
    rows = torch.where(prompt_mask.bool(), prompt_ids, -1)
    distinct, owners = torch.unique(rows, dim=0, return_inverse=True)
    order = torch.arange(len(owners), device=owners.device)
    first = order.new_full((len(distinct),), len(owners)).scatter_reduce(0, owners, order, "amin")
    return first, owners


def shared_logits(
    model: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
) -> Tensor:
    """Compute the logits from which each completion token was drawn, with each distinct prompt computed once.

    Args:
        model: a model for which `shares_prompts` is true.
        prompt_ids, prompt_mask: long and bool [B, P], left-padded; at least one unmasked token per row.
        completion_ids, completion_mask: long and bool [B, C], right-padded.

    Returns:
        float [B, C, V].
    """
    from transformers import DynamicCache

    first, owners = prompt_owners(prompt_ids, prompt_mask)
    cache = DynamicCache(config=model.config)  # type: ignore[arg-type]
    ids, mask = prompt_ids[first], prompt_mask[first].long()
    inputs = model_inputs(model, ids, mask)
    out = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **inputs)
    begin: Tensor = out.logits[owners]
    if completion_ids.shape[1] == 1:
        return begin
    cache.batch_select_indices(owners)
    # The logits of the last token predict a token that was not drawn.
    known = torch.cat([prompt_mask, completion_mask[:, :-1]], 1).long()
    rest = model(
        input_ids=completion_ids[:, :-1],
        attention_mask=known,
        position_ids=position_ids(known)[:, prompt_ids.shape[1] :],
        past_key_values=cache,
        use_cache=True,
    )
    return torch.cat([begin, rest.logits], 1)
