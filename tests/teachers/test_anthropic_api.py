from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from messages_server import KEY, MessagesServer

from potstill.contracts import Requests
from potstill.errors import JobError, TeacherError
from potstill.plugins import load_plugin
from potstill.types import Message, Reply, Request


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTSTILL_TEST_KEY", KEY)


def _teacher(url: str, **fields: Any) -> Any:
    settings = {"kind": "anthropic_api", "base_url": url, "model": "claude-sonnet-4-5", "api_key": "env:POTSTILL_TEST_KEY"}
    return load_plugin("teachers", {**settings, "backoff_s": 0.01, **fields})


def _ask(teacher: Any, questions: Iterable[str], **more: Any) -> dict[str, Reply]:
    async def collect() -> dict[str, Reply]:
        asked = [Request(q, (Message("system", "Be kind."), Message("user", q)), teacher.sampling(9), **more) for q in questions]
        return {request.example_id: reply async for request, reply in teacher.answers(Requests(asked))}

    return asyncio.run(collect())


def test_a_request_has_the_system_prompt_as_its_own_field_and_the_key_in_its_own_header() -> None:
    with MessagesServer() as server:
        reply = _ask(_teacher(server.url, input_per_million=3, output_per_million=15, stop=["#"]), ["hello"])["hello"]
    assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("HELLO", "stop", 10, 5)
    assert reply.cost_usd == pytest.approx((10 * 3 + 5 * 15) / 1e6)
    assert server.bodies == [
        {
            "model": "claude-sonnet-4-5",
            "max_tokens": 9,
            "system": "Be kind.",
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 0.0,
            "stop_sequences": ["#"],
        }
    ]
    assert server.headers[0]["anthropic-version"] == "2023-06-01"
    assert "Authorization" not in server.headers[0]


def test_several_system_messages_are_one_and_a_conversation_keeps_its_turns() -> None:
    turns = (
        Message("system", "One."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("system", "Two."),
        Message("user", "Bye"),
    )

    async def ask(teacher: Any) -> list[Reply]:
        return [reply async for _, reply in teacher.answers(Requests([Request("row", turns)]))]

    with MessagesServer() as server:
        assert asyncio.run(ask(_teacher(server.url)))[0].text == "BYE"
    assert server.bodies[0]["system"] == "One.\n\nTwo."
    assert [turn["role"] for turn in server.bodies[0]["messages"]] == ["user", "assistant", "user"]


def test_a_schema_is_asked_for_as_the_output_format_beside_the_users_own_settings() -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    with MessagesServer() as server:
        teacher = _teacher(server.url, extra={"output_config": {"effort": "low"}})
        _ask(teacher, ["hello"], schema=json.dumps(schema))
    assert server.bodies[0]["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}


@pytest.mark.parametrize(
    ("fault", "text", "reason"),
    [
        ("thought", "HELLO", "stop"),
        ("stopped", "HELLO", "stop"),
        ("cut", "HALF", "length"),
        ("refusal", "I cannot", "content_filter"),
    ],
)
def test_stop_reasons_are_told_in_our_words_and_thoughts_are_no_answer(fault: str, text: str, reason: str) -> None:
    with MessagesServer(faults={"hello": [fault]}) as server:
        reply = _ask(_teacher(server.url), ["hello"])["hello"]
    assert (reply.text, reply.finish_reason, reply.error) == (text, reason, None)


def test_cached_tokens_are_counted_and_paid_at_their_own_price() -> None:
    with MessagesServer(faults={"hello": ["cached"]}) as server:
        reply = _ask(_teacher(server.url, input_per_million=1, output_per_million=10), ["hello"])["hello"]
    assert reply.prompt_tokens == 10 + 200 + 1000
    assert reply.cost_usd == pytest.approx((10 + 1.25 * 100 + 2 * 100 + 0.1 * 1000 + 10 * 5) / 1e6)


@pytest.mark.parametrize("fault", ["429", "529", "500", "empty", "no blocks"])
def test_a_passing_fault_is_asked_again(fault: str) -> None:
    with MessagesServer(faults={"bad": [fault, fault]}) as server:
        replies = _ask(_teacher(server.url), ["good", "bad"])
    assert {name: reply.text for name, reply in replies.items()} == {"good": "GOOD", "bad": "BAD"}
    assert (replies["bad"].attempts, server.asked["bad"], server.asked["good"]) == (3, 3, 1)


def test_a_prompt_that_is_too_long_fails_its_row_alone() -> None:
    with MessagesServer(faults={"bad": ["always 400"]}) as server:
        replies = _ask(_teacher(server.url), ["bad", "good"])
    assert replies["good"].text == "GOOD"
    assert "prompt is too long" in str(replies["bad"].error)
    assert server.asked["bad"] == 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("404", "knows no such model"),
        ("403", "POTSTILL_TEST_KEY"),
        ("no credit", "add credit"),
        ("own limit", "add credit"),
        ("tier limit", "add credit"),
    ],
)
def test_what_no_row_can_overcome_stops_the_job_at_once(fault: str, says: str) -> None:
    with MessagesServer(faults={str(n): [f"always {fault}"] for n in range(30)}) as server:
        with pytest.raises(TeacherError, match=says):
            _ask(_teacher(server.url, max_concurrency=2), map(str, range(30)))
        assert sum(server.asked.values()) <= 4


def test_a_wrong_key_stops_the_job_and_is_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTSTILL_TEST_KEY", "sk-ant-not-the-right-one")
    with MessagesServer() as server:
        teacher = _teacher(server.url)
        with pytest.raises(TeacherError, match="POTSTILL_TEST_KEY") as caught:
            _ask(teacher, ["hello"])
        assert "refuses access" in teacher.problems()[0]
        assert "not-the-right" not in str(caught.value) + str(teacher.problems()) + str(teacher.identity())


def test_check_finds_nothing_wrong_with_the_right_key_and_says_which_key_is_usual() -> None:
    with MessagesServer() as server:
        assert _teacher(server.url).problems() == []
        assert "env:ANTHROPIC_API_KEY" in _teacher(server.url, api_key=None).problems()[0]


def test_a_new_model_is_asked_without_temperature_and_counts_as_asked_at_1() -> None:
    with MessagesServer() as server:
        teacher = _teacher(server.url, model="claude-opus-5")
        assert _ask(teacher, ["hello"])["hello"].text == "HELLO"
    assert (teacher.temperature, teacher.sampling(9).temperature) == (1.0, 1.0)
    assert "temperature" not in server.bodies[0]
    assert server.bodies[0]["max_tokens"] == 9 + 8192  # it thinks before it answers


def test_top_p_alone_is_sent_where_a_model_takes_one_of_the_two() -> None:
    with MessagesServer() as server:
        teacher = _teacher(server.url, top_p=0.9)
        assert _ask(teacher, ["hello"])["hello"].text == "HELLO"
    assert (server.bodies[0]["top_p"], teacher.temperature) == (0.9, 1.0)


def test_an_old_model_takes_both() -> None:
    with MessagesServer() as server:
        _ask(_teacher(server.url, model="claude-3-haiku-20240307", temperature=0.5, top_p=0.9), ["hello"])
    assert (server.bodies[0]["temperature"], server.bodies[0]["top_p"]) == (0.5, 0.9)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": "claude-opus-5", "temperature": 0.7}, "refuses temperature"),
        ({"model": "claude-haiku-5-5", "top_p": 0.7}, "refuses temperature and top_p"),
        ({"temperature": 0.7, "top_p": 0.7}, "not both"),
        ({"model": "claude-3-haiku", "temperature": 1.5}, "between 0 and 1"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_a_setting_that_the_model_refuses_is_told_when_the_job_is_read(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError, match=says):
        _teacher("http://127.0.0.1:1/v1", **fields)


@pytest.mark.parametrize(
    ("fields", "room"),
    [
        ({"model": "claude-opus-5", "extra": {"thinking": {"type": "disabled"}}}, 0),
        ({"model": "claude-opus-5", "thinking_tokens": 100}, 100),
        ({"model": "claude-opus-4-8"}, 0),
    ],
)
def test_room_for_thoughts_is_the_users_choice(fields: dict[str, Any], room: int) -> None:
    assert _teacher("http://127.0.0.1:1/v1", **fields).sampling(9).max_tokens == 9 + room
