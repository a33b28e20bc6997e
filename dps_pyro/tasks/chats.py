"""Prompts that are conversations: lists of messages, as data sets for chat models have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Chat", "Message", "chat_of"]

Message = Mapping[str, str]
"""A message: its ``role`` (``system``, ``user`` or ``assistant``) and its ``content``."""

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
"""The roles of messages, by the names that data sets give them."""

_LONGEST_JSON = 2**22
"""The longest text, in characters, that is tried as JSON."""


class Chat(NamedTuple):
    """A conversation that a policy is to answer.

    Attributes:
        before: The messages that go before the last one, in order: a system message, the turns so far.
        text: The content of the last message, which is the user's.
    """

    before: tuple[Message, ...]
    text: str


def chat_of(value: Any, *, answered: bool = False) -> Chat | None:
    """Read a value as a conversation.

    Args:
        value: A list of messages, each with ``role`` and ``content`` or with ``from`` and ``value``, or such a list as
            JSON in a text. A content may be a list of parts that are all of type ``text``.
        answered: Whether messages of the assistant at the end are the answer, which is left out. Otherwise the last
            message must be the user's.

    Returns:
        The conversation, or None where the value is no conversation.

    Raises:
        ValueError: The value is a conversation that cannot be used: it has images, a tool's messages or no message of
            the user at its end; or it is the text that Python prints for a list of messages.
    """
    if isinstance(value, str):
        value = _in_text(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        return None
    if not all(isinstance(message, Mapping) and _names(message) is not None for message in value):
        return None
    messages = [_message(message) for message in value]
    while answered and messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] != "user":
        last = messages[-1]["role"] if messages else "assistant"
        raise ValueError(f"expected a conversation whose last message is the user's, got one of the {last}")
    return Chat(tuple(messages[:-1]), messages[-1]["content"])


def _in_text(text: str) -> Any:
    """The list of messages that a text holds as JSON, or None."""
    start = text.lstrip()[:24].replace(" ", "")
    if start.startswith(("[{'role'", "[{'content'", "[{'from'", "[{'value'")):
        raise ValueError(
            "expected messages, got the text that Python prints for them, as a table of pandas has it in CSV: save the "
            "data as Parquet or as JSON lines"
        )
    if not start.startswith("[{") or len(text) > _LONGEST_JSON:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # a problem that begins with these brackets


def _names(message: Mapping[str, Any]) -> tuple[str, str] | None:
    """The names under which a message has its role and its content."""
    for role, content in (("role", "content"), ("from", "value")):
        if isinstance(message.get(role), str) and (content in message or "ground_truth" in message):
            return role, content
    return None


def _message(message: Mapping[str, Any]) -> dict[str, str]:
    role_name, content_name = _names(message) or ("role", "content")
    role = _ROLES.get(message[role_name])
    if role is None:
        raise ValueError(f"expected messages of system, user and assistant, got one of {message[role_name]!r}")
    return {"role": role, "content": _content(message.get(content_name))}


def _content(value: Any) -> str:
    """A message's content as one text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, Sequence) else [value]
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"expected messages of text, got a content of other parts: {value!r:.60}")
    return "".join(map(str, texts))
