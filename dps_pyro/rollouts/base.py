"""What a rollout engine takes and gives back; `transformers.py` holds an engine in this process."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dps_pyro.lm.inputs import Query

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: the logits are divided by `temperature`, cut to `top_k`, then to `top_p`.

    Args:
        max_new_tokens: the most tokens of a completion, end-of-sequence included, >= 1.
        temperature: >= 0; 0 is greedy decoding.
        top_p: in (0, 1]; keep the smallest set of tokens with at least this probability; 1 keeps all.
        top_k: >= 0; keep the k likeliest tokens; 0 keeps all.

    Raises:
        ValueError: a value is out of its range.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"expected max_new_tokens >= 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"expected a finite temperature >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"expected top_p in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"expected top_k >= 0 (0 keeps all tokens), got {self.top_k}")


def group_sizes(n: int | Sequence[int], prompts: int) -> list[int]:
    """The number of completions for each of the prompts: `n`, or a number of its own.

    Raises:
        ValueError: there are not as many numbers as prompts, or one is below 1.
    """
    sizes = [n] * prompts if isinstance(n, int) else [int(size) for size in n]
    if len(sizes) != prompts or any(size < 1 for size in sizes):
        raise ValueError(f"expected n >= 1, or one such number for each of {prompts} prompts, got {n}")
    return sizes


def queries(prompts: Sequence[str | Query], n: int | Sequence[int] = 1, *, sees: bool = False) -> list[Query]:
    """The prompts of a call to `RolloutEngine.generate`, checked; a string is a query without images.

    Args:
        prompts: at least one.
        n: completions per prompt, at least 1, or one such number for each prompt.
        sees: whether the engine's model takes images.

    Raises:
        ValueError: there are no prompts, n < 1, a single prompt came in place of a sequence, a prompt is neither a
            string nor a `Query`, or one has images and the model takes none.
    """
    if isinstance(prompts, str | Query) or len(prompts) == 0 or (isinstance(n, int) and n < 1):
        one = isinstance(prompts, str | Query)
        got = f"the single prompt {prompts!r}" if one else f"{len(prompts)} prompts"
        raise ValueError(f"expected a sequence of at least one prompt, and n >= 1; got {got} and n = {n}")
    group_sizes(n, len(prompts))
    asked = [Query(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    for place, query in enumerate(asked):
        if not isinstance(query, Query):
            raise ValueError(f"expected prompts that are strings or Query, got {query!r} as prompt {place}")
        if query.images and not sees:
            raise ValueError(
                f"expected prompts without images, since the model reads text alone; got {len(query.images)} with "
                f"prompt {place}: images need a vision-language model and its processor"
            )
    return asked


class Rollouts(NamedTuple):
    """Completions of prompts, in R = prompts * n rows (or the sum of the group sizes, if each prompt has its own). The
    completions of a prompt are adjacent, in the order of the prompts.

    `logprobs` are those of the distribution that a token was *drawn from*: after temperature, top-k and top-p. They
    are what an importance ratio divides by, and equal the policy's own if only a temperature was used and
    the loss uses the same one. Greedy decoding does not draw: its log-probabilities are the model's, at temperature 1.
    """

    prompt_ids: Tensor  # long [R, P], left-padded
    prompt_mask: Tensor  # bool [R, P]
    completion_ids: Tensor  # long [R, C], right-padded; C is the longest completion's length
    completion_mask: Tensor  # bool [R, C]; True for every sampled token up to and including end-of-sequence
    logprobs: Tensor  # float32 [R, C], nats; 0 where masked
    finish: list[str]  # R of "stop" (end-of-sequence was drawn) or "length" (max_new_tokens were)
    texts: list[str]  # R decoded completions without special tokens
    vision: tuple[Mapping[str, Tensor], ...] | None = None  # R; what the processor made of each row's images, for
    # the model's forward beside the ids; an empty mapping where a row has no image, None where no row has any

    def select(self, rows: Tensor) -> Rollouts:
        """The given rows (long [S], or bool [R]) in their order, e.g. those of the groups that carry a signal."""
        index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        picked = index.tolist()
        index = index.to(self.prompt_ids.device)
        return Rollouts(
            prompt_ids=self.prompt_ids[index],
            prompt_mask=self.prompt_mask[index],
            completion_ids=self.completion_ids[index],
            completion_mask=self.completion_mask[index],
            logprobs=self.logprobs[index],
            finish=[self.finish[i] for i in picked],
            texts=[self.texts[i] for i in picked],
            vision=None if self.vision is None else tuple(self.vision[i] for i in picked),
        )


class EngineError(RuntimeError):
    """The engine broke down, or returned something that cannot be trained on. It must not be used again."""


class RolloutEngine(Protocol):
    """Draws completions from the current policy."""

    def generate(
        self, prompts: Sequence[str | Query], n: int | Sequence[int], sampling: Sampling, *, seed: int
    ) -> Rollouts:
        """Draw n completions of each prompt, or the number in n for each prompt. The result depends only on `seed`, and
        the global random generator does not change.

        Raises:
            ValueError: a prompt has images, and the engine's model takes none.
        """
        ...

    def sync(self, policy: nn.Module) -> None:
        """Make the engine sample from the present weights of `policy`. Call it after each optimizer step."""
        ...


@runtime_checkable
class Sleeps(Protocol):
    """An engine that can release its memory until it is used or synced again."""

    def sleep(self) -> None:
        """Give it back."""
        ...


@contextmanager
def closing(engine: RolloutEngine) -> Iterator[RolloutEngine]:
    """Close the engine at the end of the block, however the block ends, if it has something to close, such as
    processes."""
    try:
        yield engine
    finally:
        close = getattr(engine, "close", None)
        if close is not None:
            close()


def concatenate(batches: Sequence[Rollouts]) -> Rollouts:
    """Several batches as one, padded to the widest."""
    return Rollouts(
        prompt_ids=_stack([batch.prompt_ids for batch in batches], left=True),
        prompt_mask=_stack([batch.prompt_mask for batch in batches], left=True),
        completion_ids=_stack([batch.completion_ids for batch in batches], left=False),
        completion_mask=_stack([batch.completion_mask for batch in batches], left=False),
        logprobs=_stack([batch.logprobs for batch in batches], left=False),
        finish=[reason for batch in batches for reason in batch.finish],
        texts=[text for batch in batches for text in batch.texts],
        vision=None
        if all(batch.vision is None for batch in batches)
        else tuple(row for batch in batches for row in batch.vision or ({},) * len(batch.texts)),
    )


def _stack(parts: Sequence[Tensor], *, left: bool) -> Tensor:
    width = max(part.shape[1] for part in parts)
    pads = [(width - part.shape[1], 0) if left else (0, width - part.shape[1]) for part in parts]
    return torch.cat([torch.nn.functional.pad(part, pad) for part, pad in zip(parts, pads, strict=True)])
