"""What a policy reads of a prompt: chat templates, and the places of images."""

from __future__ import annotations

from typing import Any, Literal

from transformers import (
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from dps_pyro.rollouts import Query
from dps_pyro.tasks import Prompt
from dps_pyro.trainers.policy.processors import Reader

__all__ = ["query", "render"]


def render(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    system: str | None = None,
    prompt_format: Literal["auto", "chat", "raw"] = "auto",
) -> str:
    """What the policy reads: the prompt in the tokenizer's chat template ("chat"), as it is ("raw"), or in the template
    where there is one ("auto"). A task's system prompt becomes the first message; raw, it goes before the prompt, with
    an empty line between.

    A template that writes the beginning-of-sequence token (Llama 3, Gemma, Mistral) loses it where the tokenizer adds
    one of its own, as engines have it do: the policy was never trained on two.

    Raises:
        ValueError: "chat" is wanted, and the tokenizer has no template.
    """
    if prompt_format == "chat" and tokenizer.chat_template is None:
        raise ValueError("prompt_format: expected a tokenizer with a chat template for 'chat', got one without")
    if prompt_format == "raw" or tokenizer.chat_template is None:
        return text if system is None else f"{system}\n\n{text}"
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": text})
    shown = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return _one_beginning(tokenizer, shown)


_PLACE = "<image>"
"""The place of an image in a prompt's text, as in published data sets."""


def query(
    reader: Reader, prompt: Prompt, system: str | None = None, prompt_format: Literal["auto", "chat", "raw"] = "auto"
) -> str | Query:
    """What the policy reads of a prompt: text as `render` has it, and images in the places that the text gives them, or
    before the text where it gives none.

    Raises:
        ValueError: the places are not as many as the images, the policy takes no images, or "chat" is wanted and there
            is no template.
    """
    if not isinstance(reader, ProcessorMixin):
        if prompt.images:
            raise ValueError(
                f"model: expected a vision-language model for prompts with images ({prompt.id!r}), got a model of text"
            )
        return render(reader, prompt.text, system, prompt_format)
    pieces = prompt.text.split(_PLACE)
    if len(pieces) == 1 and prompt.images:
        pieces = [*[""] * len(prompt.images), prompt.text]
    if len(pieces) != len(prompt.images) + 1:
        raise ValueError(
            f"expected one {_PLACE} an image in prompt {prompt.id!r}, got {len(pieces) - 1} with {len(prompt.images)}"
            " images"
        )
    tokenizer: PreTrainedTokenizerBase = reader.tokenizer
    template = reader.chat_template
    if prompt_format == "chat" and template is None:
        raise ValueError("prompt_format: expected a processor with a chat template for 'chat', got one without")
    if prompt_format == "raw" or template is None:
        shown = str(reader.image_token).join(pieces)  # type: ignore[attr-defined]  # of a processor of images
        return Query(shown if system is None else f"{system}\n\n{shown}", prompt.images)
    parts: list[dict[str, str]] = []
    for place, piece in enumerate(pieces):
        parts += [{"type": "image"}] if place else []
        parts += [{"type": "text", "text": piece}] if piece else []
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    shown = str(reader.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return Query(_one_beginning(tokenizer, shown), prompt.images)


def _one_beginning(tokenizer: PreTrainedTokenizerBase, shown: str) -> str:
    """Without the beginning-of-sequence token, where both the template and the tokenizer write one."""
    bos = tokenizer.bos_token
    if bos and shown.startswith(bos) and tokenizer(shown)["input_ids"][:2] == [tokenizer.bos_token_id] * 2:
        return shown.removeprefix(bos)
    return shown
