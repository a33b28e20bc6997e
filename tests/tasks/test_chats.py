"""Prompts that are conversations: what is read, how a chat template writes them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engines.chat import chat_model
from transformers import AutoTokenizer

from dps_pyro.policies.embedded import EMBEDDED
from dps_pyro.tasks import Math, Prompt
from dps_pyro.tasks.chats import chat_of
from dps_pyro.trainers.policy.chat import query, render

USER = {"role": "user", "content": "1 + 1 ="}
SYSTEM = {"role": "system", "content": "Add."}
SHOT = [{"role": "user", "content": "2 + 2 ="}, {"role": "assistant", "content": "4"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(chat_model(tmp_path_factory.mktemp("chat")))


@pytest.fixture(scope="module")
def plain() -> Any:
    return AutoTokenizer.from_pretrained(EMBEDDED["math"])


@pytest.mark.parametrize(
    ("value", "before", "text"),
    [
        ([USER], [], "1 + 1 ="),
        ([SYSTEM, *SHOT, USER], [SYSTEM, *SHOT], "1 + 1 ="),
        ([{"from": "human", "value": "q"}], [], "q"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], [], "ab"),
        ('[{"role": "user", "content": "q"}]', [], "q"),
    ],
)
def test_lists_of_messages_are_read(value: Any, before: list[Any], text: str) -> None:
    found = chat_of(value)
    assert found is not None and (list(found.before), found.text) == (before, text)


@pytest.mark.parametrize("value", ["a problem", "[1, 2]", "[{x}]", ["a", "b"], [], 7, None, [{"a": 1}]])
def test_what_is_no_conversation_is_left_alone(value: Any) -> None:
    assert chat_of(value) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (str([USER]), "got the text that Python prints for them"),
        ([USER, {"role": "assistant", "content": "2"}], "whose last message is the user's, got one of the assistant"),
        ([{"role": "tool", "content": "2"}], "expected messages of system, user and assistant, got one of 'tool'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "got a content of other parts"),
    ],
)
def test_conversations_that_cannot_be_used_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chat_of(value)
    with pytest.raises(ValueError, match=message):
        Math.from_records([{"prompt": value, "answer": "2"}])


def test_an_answer_at_the_end_is_left_out_where_it_is_one() -> None:
    found = chat_of([USER, {"role": "assistant", "content": "2"}], answered=True)
    assert found is not None and found.text == "1 + 1 ="


def test_the_template_writes_the_whole_conversation(tokenizer: Any) -> None:
    prompt = Prompt.of_chat("a", [SYSTEM, *SHOT, USER], "2")
    assert prompt.text == "1 + 1 ="
    assert query(tokenizer, prompt) == "<system>Add.<user>2 + 2 =<assistant>4<user>1 + 1 =<assistant>"
    assert query(tokenizer, prompt, "Think.") == "<system>Think.<user>2 + 2 =<assistant>4<user>1 + 1 =<assistant>"
    assert query(tokenizer, Prompt.of_chat("b", [USER], "2")) == "<user>1 + 1 =<assistant>"


def test_without_a_template_one_message_is_read_and_more_are_refused(plain: Any, tokenizer: Any) -> None:
    assert query(plain, Prompt.of_chat("a", [USER], "2")) == "1 + 1 ="
    assert query(plain, Prompt.of_chat("a", [SYSTEM, USER], "2")) == "Add.\n\n1 + 1 ="
    prompt = Prompt.of_chat("a", [*SHOT, USER], "2")
    with pytest.raises(ValueError, match="a chat template for prompts that are conversations of 3 messages, got"):
        query(plain, prompt)
    with pytest.raises(ValueError, match="conversations of 3 messages, got prompt_format: raw"):
        query(tokenizer, prompt, prompt_format="raw")


def test_a_template_that_refuses_the_messages_is_told(tokenizer: Any) -> None:
    kept = tokenizer.chat_template
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    try:
        with pytest.raises(ValueError, match="takes, got system, user: no system messages"):
            render(tokenizer, "q", "s")
    finally:
        tokenizer.chat_template = kept


def test_the_text_of_a_prompt_is_text() -> None:
    with pytest.raises(ValueError, match=r"the text of prompt 'a' to be a string, got a list: Prompt.of_chat takes"):
        Prompt("a", [USER], "2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected messages with a role and a content in prompt 'a'"):
        Prompt.of_chat("a", [], "2")
    with pytest.raises(ValueError, match="expected messages with a role and a content before prompt 'a'"):
        Prompt("a", "q", "2", before=({"role": "user"},))


def test_the_same_question_in_another_conversation_is_another_prompt() -> None:
    records = [{"prompt": messages, "answer": "2"} for messages in ([USER], [SYSTEM, USER], [*SHOT, USER], [USER])]
    records += [{"prompt": "1 + 1 =", "answer": "2"}]
    task = Math.from_records(records, [])
    assert len(task.prompts("train")) == 3
    assert [len(prompt.before) for prompt in task.prompts("train")] == [0, 1, 2]
