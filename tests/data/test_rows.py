"""Rows become examples: every shape that is documented, and a reason for each that is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.rows import ColumnNames, normalised, prompt_key, question_key, read_row
from potstill.errors import DataError
from potstill.types import Message


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_the_last_assistant_message_is_the_gold_and_all_before_it_the_prompt() -> None:
    row = chat(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", " d "))
    example = read_row({**row, "meta": {"id": "x-1", "source": "sgd"}}, "train.jsonl:7")
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "user"]
    assert (example.gold, example.id, example.source) == (" d ", "x-1", "train.jsonl:7")
    assert example.meta == {"id": "x-1", "source": "sgd"}


def test_a_chat_that_ends_with_the_user_has_no_gold() -> None:
    example = read_row(chat(("user", "a")), "f:1")
    assert example.gold is None
    assert example.messages == (Message("user", "a"),)


@pytest.mark.parametrize("prompt", ["prompt", "question"])
@pytest.mark.parametrize("gold", ["completion", "response", "answer"])
def test_prompt_and_completion_and_their_synonyms(prompt: str, gold: str) -> None:
    example = read_row({prompt: "a", gold: "b", "system": "s", "topic": "t"}, "f:1")
    assert example.messages == (Message("system", "s"), Message("user", "a"))
    assert example.gold == "b"
    assert example.meta == {"topic": "t"}


def test_columns_named_in_the_job_hold_what_it_says() -> None:
    row = {"Frage": "a", "Antwort": "b", "Nr": 7, "Rolle": None, "prompt": "not this"}
    example = read_row(row, "f:1", ColumnNames("Frage", "Antwort", "Rolle", "Nr"))
    assert (example.messages, example.gold, example.id) == ((Message("user", "a"),), "b", "7")
    assert example.meta == {"Nr": 7, "prompt": "not this"}


def test_numbers_in_an_answer_column_and_parts_of_text_are_text() -> None:
    assert read_row({"prompt": "2 + 2", "completion": 4}, "f:1").gold == "4"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read_row(chat(("user", parts)), "f:1").messages[0].content == "ab"


def test_messages_and_meta_may_be_json_in_a_cell() -> None:
    cells = {"messages": json.dumps(chat(("user", "a"), ("assistant", "b"))["messages"]), "meta": '{"id": "q"}'}
    example = read_row(cells, "f:1")
    assert (example.gold, example.id, example.meta) == ("b", "q", {"id": "q"})
    assert read_row({"prompt": '{"looks": "like json"}'}, "f:1").messages[0].content == '{"looks": "like json"}'


def test_a_prompt_and_a_completion_may_be_lists_of_messages() -> None:
    row = {"prompt": chat(("system", "s"), ("user", "a"))["messages"], "completion": chat(("assistant", "b"))["messages"]}
    example = read_row(row, "f:1")
    assert (len(example.messages), example.gold) == (2, "b")


def test_json_in_a_cell_that_could_not_be_written_again_stays_text() -> None:
    for cell in ('{"a":' * 900 + "1" + "}" * 900, '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": "\\ud800"}'):
        example = read_row({"prompt": "a", "meta": cell}, "f:1")
        assert example.meta == {"meta": cell}
        assert json.dumps(example.as_dict())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(("bot", "a")), "wrong role: message 1 has the role 'bot'; allowed: system, user, assistant"),
        (chat(("assistant", "a")), "wrong order: message 1 is from 'assistant' where 'user' must speak"),
        (chat(("system", "s"), ("user", "a"), ("user", "b")), "wrong order: message 3 is from 'user'"),
        (chat(("user", "a"), ("system", "s")), "wrong order: message 2 is from 'system'"),
        (chat(("system", "s")), "wrong order: there is a system message and nothing after it"),
        (chat(("user", " \n")), "empty message: message 1, from 'user', has no text"),
        (chat(("user", "a"), ("assistant", " ")), "empty answer"),
        ({"prompt": "a", "completion": ""}, "empty answer"),
        (chat(("user", "a"), ("assistant", ""), ("user", "b")), "empty message: message 2"),
        (chat(("user", None)), "not text: the content of message 1 is null"),
        (chat(("user", True)), "not text: the content of message 1 is bool"),
        (chat(("user", [{"type": "image_url"}])), "not text: the content of message 1 is list"),
        ({"messages": []}, "empty message: the list of messages is empty"),
        ({"messages": "hello"}, "missing keys: 'messages' must be a list"),
        ({"messages": [{"role": "user"}]}, "missing keys: message 1 must be an object with 'role' and 'content'"),
        ({"text": "a"}, "missing keys: a row needs 'messages' or 'prompt', this one has 'text'"),
        ({"prompt": None}, "empty message: the column 'prompt' has no value"),
        ({}, "missing keys"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read_row(row, "f:1")
    assert str(caught.value).startswith(reason)


def test_a_named_column_that_is_missing_is_told_with_those_there_are() -> None:
    with pytest.raises(DataError, match="missing keys: the column 'gold' is not in the row, which has 'q', 'a'"):
        read_row({"q": "x", "a": "y"}, "f:1", ColumnNames("q", "gold"))


def test_ids_follow_the_content_where_a_row_has_none_of_its_own() -> None:
    first = read_row({"prompt": "Where is it?", "completion": "Here"}, "a:1")
    same = read_row({"question": " where  IS it? ", "answer": "here"}, "b:9")
    other = read_row({"prompt": "Where is it?", "completion": "There"}, "a:1")
    assert first.id == same.id != other.id
    assert len({read_row({"prompt": "x", "id": own}, "f:1").id for own in (True, [], "", "i" * 300)}) == 1


def test_the_system_message_counts_for_the_prompt_and_not_for_the_question() -> None:
    plain, told = (Message("user", "a"),), (Message("system", "s"), Message("user", "A "))
    assert prompt_key(plain) != prompt_key(told)
    assert question_key(plain) == question_key(told)


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["messages", "prompt", "completion", "system", "meta", "id", "x"]),
        JSON
        | st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": JSON}), max_size=4
        ),
    )
)
def test_any_row_is_an_example_or_a_reason(row: dict[str, Any]) -> None:
    try:
        example = read_row(row, "f:1")
    except DataError:
        return
    assert example.id
    assert example.messages[-1].role == "user"
    assert all(message.content.strip() for message in example.messages)
    assert example.gold is None or example.gold.strip()
