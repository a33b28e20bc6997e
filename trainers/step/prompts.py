"""Which of a task's prompts a run uses: those that leave room for a completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dps_pyro.rollouts.tokens import context_length
from dps_pyro.tasks import Prompt, PromptSet, Task
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.step.groups import shown

__all__ = ["fitting", "prompt_limit"]


def prompt_limit(config: TrainConfig, policy: Any, engine: Any = None) -> int | None:
    """The most tokens of a prompt: `max_prompt_tokens`, or what the model's context, or a vLLM engine's shorter one
    (`--max-model-len`, the server's own), leaves beside a whole completion; None if nothing limits it.

    Raises:
        ValueError: the context leaves no room for a prompt.
    """
    contexts = context_length(policy), getattr(engine, "context", None)
    context = min((context for context in contexts if context is not None), default=None)
    bounds = [] if config.task.max_prompt_tokens is None else [config.task.max_prompt_tokens]
    if context is not None:
        bounds.append(context - config.sampling.max_new_tokens)
        if bounds[-1] < 1:
            raise ValueError(f"max_new_tokens: expected fewer than the model's context of {context}, got "
                             f"{config.sampling.max_new_tokens}")  # fmt: skip
    return min(bounds, default=None)


def fitting(
    task: Task, split: str, tokenizer: Any, config: TrainConfig, limit: int | None, say: Callable[[str], None]
) -> PromptSet:
    """The prompts of a split with at most `limit` tokens, chat template included; `say` is told how many are left out.

    Raises:
        ValueError: none is short enough.
    """
    prompts = task.prompts(split)
    if limit is None:
        return prompts
    texts = [getattr(text, "text", text) for text in shown(tokenizer, task, prompts, config)]
    lengths = [len(ids) for ids in getattr(tokenizer, "tokenizer", tokenizer)(texts)["input_ids"]]
    kept: list[Prompt] = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= limit]
    if not kept:
        raise ValueError(f"max_prompt_tokens: expected {split} prompts of at most {limit}, got {min(lengths)} and more")
    if len(kept) < len(prompts):
        out = len(prompts) - len(kept)
        say(f"{out:,} of {len(prompts):,} {split} prompts are longer than {limit:,} tokens, and are left out.")
        return PromptSet(kept)
    return prompts
