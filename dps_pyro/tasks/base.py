"""What a task is: prompts with stable ids, and a reward that can be verified.

A trainer, a replay or a user's own loop needs three things of a task, and `Task` names them: a `name`, the prompts of a
split, and the reward of one completion of one prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload, runtime_checkable

from dps_pyro.tasks.chats import Message, chat_of

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Prompt:
    """One problem.

    Attributes:
        id: The prompt's name. It is made from the problem's content alone, so that it never changes.
        text: The text that the policy sees, before any chat template.
        answer: What the reward needs. The policy never sees it.
        features: What is known about the problem before any rollout, e.g. ``{"operands": 3}``.
        images: The images that the policy sees beside the text, in the order of the text's ``<image>`` placeholders;
            without any placeholder the images come before the text.
        before: The messages of a conversation that go before the text, each with a ``role`` and a ``content``. The
            text is then the user's last message. `of_chat` makes both from a list of messages.

    Raises:
        ValueError: The text is no string, or `before` is no sequence of messages.
    """

    id: str
    text: str
    answer: Any
    features: Mapping[str, float | str] = field(default_factory=dict)
    images: tuple[Image, ...] = field(default=(), repr=False)
    before: tuple[Message, ...] = ()

    def __post_init__(self) -> None:
        text: object = self.text
        if not isinstance(text, str):
            kind = type(text).__name__
            raise ValueError(
                f"expected the text of prompt {self.id!r} to be a string, got a {kind}: Prompt.of_chat takes a list of "
                "messages"
            )
        for message in self.before:
            if not all(isinstance(message.get(name), str) for name in ("role", "content")):
                raise ValueError(
                    f"expected messages with a role and a content before prompt {self.id!r}, got {message!r:.60}"
                )

    @classmethod
    def of_chat(
        cls,
        id: str,  # noqa: A002 - as the field is called
        messages: Sequence[Message],
        answer: Any,
        features: Mapping[str, float | str] | None = None,
    ) -> Prompt:
        """Make a prompt from a conversation, whose last message is the user's.

        Raises:
            ValueError: There are no messages, or they are not of text (`dps_pyro.tasks.chats.chat_of`).
        """
        chat = chat_of(messages)
        if chat is None:
            raise ValueError(f"expected messages with a role and a content in prompt {id!r}, got {messages!r:.60}")
        return cls(id, chat.text, answer, dict(features or {}), before=chat.before)

    def __hash__(self) -> int:
        return hash(self.id)  # answers and features need not be hashable, and images are not


class PromptSet(Sequence[Prompt]):
    """An immutable sequence of prompts with distinct ids. A slice of it is a `PromptSet` again.

    Raises:
        ValueError: Two prompts have the same id.
    """

    __slots__ = ("_ids", "_prompts")

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        self._prompts = tuple(prompts)
        self._ids = tuple(prompt.id for prompt in self._prompts)
        if len(set(self._ids)) != len(self._ids):
            seen: set[str] = set()
            repeated = next(i for i in self._ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise ValueError(f"expected prompts with distinct ids, got {repeated!r} more than once")

    @property
    def ids(self) -> tuple[str, ...]:
        """The prompts' ids, in order."""
        return self._ids

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> PromptSet: ...
    def __getitem__(self, index: int | slice) -> Prompt | PromptSet:
        return PromptSet(self._prompts[index]) if isinstance(index, slice) else self._prompts[index]

    def __len__(self) -> int:
        return len(self._prompts)

    def __eq__(self, other: object) -> bool:
        return self._prompts == other._prompts if isinstance(other, PromptSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._ids)

    def __repr__(self) -> str:
        few = ", ".join(map(repr, self._ids[:3]))
        return f"PromptSet({len(self)} prompts: {few}{', ...' if len(self) > 3 else ''})"


def split_of(splits: Mapping[str, PromptSet], split: str) -> PromptSet:
    """Return a task's prompts of `split`.

    Raises:
        ValueError: There is no such split.
    """
    if split not in splits:
        raise ValueError(f"expected split {' or '.join(map(repr, splits))}, got {split!r}")
    return splits[split]


def feature_columns(prompts: Sequence[Prompt]) -> dict[str, list[float] | list[str]]:
    """The features that all of the prompts have, as columns: each name with one number or one string per prompt."""
    names = [name for name in prompts[0].features if all(name in prompt.features for prompt in prompts)]
    columns: dict[str, list[float] | list[str]] = {}
    for name in names:
        column = [prompt.features[name] for prompt in prompts]
        words = any(isinstance(value, str) for value in column)
        columns[name] = [str(value) for value in column] if words else [float(value) for value in column]
    return columns


class Reward(NamedTuple):
    """What one completion earned.

    Attributes:
        value: The reward, from 0.0 to 1.0.
        reason: A few stable words that metrics count, e.g. ``"correct"`` or ``"wrong value"``.
    """

    value: float
    reason: str


@runtime_checkable
class Task(Protocol):
    """A set of problems with verifiable rewards.

    A task may have more: `system`, a system prompt (str) for chat templates; `groups`, the name of the feature that
    tells most of a prompt's difficulty; and `rewards(prompts, completions)`, which judges many completions at once
    (see `judge`).
    """

    @property
    def name(self) -> str:
        """A short name, e.g. ``"countdown"``."""
        ...

    def prompts(self, split: str) -> PromptSet:
        """The prompts of `split`, the same on every call."""
        ...

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        """Judge one completion.

        It never evaluates the completion as code, never raises on any string, and is bounded in time and memory.
        """
        ...


def judge(task: Task, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward]:
    """Judge completions, each of the prompt in its place, by the task's `rewards` or else one by one.

    Raises:
        ValueError: There are not as many completions as prompts.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"expected one completion per prompt, got {len(completions)} of {len(prompts)} prompts")
    if (together := getattr(task, "rewards", None)) is not None:
        return list(together(prompts, completions))
    return [task.reward(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
