"""What a policy reads of a prompt: chat templates, and the places of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers import (
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from dps_pyro.rollouts import Query
from dps_pyro.tasks import Prompt
from dps_pyro.tasks.chats import Message
from dps_pyro.trainers.policy.processors import Reader

__all__ = ["query", "render"]

Format = Literal["auto", "chat", "raw"]
"""How prompts are written, see `render`."""


def render(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    system: str | None = None,
    prompt_format: Format = "auto",
    before: Sequence[Message] = (),
) -> str:
    """What the policy reads: the prompt in the tokenizer's chat template ("chat"), as it is ("raw"), or in the template
    where there is one ("auto"). A task's system prompt becomes the first message, in place of a conversation's own;
    raw, it goes before the prompt, with an empty line between.

    A template that writes the beginning-of-sequence token (Llama 3, Gemma, Mistral) loses it where the tokenizer adds
    one of its own, as engines have it do: the policy was never trained on two.

    Args:
        tokenizer: the policy's.
        text: the prompt, or a conversation's last message.
        system: the system prompt.
        prompt_format: how the prompt is written.
        before: the messages of the conversation before the last one.

    Raises:
        ValueError: "chat" is wanted, and the tokenizer has no template; there is no template, or it is not to be used,
            and the prompt is a conversation of several turns; or the template refuses the messages.
    """
    turns, system = _turns(before, system)
    if prompt_format == "chat" and tokenizer.chat_template is None:
        raise ValueError("prompt_format: expected a tokenizer with a chat template for 'chat', got one without")
    if prompt_format == "raw" or tokenizer.chat_template is None:
        _require_single(turns, prompt_format)
        return text if system is None else f"{system}\n\n{text}"
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [*turns, {"role": "user", "content": text}]
    return _one_beginning(tokenizer, _templated(tokenizer, messages))


def _turns(before: Sequence[Message], system: str | None) -> tuple[list[dict[str, str]], str | None]:
    """The turns of a conversation without its system message, and the system message that counts: the task's or the
    user's where there is one."""
    turns = [dict(message) for message in before]
    if turns and turns[0]["role"] == "system":
        own = turns.pop(0)["content"]
        system = own if system is None else system
    return turns, system


def _require_single(turns: Sequence[Message], prompt_format: Format) -> None:
    """Refuse a conversation of several turns where nothing writes them down."""
    if turns:
        got = "prompt_format: raw" if prompt_format == "raw" else "one without"
        raise ValueError(
            f"prompt_format: expected a model with a chat template for prompts that are conversations of "
            f"{len(turns) + 1} messages, got {got}"
        )


def _templated(reader: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """The messages in the chat template, up to where the policy's answer begins."""
    from jinja2 import TemplateError

    try:
        return str(reader.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"prompt_format: expected messages that the model's chat template takes, got {roles}: {error}"
        ) from error


_PLACE = "<image>"
"""The place of an image in a prompt's text, as in published data sets."""


def query(reader: Reader, prompt: Prompt, system: str | None = None, prompt_format: Format = "auto") -> str | Query:
    """What the policy reads of a prompt: text as `render` has it, and images in the places that the text gives them, or
    before the text where it gives none.

    Raises:
        ValueError: the places are not as many as the images, the policy takes no images, "chat" is wanted and there is
            no template, or the prompt is a conversation that cannot be written down.
    """
    if not isinstance(reader, ProcessorMixin):
        if prompt.images:
            raise ValueError(
                f"model: expected a vision-language model for prompts with images ({prompt.id!r}), got a model of text"
            )
        return render(reader, prompt.text, system, prompt_format, prompt.before)
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
    turns, system = _turns(prompt.before, system)
    if prompt_format == "chat" and template is None:
        raise ValueError("prompt_format: expected a processor with a chat template for 'chat', got one without")
    if prompt_format == "raw" or template is None:
        _require_single(turns, prompt_format)
        shown = str(reader.image_token).join(pieces)  # type: ignore[attr-defined]  # of a processor of images
        return Query(shown if system is None else f"{system}\n\n{shown}", prompt.images)
    parts: list[dict[str, str]] = []
    for place, piece in enumerate(pieces):
        parts += [{"type": "image"}] if place else []
        parts += [{"type": "text", "text": piece}] if piece else []
    said = [*([] if system is None else [{"role": "system", "content": system}]), *turns]
    messages: list[dict[str, Any]] = [
        {"role": one["role"], "content": [{"type": "text", "text": one["content"]}]} for one in said
    ]
    messages.append({"role": "user", "content": parts})
    return Query(_one_beginning(tokenizer, _templated(reader, messages)), prompt.images)


def _one_beginning(tokenizer: PreTrainedTokenizerBase, shown: str) -> str:
    """Without the beginning-of-sequence token, where both the template and the tokenizer write one."""
    bos = tokenizer.bos_token
    if bos and shown.startswith(bos) and tokenizer(shown)["input_ids"][:2] == [tokenizer.bos_token_id] * 2:
        return shown.removeprefix(bos)
    return shown
