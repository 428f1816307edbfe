from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from chat_server import ANSWER_FAULTS, TRANSPORT_FAULTS, Chaos, ChatServer

from potstill.contracts import Requests
from potstill.errors import TeacherError
from potstill.plugins import load_plugin
from potstill.types import STOPPED, Message, Reply, Request


def _teacher(*urls: str, **fields: Any) -> Any:
    place = urls[0] if len(urls) == 1 else list(urls)
    return load_plugin("teachers", {"kind": "openai_api", "base_url": place, "model": "big", "backoff_s": 0.01, **fields})


def _requests(questions: Iterable[str]) -> Requests:
    return Requests(Request(question, (Message("user", question),)) for question in questions)


async def _replies(teacher: Any, requests: Requests) -> AsyncIterator[tuple[str, Reply]]:
    async for request, reply in teacher.answers(requests):
        yield request.example_id, reply


def _ask(teacher: Any, questions: Iterable[str] | Requests) -> dict[str, Reply]:
    async def collect() -> dict[str, Reply]:
        requests = questions if isinstance(questions, Requests) else _requests(questions)
        return {name: reply async for name, reply in _replies(teacher, requests)}

    return asyncio.run(collect())


def _free_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_every_row_through_a_hostile_server_has_its_answer_and_every_attempt_is_counted() -> None:
    chaos = Chaos(seed=3, share=0.4, faults=TRANSPORT_FAULTS)
    with ChatServer(chaos=chaos) as server:
        replies = _ask(_teacher(server.url), [f"row {n}" for n in range(300)])
    assert {name: reply.text for name, reply in replies.items()} == {f"row {n}": f"ROW {n}" for n in range(300)}
    assert sum(reply.attempts for reply in replies.values()) == server.asked.total()
    assert {name: reply.attempts for name, reply in replies.items()} == dict(server.asked)
    assert all(server.met[fault] for fault in TRANSPORT_FAULTS), server.met


def test_what_an_answer_says_is_for_others_to_judge() -> None:
    faults = {fault: [fault] for fault in ANSWER_FAULTS if fault != "blank"}
    with ChatServer(faults=faults) as server:
        replies = _ask(_teacher(server.url), faults)
    assert {name: reply.attempts for name, reply in replies.items()} == dict.fromkeys(faults, 1)
    assert all(reply.error is None and reply.text for reply in replies.values())


def test_the_window_finds_what_the_server_takes_and_no_row_is_lost() -> None:
    with ChatServer(most_allowed=20, delay_s=0.02) as server:
        replies = _ask(_teacher(server.url, max_concurrency=200), map(str, range(600)))
    assert all(reply.error is None for reply in replies.values())
    assert len(replies) == 600
    refused = server.met["over"]
    assert refused < 120, "blindly, 200 at once would be refused many hundred times"


def test_a_ceiling_is_reached_from_below() -> None:
    with ChatServer(delay_s=0.02) as server:
        _ask(_teacher(server.url, max_concurrency=64), map(str, range(400)))
    assert 16 < server.most_at_once <= 64


def test_requests_a_minute_are_kept_to() -> None:
    with ChatServer() as server:
        start = time.monotonic()
        _ask(_teacher(server.url, max_requests_per_minute=1200), map(str, range(12)))
        assert time.monotonic() - start >= 11 * 60 / 1200 - 0.1


def test_tokens_a_minute_are_kept_to_and_learn_from_the_replies() -> None:
    def timed(url: str, tokens: int | None) -> float:
        start = time.monotonic()
        assert len(_ask(_teacher(url, max_tokens_per_minute=tokens), map(str, range(6)))) == 6
        return time.monotonic() - start

    with ChatServer(delay_s=0.1) as server:  # each may take 256 tokens, a quarter of a second's worth, and takes 3
        timed(server.url, 60 * 1000)
        assert server.most_at_once == 1, "the next may go when the reply has told how little it was"
        assert timed(server.url, 60 * 100) < 6 * 2.5
        timed(server.url, None)
        assert server.most_at_once == 6


def test_a_server_that_tells_its_limit_is_not_asked_more() -> None:
    headers = {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "400ms",
    }
    with ChatServer(headers_sent=headers) as server:
        start = time.monotonic()
        _ask(_teacher(server.url, max_concurrency=1), "abc")
        assert 0.3 <= time.monotonic() - start < 5
    assert server.asked.total() == 3


def test_a_clock_that_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + (86_400 if int(real() * 50) % 2 else -86_400))
    with ChatServer(faults={"busy": ["429"]}) as server:
        start = time.monotonic()
        replies = _ask(_teacher(server.url), ["busy", *map(str, range(20))])
        assert 0.3 <= time.monotonic() - start < 5
    assert all(reply.error is None for reply in replies.values())


def test_a_slow_row_holds_up_no_other() -> None:
    with ChatServer(faults={"slow": ["slow"]}) as server:

        async def order() -> list[str]:
            requests = _requests(["slow", *map(str, range(100))])
            return [name async for name, _ in _replies(_teacher(server.url, max_concurrency=4), requests)]

        assert asyncio.run(order())[-1] == "slow"


def test_the_budget_is_asked_before_each_repeated_attempt() -> None:
    class Two(Requests):
        asked = 0

        def again(self, request: Request) -> bool:
            self.asked += 1
            return self.asked <= 2

    with ChatServer(faults={"bad": ["always 500"]}) as server:
        requests = Two([Request("bad", (Message("user", "bad"),))])
        reply = _ask(_teacher(server.url), requests)["bad"]
    assert (requests.asked, reply.attempts, server.asked["bad"]) == (3, 3, 3)
    assert reply.error == "HTTP 500: oops"


class Watched(Requests):
    """Remembers what the teacher tells of each attempt."""

    def __init__(self, questions: Iterable[str]) -> None:
        super().__init__(Request(question, (Message("user", question),)) for question in questions)
        self.told: dict[str, list[Reply]] = {}
        self.back: list[str] = []
        self.stop: Callable[[], None] = lambda: None

    def ended(self, request: Request, attempt: Reply) -> None:
        self.told.setdefault(request.example_id, []).append(attempt)

    def give_back(self, request: Request) -> None:
        self.back.append(request.example_id)

    def when_stopped(self, do: Callable[[], None]) -> None:
        self.stop = do


def test_costs_and_tokens_of_all_attempts_are_one() -> None:
    with ChatServer(faults={"dear one": ["blank", "503", "blank"]}) as server:
        teacher = _teacher(server.url, input_per_million=1e6, output_per_million=1e6)
        reply = _ask(teacher, ["dear one"])["dear one"]
    assert (reply.attempts, reply.error) == (4, None)
    assert (reply.prompt_tokens, reply.completion_tokens) == (2, 6), "two blanks of two tokens, one answer of two and two"
    assert reply.cost_usd == pytest.approx(2 + 6)


FREE = ("429", "429 soon", "503", "overloaded", "400", "404")
UNKNOWN = ("500", "half", "half a body", "reset", "html", "string", "error with 200", "no usage", "slow")


@pytest.mark.parametrize("fault", [*FREE, *UNKNOWN])
def test_only_what_was_refused_before_any_work_is_free(fault: str) -> None:
    requests = Watched(["good", "row"])
    with ChatServer(faults={"row": [fault]}) as server:
        fields = {"max_concurrency": 1, "max_attempts": 1, "timeout_s": 0.5, "input_per_million": 1e6, "output_per_million": 1e6}
        reply = _ask(_teacher(server.url, **fields), requests)["row"]
    (attempt,) = requests.told["row"][:1]
    if fault in FREE:
        assert (attempt.cost_usd, attempt.completion_tokens) == (0.0, None)
    else:
        assert (attempt.cost_usd, attempt.completion_tokens, reply.cost_usd) == (None, None, None)


def test_no_connection_is_free() -> None:
    requests = Watched(["row"])
    with pytest.raises(TeacherError, match="no connection"):
        _ask(_teacher(_free_url(), max_attempts=2), requests)
    assert {attempt.cost_usd for attempt in requests.told["row"]} == {0.0}


def test_a_time_out_stays_unknown_whatever_follows() -> None:
    requests = Watched(["row"])
    with ChatServer(faults={"row": ["429 soon", "slow"]}) as server:
        teacher = _teacher(server.url, timeout_s=0.5, input_per_million=1.0, output_per_million=1.0)
        reply = _ask(teacher, requests)["row"]
    assert (reply.text, reply.attempts, reply.completion_tokens, reply.cost_usd) == ("ROW", 3, 2, None)
    costs = [attempt.cost_usd for attempt in requests.told["row"]]
    assert costs == [0.0, None, pytest.approx(3e-6)]


def test_after_a_stop_what_is_under_way_arrives_and_what_waits_is_not_sent() -> None:
    class Stopping(Watched):
        def ended(self, request: Request, attempt: Reply) -> None:
            super().ended(request, attempt)
            if request.example_id == "broken":
                self.stop()

    requests = Stopping(["slow", "broken", *map(str, range(20))])
    with ChatServer(faults={"slow": ["slow"], "broken": ["always 500"]}, delay_s=0.01) as server:
        replies = _ask(_teacher(server.url, max_concurrency=2), requests)
        assert replies["slow"].text == "SLOW"
        assert (replies["broken"].finish_reason, replies["broken"].attempts) == (STOPPED, 1)
        assert server.asked.total() == sum(reply.attempts for reply in replies.values()) < 10
    assert not set(requests.back) & set(server.asked)


def test_requests_that_follow_answers_are_waited_for_and_a_stop_is_not() -> None:
    class Following(Requests):
        """The second request comes only after the first's answer; a third never."""

        def __init__(self) -> None:
            super().__init__(())
            self.ready = asyncio.Queue[Request | None]()
            self.ready.put_nowait(Request("one", (Message("user", "one"),)))

        def take(self) -> Request | None:
            return None

        async def __anext__(self) -> Request:
            request = await self.ready.get()
            if request is None:
                raise StopAsyncIteration
            return request

    async def walk(teacher: Any) -> list[str]:
        requests, seen = Following(), []
        async for name, reply in _replies(teacher, requests):
            seen.append(reply.text)
            requests.ready.put_nowait(Request("two", (Message("user", "two"),)) if name == "one" else None)
        return seen

    with ChatServer() as server:
        assert asyncio.run(walk(_teacher(server.url))) == ["ONE", "TWO"]
    with ChatServer(faults={"one": ["quota"]}) as server, pytest.raises(TeacherError, match="add credit"):
        asyncio.run(asyncio.wait_for(walk(_teacher(server.url)), 10))


def test_a_fault_of_ours_comes_out_as_it_is() -> None:
    class Broken(Requests):
        def take(self) -> Request | None:
            raise ZeroDivisionError

    with ChatServer() as server, pytest.raises(ZeroDivisionError):
        _ask(_teacher(server.url), Broken(()))


def test_several_servers_share_the_rows() -> None:
    with ChatServer(delay_s=0.01) as one, ChatServer(delay_s=0.01) as two:
        replies = _ask(_teacher(one.url, two.url, max_concurrency=8), map(str, range(200)))
    assert len(replies) == 200
    assert one.asked.total() + two.asked.total() == 200
    assert min(one.asked.total(), two.asked.total()) > 60


def test_the_faster_server_gets_more() -> None:
    with ChatServer(delay_s=0.005) as fast, ChatServer(delay_s=0.05) as slow:
        _ask(_teacher(fast.url, slow.url, max_concurrency=8), map(str, range(200)))
    assert fast.asked.total() > 2 * slow.asked.total()


def test_a_server_that_is_not_there_is_left_out_and_the_job_goes_on() -> None:
    with ChatServer() as server:
        replies = _ask(_teacher(_free_url(), server.url), map(str, range(50)))
    assert all(reply.error is None for reply in replies.values())
    assert server.asked.total() == 50


@pytest.mark.parametrize("fault", ["500", "reset", "html", "503"])
def test_a_server_that_fails_again_and_again_is_left_out_while_another_works(fault: str) -> None:
    always = Chaos(share=1.0, faults=(fault,), most=10**6)
    with ChatServer(chaos=always) as broken, ChatServer(delay_s=0.01) as server:
        replies = _ask(_teacher(broken.url, server.url, max_concurrency=4, backoff_s=0.2), map(str, range(150)))
    assert all(reply.error is None for reply in replies.values())
    assert broken.asked.total() < 40


def test_a_server_that_comes_back_is_asked_again() -> None:
    late = _free_url()
    port = int(late.split(":")[2].split("/")[0])
    answered: Counter[str] = Counter()

    async def serve_later(stop: threading.Event) -> None:
        await asyncio.sleep(0.3)
        app = web.Application()

        async def chat(request: web.Request) -> web.Response:
            answered["late"] += 1
            return web.json_response({"choices": [{"message": {"content": "late"}, "finish_reason": "stop"}]})

        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        while not stop.is_set():
            await asyncio.sleep(0.02)
        await runner.cleanup()

    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve_later(stop)))
    thread.start()
    try:
        with ChatServer(delay_s=0.02) as server:
            teacher = _teacher(late, server.url, max_concurrency=2, backoff_s=0.05, max_attempts=20)
            replies = _ask(teacher, map(str, range(150)))
    finally:
        stop.set()
        thread.join()
    assert all(reply.error is None for reply in replies.values())
    assert answered["late"] > 0, "it answers no GET but 404, which is life enough"


def test_one_server_that_is_away_for_a_moment_costs_no_row() -> None:
    with ChatServer(faults={"a": ["reset"]}) as server:
        reply = _ask(_teacher(server.url), "a")["a"]
    assert (reply.text, reply.attempts) == ("A", 2)


def test_when_all_servers_are_gone_the_job_stops() -> None:
    start = time.monotonic()
    with pytest.raises(TeacherError, match=r"no connection to .*start the server or correct base_url"):
        _ask(_teacher(_free_url(), _free_url(), max_attempts=3), "abc")
    assert time.monotonic() - start < 5


def test_a_replica_that_lacks_the_model_is_named() -> None:
    lacking = Chaos(share=1.0, faults=("404",), most=10**6)
    with ChatServer(chaos=lacking) as wrong, ChatServer() as server, pytest.raises(TeacherError, match="no such model") as told:
        _ask(_teacher(wrong.url, server.url), map(str, range(50)))
    assert wrong.url in str(told.value)


UNKNOWN_MODEL = [
    (400, '{"error": {"message": "Model Not Exist", "type": "invalid_request_error"}}'),  # DeepSeek
    (400, '{"object": "error", "message": "Invalid model: big", "type": "invalid_model", "code": "1500"}'),  # Mistral
    (404, '{"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}}'),
    (404, '{"object": "error", "message": "The model `big` does not exist.", "type": "NotFoundError", "code": 404}'),  # vLLM
    (404, '{"error": {"message": "model \\"big\\" not found, try pulling it first", "type": "api_error"}}'),  # Ollama
]
NO_CREDIT = [
    (402, '{"error": {"message": "Insufficient Balance", "type": "unknown_error"}}'),  # DeepSeek
    (429, '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'),  # OpenAI
    (400, '{"error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}}'),
    (403, '{"error": {"message": "Your account is not active", "code": "billing_not_active"}}'),
]
NO_ACCESS = [
    (401, '{"error": {"message": "Incorrect API key provided: sk-abcdefgh1234", "code": "invalid_api_key"}}'),
    (401, '{"error": "Unauthorized"}'),  # vLLM
    (401, '{"statusCode": 401, "message": "Access denied due to invalid subscription key"}'),  # Azure
    (400, '{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}'),  # Google
]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        *((*answer, "correct base_url or model") for answer in UNKNOWN_MODEL),
        *((*answer, "add credit") for answer in NO_CREDIT),
        *((*answer, "set the teacher's api_key") for answer in NO_ACCESS),
    ],
)
def test_each_providers_way_to_say_that_asking_on_is_no_use_stops_the_job(status: int, body: str, says: str) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.read())
        return web.Response(status=status, text=body, content_type="application/json")

    with _Plain(answer) as url, pytest.raises(TeacherError, match=says) as told:
        _ask(_teacher(url, max_concurrency=1), map(str, range(20)))
    assert len(asked) == 1
    assert "abcdefgh" not in str(told.value)


def test_a_filtered_prompt_fails_its_row_alone() -> None:
    body = '{"error": {"code": "content_filter", "message": "The response was filtered due to the content management policy"}}'

    async def answer(request: web.Request) -> web.Response:
        if "bad" in await request.text():
            return web.Response(status=400, text=body, content_type="application/json")
        return web.json_response({"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]})

    with _Plain(answer) as url:
        replies = _ask(_teacher(url), ["good", "bad"])
    assert replies["good"].text == "fine"
    assert (replies["bad"].finish_reason, replies["bad"].attempts) == ("content_filter", 1)


class _Plain:
    """A server with one handler for every POST, perhaps behind TLS."""

    def __init__(self, answer: Any, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.tls = tls

    def __enter__(self) -> str:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(10)

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def _start(self) -> str:
        app = web.Application()
        app.router.add_post("/{path:.*}", self.answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=self.tls).start()
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.runner.addresses[0][1]}/v1"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_does_not_hold_stops_the_job(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    async def answer(request: web.Request) -> web.Response:
        raise AssertionError("nothing may arrive")

    with _Plain(answer, tls) as url, pytest.raises(TeacherError, match=r"certificate .*correct base_url"):
        _ask(_teacher(url), "a")
