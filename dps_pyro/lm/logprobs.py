"""Log-probabilities of completions under a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dps_pyro.lm.inputs import barred_tokens, forward_parameters, model_inputs
from dps_pyro.lm.shared_prompts import shared_logits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["completion_logprobs", "token_logprobs"]

_CHUNK = 2**24  # logits per piece of `token_logprobs`: 64 MiB of float32


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0, barred: Sequence[int] = ()) -> Tensor:
    """Compute log softmax(logits / temperature) at the given tokens, without a [B, T, V] copy of log-probabilities.

    log p(token) = logit - logsumexp(logits) is computed piece by piece, in float32 whatever the dtype of the logits,
    because a bfloat16 log-probability near -10 is only exact to 0.03, a tenth of a clip range.

    Args:
        logits: float [B, T, V].
        tokens: long [B, T].
        temperature: > 0, the temperature at which the tokens were sampled.
        barred: ids that could not be sampled. The probabilities of the other ids add up to one.

    Returns:
        float32 (float64 for float64 logits) [B, T].
    """
    if temperature <= 0:
        raise ValueError(f"expected temperature > 0, got {temperature}: a greedy draw has no log-probability to train")
    rows = max(1, _CHUNK // max(1, logits.shape[1] * logits.shape[2]))
    pieces = []
    for piece, index in zip(torch.split(logits, rows), torch.split(tokens, rows), strict=True):
        scaled = piece.to(torch.promote_types(piece.dtype, torch.float32))
        scaled = scaled if temperature == 1.0 else scaled / temperature
        if barred:
            scaled = scaled.index_fill(-1, torch.tensor(barred, device=scaled.device), -torch.inf)
        pieces.append(scaled.gather(-1, index[..., None])[..., 0] - scaled.logsumexp(-1))
    return torch.cat(pieces)


def completion_logprobs(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    temperature: float = 1.0,
    *,
    vision: Sequence[Mapping[str, Tensor]] | None = None,
    share_prompts: bool = False,
) -> Tensor:
    """Compute the log-probability of every completion token under a causal language model.

    Position ids count unmasked tokens, so that padding on either side changes nothing. Logits are computed for the
    completion only, if the model's forward takes `logits_to_keep`. Tokens that stand for images are barred, as they
    are in rollouts. Gradients flow; call it under `torch.no_grad` for a reference model.

    Args:
        model: a Hugging Face style causal LM: `model(input_ids, attention_mask, ...).logits` is [B, T, V].
        prompt_ids: long [B, P], the tokens of the prompts, left-padded.
        prompt_mask: bool [B, P], which of them are tokens and not padding; at least one per row.
        completion_ids: long [B, C], the tokens of the completions, right-padded.
        completion_mask: bool [B, C], which of them are tokens and not padding.
        temperature: > 0, as in `token_logprobs`.
        vision: the vision of each of the B prompts (`Rollouts.vision`); None without images.
        share_prompts: compute once what rows with the same prompt share (`shared_prompts`). The model must support it,
            and the prompts must have no images.

    Returns:
        float32 [B, C]; 0 where `completion_mask` is False.
    """
    if share_prompts and vision is None:
        logits = shared_logits(model, prompt_ids, prompt_mask, completion_ids, completion_mask)
    else:
        ids = torch.cat([prompt_ids, completion_ids], 1)
        mask = torch.cat([prompt_mask, completion_mask], 1).long()
        length = completion_ids.shape[1]
        options = {"logits_to_keep": length + 1, "use_cache": False}
        known = forward_parameters(model)
        inputs: dict[str, object] = dict(model_inputs(model, ids, mask, vision))
        inputs |= {name: value for name, value in options.items() if name in known}
        logits = model(input_ids=ids, attention_mask=mask, **inputs).logits
        # The logits at a position predict the next one: drop the last, keep the `length` before it.
        logits = logits[:, -length - 1 : -1]
    logprobs = token_logprobs(logits, completion_ids, temperature, barred_tokens(model))
    return logprobs.masked_fill(~completion_mask.bool(), 0.0)
