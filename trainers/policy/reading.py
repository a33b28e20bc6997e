"""The policy's own reading of the prompts: what it makes of a problem before it has written a word.

One forward pass over every prompt gives the hidden state at its last token, which is what the completion starts from,
and how likely the policy finds the prompt's own words. Reduced to a few components they are features for models that
regress on features (`Siblings`, `Covariate`): a prompt that was never rolled out then has an informed belief, as far as
the policy's state tells whether it will succeed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dps_pyro.lm.inputs import Query, model_inputs
from dps_pyro.lm.logprobs import token_logprobs
from dps_pyro.support import checks

__all__ = ["principal", "read_prompts", "reading_features"]

TOKENS = 4096
"""Prompt tokens a forward pass, padding included: logits of all of them are held at once."""


def reading_features(
    policy: nn.Module, tokenizer: Any, texts: Sequence[str | Query], components: int
) -> dict[str, list[float]]:
    """Features of prompts, name -> one number a prompt: "reading 1", "reading 2", ... are the principal components of
    their last hidden states, "reading logp" the mean log-probability of their tokens but the first.

    Args:
        policy: a causal language model.
        tokenizer: its tokenizer.
        texts: the prompts as the policy reads them, chat template included, without images.
        components: how many, from 1 to the smaller of the number of prompts and of hidden units.

    Raises:
        ValueError: a prompt has images or no tokens, or there are too many components.
        FloatingPointError: the policy's hidden states are not finite.
    """
    states, logps = read_prompts(policy, tokenizer, texts)
    columns = principal(states, components)
    named = {f"reading {k + 1}": columns[:, k].tolist() for k in range(components)}
    return {**named, "reading logp": logps.tolist()}


@torch.no_grad()
def read_prompts(policy: nn.Module, tokenizer: Any, texts: Sequence[str | Query]) -> tuple[Tensor, Tensor]:
    """float32 [N, D], the hidden state at each prompt's last token after the last layer, and float32 [N], the mean
    log-probability in nats of its tokens but the first (0 for a prompt of one token); on the CPU.

    Raises:
        ValueError: a prompt has images or no tokens.
        FloatingPointError: they are not finite.
    """
    if any(isinstance(text, Query) and text.images for text in texts):
        raise ValueError("read_prompts: expected prompts without images, got some with")
    plain = [text.text if isinstance(text, Query) else text for text in texts]
    ids: list[list[int]] = getattr(tokenizer, "tokenizer", tokenizer)(plain)["input_ids"]
    if not all(ids):
        raise ValueError("read_prompts: expected prompts with tokens, got an empty one")
    device = next(policy.parameters()).device
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))  # about the same length together: little padding
    states: dict[int, Tensor] = {}
    logps: dict[int, Tensor] = {}
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        while order:
            count = max(1, TOKENS // len(ids[order[0]]))
            while count > 1 and count * len(ids[order[min(count, len(order)) - 1]]) > TOKENS:
                count -= 1
            batch, order = order[:count], order[count:]
            width = len(ids[batch[-1]])
            tokens = torch.tensor([[0] * (width - len(ids[row])) + ids[row] for row in batch], device=device)
            mask = torch.tensor([[False] * (width - len(ids[row])) + [True] * len(ids[row]) for row in batch])
            mask = mask.to(device)
            out: Any = policy(
                input_ids=tokens,
                attention_mask=mask.long(),
                output_hidden_states=True,
                use_cache=False,
                **model_inputs(policy, tokens, mask),
            )
            told = token_logprobs(out.logits[:, :-1], tokens[:, 1:]).masked_fill(~(mask[:, :-1] & mask[:, 1:]), 0.0)
            mean = told.sum(1) / (mask.sum(1) - 1).clamp_min(1)
            for place, row in enumerate(batch):
                states[row] = out.hidden_states[-1][place, -1].float().cpu()
                logps[row] = mean[place].float().cpu()
    finally:
        for module, training in modes:
            module.training = training
    hidden = torch.stack([states[row] for row in range(len(ids))])
    likely = torch.stack([logps[row] for row in range(len(ids))])
    if not bool(hidden.isfinite().all() and likely.isfinite().all()):
        raise FloatingPointError("the policy's hidden states: expected finite numbers, got NaN or infinity")
    return hidden, likely


def principal(states: Tensor, components: int) -> Tensor:
    """float64 [N, components], the principal components of the rows of `states` [N, D], the largest first, each of mean
    0 and standard deviation 1 (0 where there is no more variance). The sign of each is such that the row farthest from
    0 is positive, so that the same states give the same numbers on every machine.

    Raises:
        ValueError: there are more components than rows or columns.
    """
    components = checks.count("components", components, 1, min(states.shape))
    centred = states.double() - states.double().mean(0)
    left, strengths, _ = torch.linalg.svd(centred, full_matrices=False)
    columns = left[:, :components] * len(states) ** 0.5
    negligible = strengths[:components] <= strengths[0] * 1e-10
    columns = columns.masked_fill(negligible | (strengths[0] == 0), 0.0)
    farthest = columns.abs().argmax(0)
    signs = columns.gather(0, farthest[None])[0].sign()
    found: Tensor = columns * torch.where(signs == 0, 1.0, signs)
    return found
