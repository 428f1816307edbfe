from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from typing import Any

import pytest
from chat_server import KEY, ChatServer

from potstill.contracts import Requests
from potstill.errors import JobError, TeacherError
from potstill.plugins import load_plugin
from potstill.types import Message, Reply, Request, Sampling

PASSING = ["429", "429 without a header", "500", "503", "reset", "html", "half", "string", "error with 200", "no choices", "null"]


def _teacher(server: ChatServer | str, **fields: Any) -> Any:
    url = server if isinstance(server, str) else server.url
    return load_plugin("teachers", {"kind": "openai_api", "base_url": url, "model": "big", "backoff_s": 0.01, **fields})


def _ask(teacher: Any, questions: Iterable[str]) -> dict[str, Reply]:
    async def collect() -> dict[str, Reply]:
        requests = (Request(q, (Message("system", "Be kind."), Message("user", q)), Sampling(max_tokens=9)) for q in questions)
        return {request.example_id: reply async for request, reply in teacher.answers(Requests(requests))}

    return asyncio.run(collect())


def test_a_good_reply_carries_text_tokens_cost_and_time() -> None:
    with ChatServer() as server:
        teacher = _teacher(server, input_per_million=10, output_per_million=100, extra={"stop": ["#"], "top_p": None})
        reply = _ask(teacher, ["hello there"])["hello there"]
    assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("HELLO THERE", "stop", 2, 2)
    assert reply.cost_usd == pytest.approx((2 * 10 + 2 * 100) / 1e6)
    assert reply.latency_s is not None
    assert reply.latency_s > 0
    assert (reply.attempts, reply.error) == (1, None)
    assert server.bodies[0] == {
        "model": "big",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello there"}],
        "max_tokens": 9,
        "temperature": 0.0,
        "stop": ["#"],
    }


@pytest.mark.parametrize("fault", [*PASSING, "blank", "not utf-8"])
def test_a_passing_fault_is_asked_again(fault: str) -> None:
    with ChatServer(faults={"bad": [fault, fault]}) as server:
        replies = _ask(_teacher(server), ["good", "bad"])
    assert {name: reply.text for name, reply in replies.items()} == {"good": "GOOD", "bad": "BAD"}
    assert (replies["bad"].attempts, server.asked["bad"], server.asked["good"]) == (3, 3, 1)
    came_whole = fault in ("no choices", "null", "blank")  # a server that knows the key would send the same again
    keys = {headers["Idempotency-Key"] for headers in server.headers}
    assert len(keys) == (4 if came_whole else 2)


@pytest.mark.parametrize("fault", [fault for fault in PASSING if fault != "429"])
def test_a_fault_that_stays_fails_its_row_alone(fault: str) -> None:
    with ChatServer(faults={"bad": [f"always {fault}"]}) as server:
        replies = _ask(_teacher(server, max_attempts=3), ["bad", *map(str, range(30))])
    assert len(replies) == 31
    times = 12 if fault in ("429 without a header", "503") else 3  # that a server is busy counts a quarter
    assert (replies["bad"].text, replies["bad"].attempts, server.asked["bad"]) == ("", times, times)
    assert replies["bad"].error
    assert [name for name, reply in replies.items() if reply.error] == ["bad"]


def test_a_server_that_never_answers_in_time_fails_the_row() -> None:
    with ChatServer(faults={"bad": ["always slow"]}) as server:
        replies = _ask(_teacher(server, max_attempts=2, timeout_s=0.2), ["good", "bad"])
    assert replies["good"].text == "GOOD"
    assert replies["bad"].error == "no answer within 0.2 s"


def test_retry_after_is_honoured() -> None:
    with ChatServer(faults={"busy": ["429"]}) as server:
        start = time.monotonic()
        assert _ask(_teacher(server), ["busy"])["busy"].text == "BUSY"
        assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize(("fault", "attempts"), [("400", 1), ("thought too long", 1)])
def test_what_asking_again_cannot_help_is_asked_once(fault: str, attempts: int) -> None:
    with ChatServer(faults={"bad": [f"always {fault}"]}) as server:
        replies = _ask(_teacher(server), ["good", "bad"])
    assert replies["good"].error is None
    assert replies["bad"].error
    assert server.asked["bad"] == attempts


def test_half_a_character_is_replaced_so_that_the_text_can_be_written() -> None:
    with ChatServer(faults={"odd": ["half a character"]}) as server:
        assert _ask(_teacher(server), ["odd"])["odd"].text == "fine ?"


def test_a_cut_answer_keeps_its_finish_reason() -> None:
    with ChatServer(faults={"long": ["cut"]}) as server:
        assert _ask(_teacher(server), ["long"])["long"].finish_reason == "length"


@pytest.mark.parametrize(
    ("fault", "says"), [("quota", "add credit"), ("403", "api_key"), ("404", "base_url or model"), ("redirect", "redirects")]
)
def test_what_no_row_can_overcome_stops_the_job_at_once(fault: str, says: str) -> None:
    with ChatServer(faults={str(n): [f"always {fault}"] for n in range(50)}) as server:
        with pytest.raises(TeacherError, match=says):
            _ask(_teacher(server, max_concurrency=2), map(str, range(50)))
        assert sum(server.asked.values()) <= 4


def test_a_wrong_key_stops_the_job_and_is_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTSTILL_TEST_KEY", "sk-not-the-right-one")
    with ChatServer(wanted_key=KEY) as server:
        teacher = _teacher(server, api_key="env:POTSTILL_TEST_KEY")
        with pytest.raises(TeacherError, match="POTSTILL_TEST_KEY") as caught:
            _ask(teacher, ["hello"])
        assert "not-the-right" not in str(caught.value)
        assert "not-the-right" not in str(teacher.problems())
        assert "refuses access" in teacher.problems()[0]


def test_the_right_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTSTILL_TEST_KEY", KEY)
    with ChatServer(wanted_key=KEY) as server:
        teacher = _teacher(server, api_key="env:POTSTILL_TEST_KEY")
        assert teacher.problems() == []
        assert _ask(teacher, ["hello"])["hello"].text == "HELLO"
        assert KEY not in str(teacher.model_dump()) + str(teacher.identity())


def test_a_missing_key_is_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POTSTILL_TEST_KEY", raising=False)
    with ChatServer() as server:
        teacher = _teacher(server, api_key="env:POTSTILL_TEST_KEY")
        assert "POTSTILL_TEST_KEY is not set" in teacher.problems()[0]
        with pytest.raises(TeacherError, match="POTSTILL_TEST_KEY is not set"):
            _ask(teacher, ["hello"])
        assert not server.asked


@pytest.mark.parametrize("key", ["first-line\nsecret-line", "secret\u2019line"])
def test_a_key_that_no_header_takes_is_told_and_never_repeated(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("BROKEN_KEY", key)
    with ChatServer() as server:
        asked = _teacher(server, api_key="env:BROKEN_KEY")
        (problem,) = asked.problems()
        with pytest.raises(TeacherError) as told:
            _ask(asked, ["hello"])
    for sentence in (problem, str(told.value)):
        assert "BROKEN_KEY holds more than a key" in sentence
        assert "line" not in sentence.replace("a line break", "")


def test_nobody_there_stops_the_job() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    teacher = _teacher(url, max_attempts=2)
    assert "does not answer" in teacher.problems()[0]
    with pytest.raises(TeacherError, match="start the server"):
        _ask(teacher, ["hello", "there"])


def test_an_endpoint_that_only_fails_is_given_up_and_what_arrived_is_kept() -> None:
    faults = {str(n): ["always html"] for n in range(5, 200)}
    seen: list[str] = []

    async def collect(teacher: Any) -> None:
        requests = (Request(str(n), (Message("user", str(n)),)) for n in range(200))
        async for request, reply in teacher.answers(Requests(requests)):
            seen.extend([request.example_id] if reply.error is None else [])

    with ChatServer(faults=faults) as server:
        with pytest.raises(TeacherError, match="rows in a row"):
            asyncio.run(collect(_teacher(server, max_attempts=1, max_concurrency=4)))
        assert sorted(seen) == ["0", "1", "2", "3", "4"]
        assert sum(server.asked.values()) < 40


def test_concurrency_is_used_and_bounded() -> None:
    with ChatServer(delay_s=0.03) as server:
        replies = _ask(_teacher(server, max_concurrency=5), map(str, range(30)))
    assert len(replies) == 30
    assert server.most_at_once == 5


def test_requests_are_pulled_as_they_are_needed() -> None:
    pulled = []

    def questions() -> Iterable[str]:
        for n in range(100):
            pulled.append(n)
            yield str(n)

    async def first(teacher: Any) -> None:
        requests = (Request(q, (Message("user", q),)) for q in questions())
        answers = teacher.answers(Requests(requests))
        await anext(answers)
        await answers.aclose()

    with ChatServer() as server:
        asyncio.run(first(_teacher(server, max_concurrency=3)))
    assert len(pulled) <= 6


def test_cancelling_ends_at_once() -> None:
    async def cancelled(teacher: Any) -> float:
        async def consume() -> None:
            async for _ in teacher.answers(Requests([Request("a", (Message("user", "a"),))])):
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.1)
        start = time.monotonic()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return time.monotonic() - start

    with ChatServer(faults={"a": ["always slow"]}) as server:
        assert asyncio.run(cancelled(_teacher(server))) < 0.5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"api_key": "sk-clear-text-key"}, "env:NAME"),
        ({"base_url": "api.example.com/v1"}, "http://"),
        ({"base_url": "https://me:secret-word@example.com/v1"}, "no user, password or query"),
        ({"base_url": "https://example.com/v1?key=secret-word"}, "no user, password or query"),
    ],
)
def test_a_bad_field_is_refused_without_repeating_a_secret(fields: dict[str, str], says: str) -> None:
    settings = {"kind": "openai_api", "base_url": "http://127.0.0.1:1/v1", "model": "big", **fields}
    with pytest.raises(JobError, match=says) as caught:
        load_plugin("teachers", settings)
    assert "clear-text" not in str(caught.value)
    assert "secret-word" not in str(caught.value)


def test_problems_tell_a_web_page_from_an_api() -> None:
    with ChatServer(models_page="<html>Sign in</html>") as server:
        assert "not answer with JSON" in _teacher(server).problems()[0]


def test_a_server_without_a_list_of_models_is_no_problem() -> None:
    with ChatServer() as server:
        assert _teacher(server.url.replace("/v1", "/v2")).problems() == []


def test_one_server_that_is_well_is_enough() -> None:
    with ChatServer() as server:
        assert _teacher(server.url, base_url=["http://127.0.0.1:9/v1", server.url]).problems() == []
        both = _teacher(server.url, base_url=["http://127.0.0.1:9/v1", "http://127.0.0.1:9/v2"]).problems()
    assert ["does not answer" in problem for problem in both] == [True, True]
