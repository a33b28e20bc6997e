"""What every engine does with tokens: prompts in, completions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from dps_pyro.lm.inputs import Query
from dps_pyro.lm.inputs import encode as encode_images
from dps_pyro.rollouts.base import Rollouts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

__all__ = ["Completion", "check_lengths", "context_length", "encode", "encode_queries", "eos_ids", "pack", "pad_id"]


class Completion(NamedTuple):
    """One completion as an engine returns it."""

    tokens: Sequence[int]  # at least one, end-of-sequence included where it was drawn
    logprobs: Sequence[float]  # of each token, nats
    finish: str  # "stop" or "length"


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a completion: the checkpoint's (a chat model may have several) and the tokenizer's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({int(i) for i in [*listed, tokenizer.eos_token_id] if i is not None})


def pad_id(tokenizer: PreTrainedTokenizerBase, eos: Sequence[int]) -> int:
    """An id to pad with. Padding is masked everywhere, so that any id serves a tokenizer that has none."""
    return next(int(i) for i in (tokenizer.pad_token_id, *eos, 0) if i is not None)


def context_length(model: PreTrainedModel) -> int | None:
    """The most tokens of prompt and completion together that a model was made for; None if it does not say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int | None, max_new_tokens: int
) -> list[list[int]]:
    """The prompts' token ids, special tokens added as the tokenizer defines.

    Raises:
        ValueError: a prompt has no tokens, or leaves no room for `max_new_tokens` more within `limit`.
    """
    encoded: list[list[int]] = tokenizer(list(texts))["input_ids"]
    check_lengths(encoded, texts, limit, max_new_tokens)
    return encoded


def encode_queries(
    reader: PreTrainedTokenizerBase | ProcessorMixin, asked: Sequence[Query], limit: int | None, max_new_tokens: int
) -> tuple[list[list[int]], list[dict[str, Tensor]]]:
    """The token ids of each prompt, images expanded, and what the images of each became (empty without any).

    Raises:
        ValueError: as `encode`, or a text does not hold a placeholder an image.
    """
    from transformers import ProcessorMixin

    if not isinstance(reader, ProcessorMixin):
        return encode(reader, [query.text for query in asked], limit, max_new_tokens), [{} for _ in asked]
    pairs = [encode_images(reader, query) for query in asked]
    longest = max(len(pair.ids) for pair in pairs)
    if limit is not None and longest + max_new_tokens > limit:
        raise ValueError(
            f"expected prompts of at most {limit - max_new_tokens} tokens, images included (a context of {limit} less"
            f" {max_new_tokens} new ones), got {longest}"
        )
    return [pair.ids for pair in pairs], [pair.vision for pair in pairs]


def check_lengths(
    encoded: Sequence[Sequence[int]], texts: Sequence[str], limit: int | None, max_new_tokens: int
) -> None:
    """Check that every prompt has tokens, and leaves room for `max_new_tokens` more within `limit`.

    Raises:
        ValueError: one does not; the message says which.
    """
    for i, (text, tokens) in enumerate(zip(texts, encoded, strict=True)):
        if not tokens:
            raise ValueError(f"expected prompts of at least one token, got none in prompt {i}: {text!r}")
        if limit is not None and len(tokens) + max_new_tokens > limit:
            raise ValueError(
                f"expected prompts of at most {limit - max_new_tokens} tokens (a context of {limit} less "
                f"{max_new_tokens} new ones), got {len(tokens)} in prompt {i}: {_shorten(text)}"
            )


def pack(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    tokenizer: PreTrainedTokenizerBase,
    pad: int,
    device: torch.device,
) -> Rollouts:
    """Rollouts of R rows from lists: `prompts` [R] and `completions` [R] in row order.

    Raises:
        FloatingPointError: a log-probability is not finite.
    """
    wide, long = max(map(len, prompts)), max(len(row.tokens) for row in completions)
    rows = len(completions)
    ids = torch.tensor([[pad] * (wide - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[False] * (wide - len(row)) + [True] * len(row) for row in prompts])
    tokens = torch.full((rows, long), pad)
    drawn = torch.zeros(rows, long, dtype=torch.bool)
    logprobs = torch.zeros(rows, long)
    for i, row in enumerate(completions):
        size = len(row.tokens)
        tokens[i, :size] = torch.tensor(row.tokens)
        logprobs[i, :size] = torch.tensor(row.logprobs)
        drawn[i, :size] = True
    if not bool(logprobs.isfinite().all()):
        raise FloatingPointError("the engine's log-probabilities: expected finite numbers, got NaN or infinity")
    # An end-of-sequence id need not be among the tokenizer's special ones: leave it out by its place.
    visible = [list(row.tokens)[: len(row.tokens) - (row.finish == "stop")] for row in completions]
    texts = tokenizer.batch_decode(visible, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Rollouts(
        prompt_ids=ids.to(device),
        prompt_mask=mask.to(device),
        completion_ids=tokens.to(device),
        completion_mask=drawn.to(device),
        logprobs=logprobs.to(device),
        finish=[row.finish for row in completions],
        texts=texts,
    )


def _shorten(text: str, width: int = 80) -> str:
    return repr(text if len(text) <= width else text[: width - 3] + "...")
