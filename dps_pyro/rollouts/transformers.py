"""Rollouts with a Hugging Face model in this process.

The decoding loop is written out rather than left to `model.generate`, for four reasons that matter to RL:

- *speed*: `generate` keeps computing rows that have finished until the last one has, and prefills a prompt once per
  completion. Here finished rows leave the batch and the n completions of a prompt share one prefill;
- *reproducibility*: row r at step t is decided by one uniform number of the call's own generator, so that the draws
  do not depend on how the rows are split into batches (up to rounding in the model), and the global RNG is not used;
- *log-probabilities*: those of the tokens as drawn, after temperature, top-k and top-p, of one step at a time;
- *the policy itself*: `generate` silently mixes in what a checkpoint's `generation_config.json` says (a repetition
  penalty of 1.05 in Qwen 2.5, top-k 50 by default); nothing here comes from it but the end-of-sequence ids.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from dps_pyro.lm.inputs import Query, barred_tokens, forward_parameters, model_inputs
from dps_pyro.rollouts.base import Rollouts, Sampling, group_sizes, queries
from dps_pyro.rollouts.tokens import context_length, encode_queries, eos_ids, pad_id
from dps_pyro.support.extras import needed

needed("transformers")

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    _Warper = Callable[[Any, Any], Tensor]  # (ids so far, logits) -> logits


class TransformersEngine:
    """A `RolloutEngine` that samples from the policy module itself: there is no second copy, and nothing to sync.

    Args:
        model: a decoder-only causal LM with a key-value cache, or a vision-language model around one. Kept in its own
            dtype, on its own device.
        tokenizer: its tokenizer, or a vision-language model's processor; special tokens are added as it defines. It
            needs no pad token and is not changed.
        batch_size: the most rows decoded together; None decodes all at once. Bounds memory, not the result.
        frozen: sample from a copy of the model, which `sync` renews: for drawing while the model is updated.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | ProcessorMixin,
        *,
        batch_size: int | None = None,
        frozen: bool = False,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"expected batch_size >= 1 or None, got {batch_size}")
        self.frozen = frozen
        self.model = copy.deepcopy(model).requires_grad_(False) if frozen else model
        self.processor = tokenizer if isinstance(tokenizer, ProcessorMixin) else None
        reader: Any = tokenizer
        self.tokenizer: PreTrainedTokenizerBase = getattr(reader, "tokenizer", reader)
        self.batch_size = batch_size
        self._eos = eos_ids(model, self.tokenizer)
        self._barred = barred_tokens(model)
        self._known = forward_parameters(model)  # a model without positions (ALiBi, say) takes none
        self._pad = pad_id(self.tokenizer, self._eos)

    def generate(
        self, prompts: Sequence[str | Query], n: int | Sequence[int], sampling: Sampling, *, seed: int
    ) -> Rollouts:
        """Draw n completions of each prompt.

        Args:
            prompts: strings, with the chat template already applied if there is one, or with their images `Query`;
                duplicates are fine.
            n: completions per prompt, >= 1, or one such number for each prompt.
            sampling: see `Sampling`.
            seed: decides the draws, together with the weights, the prompts, n and the sampling.

        Returns:
            `Rollouts` on the model's device, ordinary tensors (usable in autograd), without gradient.

        Raises:
            ValueError: no prompts, n < 1, a prompt without tokens, one that leaves no room for max_new_tokens in the
                model's context, or images for a model of text.
            FloatingPointError: the model's logits are not finite.
        """
        ids, mask, vision = self._tokenize(
            queries(prompts, n, sees=self.processor is not None), sampling.max_new_tokens
        )
        sizes = torch.tensor(group_sizes(n, len(prompts)), device=ids.device)
        rows = torch.arange(len(prompts), device=ids.device).repeat_interleave(sizes)  # the prompt of each row
        # On the CPU, whatever the model's device, so that a seed means the same everywhere; below 1 for `_draw`.
        generator = torch.Generator().manual_seed(seed)
        uniforms = torch.rand(len(rows), sampling.max_new_tokens, dtype=torch.float64, generator=generator)
        uniforms = uniforms.clamp_(max=1 - 2**-32).to(ids.device)

        size = self.batch_size or len(rows)
        # Not inference_mode: its tensors cannot be saved for backward, and these are trained on.
        with _evaluating(self.model), torch.no_grad():
            parts = [
                self._decode(ids, mask, vision, chunk, chunk_uniforms, sampling)
                for chunk, chunk_uniforms in zip(torch.split(rows, size), torch.split(uniforms, size), strict=True)
            ]
        completions = _Completions(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        if not bool(completions.logprobs.isfinite().all()):
            raise FloatingPointError("the policy's logits: expected finite numbers, got NaN or infinity")
        seen = tuple(vision[row] for row in rows.tolist()) if any(vision) else None
        return self._rollouts(ids[rows], mask[rows], completions, seen)

    def sync(self, policy: nn.Module) -> None:
        """Check that `policy` is the module sampled from; its weights are shared, so there is nothing to copy. A frozen
        copy takes over the policy's weights.

        Raises:
            ValueError: it is another module. Build a new engine for it, or load its weights into this one's model.
        """
        if self.frozen:
            self.model.load_state_dict(policy.state_dict())
        elif policy is not self.model:
            raise ValueError(
                "expected the module that this engine was built with, got another "
                f"{type(policy).__name__}: an in-process engine samples from the policy itself and copies no weights"
            )

    def _tokenize(self, asked: Sequence[Query], max_new_tokens: int) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
        """Left-padded ids (long) and mask (bool), [prompts, longest], and what each prompt's images became."""
        reader = self.tokenizer if self.processor is None else self.processor
        encoded, vision = encode_queries(reader, asked, context_length(self.model), max_new_tokens)
        width = max(map(len, encoded))
        ids = torch.tensor([[self._pad] * (width - len(t)) + t for t in encoded], device=self.model.device)
        mask = torch.tensor([[False] * (width - len(t)) + [True] * len(t) for t in encoded], device=self.model.device)
        return ids, mask, vision

    def _decode(
        self,
        ids: Tensor,
        mask: Tensor,
        vision: Sequence[dict[str, Tensor]],
        rows: Tensor,
        uniforms: Tensor,
        sampling: Sampling,
    ) -> _Completions:
        """Complete the prompts `rows` (long [B], ascending) of `ids`; the tensors are `max_new_tokens` wide."""
        first, last = int(rows[0]), int(rows[-1]) + 1
        attention = mask[first:last].long()
        inputs = model_inputs(self.model, ids[first:last], attention, vision[first:last])
        logits, cache = self._forward(ids[first:last], attention, None, inputs)

        # From here on one row per completion: the n completions of a prompt go on from its one prefill.
        spread = rows - first
        cache.batch_select_indices(spread)
        logits, attention = logits[spread], attention[spread]
        positions = inputs.get("position_ids")  # [B, T], or [3, B, T] where image tokens lie on a grid
        positions = None if positions is None else positions[..., spread, -1:]

        out = _Completions.empty(len(rows), sampling.max_new_tokens, self._pad, ids.device)
        eos = torch.tensor(self._eos, dtype=torch.long, device=ids.device)
        warpers = _warpers(sampling)
        alive = torch.arange(len(rows), device=ids.device)  # rows of `out` still being written
        for step in range(sampling.max_new_tokens):
            tokens, logprobs = _draw(logits, uniforms[alive, step], warpers)
            stopped = torch.isin(tokens, eos)
            out.ids[alive, step], out.mask[alive, step] = tokens, True
            out.logprobs[alive, step], out.stopped[alive] = logprobs, stopped
            if step + 1 == sampling.max_new_tokens:
                break
            if stopped.any():
                going = (~stopped).nonzero()[:, 0]
                if len(going) == 0:
                    break
                cache.batch_select_indices(going)
                alive, tokens, attention = (x[going] for x in (alive, tokens, attention))
                positions = None if positions is None else positions[..., going, :]
            attention = torch.cat([attention, attention.new_ones(len(alive), 1)], 1)
            positions = None if positions is None else positions + 1
            inputs = {} if positions is None else {"position_ids": positions}
            logits, cache = self._forward(tokens[:, None], attention, cache, inputs)
        return out

    def _forward(self, ids: Tensor, attention: Tensor, cache: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """Next-token logits, float32 [B, V], and the cache grown by `ids` (a new one of the model's kind for None)."""
        keep = {"logits_to_keep": 1} if "logits_to_keep" in self._known else {}
        out = self.model(
            input_ids=ids, attention_mask=attention, past_key_values=cache, use_cache=True, **keep, **inputs
        )
        logits = out.logits[:, -1].float()
        logits[:, self._barred] = -torch.inf  # a token that stands for an image is no answer
        return logits, out.past_key_values

    def _rollouts(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        completions: _Completions,
        vision: tuple[dict[str, Tensor], ...] | None,
    ) -> Rollouts:
        lengths = completions.mask.sum(1)
        width = int(lengths.max())
        stopped = completions.stopped.tolist()
        # An end-of-sequence id need not be among the tokenizer's special ones: leave it out by its place.
        visible = (lengths - completions.stopped.long()).tolist()
        tokens = [row[:length] for row, length in zip(completions.ids.tolist(), visible, strict=True)]
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Rollouts(
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            completion_ids=completions.ids[:, :width],
            completion_mask=completions.mask[:, :width],
            logprobs=completions.logprobs[:, :width],
            finish=["stop" if stop else "length" for stop in stopped],
            texts=texts,
            vision=vision,
        )


class _Completions(NamedTuple):
    """Completions of B rows, `max_new_tokens` wide."""

    ids: Tensor  # long [B, C]
    mask: Tensor  # bool [B, C]
    logprobs: Tensor  # float32 [B, C]
    stopped: Tensor  # bool [B]

    @staticmethod
    def empty(rows: int, width: int, pad: int, device: torch.device) -> _Completions:
        return _Completions(
            ids=torch.full((rows, width), pad, device=device),
            mask=torch.zeros(rows, width, dtype=torch.bool, device=device),
            logprobs=torch.zeros(rows, width, device=device),
            stopped=torch.zeros(rows, dtype=torch.bool, device=device),
        )


def _warpers(sampling: Sampling) -> list[_Warper] | None:
    """The library's own warpers in its own order, or None for greedy decoding."""
    if sampling.temperature == 0:
        return None
    warpers: list[_Warper] = []
    if sampling.temperature != 1:
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k > 0:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


def _draw(logits: Tensor, uniforms: Tensor, warpers: list[_Warper] | None) -> tuple[Tensor, Tensor]:
    """One token a row and its log-probability, from logits float32 [B, V] and uniforms float64 [B] in [0, 1).

    Inverse transform sampling: the token is the first whose cumulative probability exceeds the row's uniform number.
    The sums are float64, so that a large vocabulary's tail is not lost; `right=True` never lands on a token of
    probability zero.
    """
    if warpers is None:
        tokens = logits.argmax(-1)
        return tokens, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    for warp in warpers:
        logits = warp(None, logits)  # they look at the scores alone, not at the ids so far
    logprobs = logits.log_softmax(-1)
    cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
    tokens = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    tokens = tokens.clamp(max=logits.shape[-1] - 1)  # NaN is past the end; `generate` will say so
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule is back in its own mode (a frozen part may be in eval)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
