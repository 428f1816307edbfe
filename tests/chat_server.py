"""A real HTTP server on 127.0.0.1 that speaks the OpenAI chat API, counts what it is asked, and misbehaves on request."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from local_server import LocalServer

KEY = "test-key-0123456789"
REFUSAL = "I'm sorry, but I can't help with that."

TRANSPORT_FAULTS = (
    "429 soon",
    "429 without a header",
    "500",
    "503",
    "overloaded",
    "reset",
    "half",
    "half a body",
    "drip",
    "html",
    "string",
    "no choices",
    "null",
    "not utf-8",
    "wrong content type",
)
ANSWER_FAULTS = ("cut", "refusal", "blank", "wrong json")


def upper(question: str) -> str:
    return question.upper()


@dataclass(frozen=True)
class Chaos:
    """A seeded mix of faults: the same question meets the same ones, whatever the order and however often it is run.

    `share` of the requests meet one, but no question more than `most`, so that every row has its answer in the end.
    """

    seed: int = 0
    share: float = 0.3
    faults: tuple[str, ...] = (*TRANSPORT_FAULTS, *ANSWER_FAULTS)
    most: int = 3

    def fault(self, question: str, times: int) -> str:
        """What a question meets when it is asked for the `times`-th time (from 1)."""
        met = [self._draw(question, time) for time in range(1, times + 1)]
        return met[-1] if sum(fault != "good" for fault in met[:-1]) < self.most else "good"

    def _draw(self, question: str, time: int) -> str:
        chance = random.Random(f"{self.seed} {time} {question}")
        return chance.choice(self.faults) if chance.random() < self.share else "good"


@dataclass
class ChatServer(LocalServer):
    """`with ChatServer(faults={"hello": ["500", "html"]}) as server:` answers "hello" well on the third request.

    The faults of a question are used up one a request; a fault named "always X" stays. With `chaos` all questions meet
    faults. `asked` counts the requests by question, `met` by fault ("good" too); `headers_sent` go with each good reply.
    """

    faults: dict[str, list[str]] = field(default_factory=dict)
    delay_s: float = 0.0
    answer: Callable[[str], str] = upper
    wanted_key: str | None = None
    models_page: str | None = None
    chaos: Chaos | None = None
    headers_sent: dict[str, str] = field(default_factory=dict)
    most_allowed: int | None = None
    asked: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    _at_once: int = 0

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)

    def _refuses(self, request: web.Request) -> bool:
        return self.wanted_key is not None and request.headers.get("Authorization") != f"Bearer {self.wanted_key}"

    async def _models(self, request: web.Request) -> web.Response:
        if self._refuses(request):
            return web.json_response({"error": {"message": "no"}}, status=401)
        if self.models_page is not None:
            return web.Response(text=self.models_page, content_type="text/html")
        return web.json_response({"data": [{"id": "big"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        question = body["messages"][-1]["content"]
        self.asked[question] += 1
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.delay_s)
            if self._refuses(request):
                said = f"Incorrect API key provided: {request.headers.get('Authorization', '')}"
                return web.json_response({"error": {"message": said, "code": "invalid_api_key"}}, status=401)
            if self.most_allowed is not None and self._at_once > self.most_allowed:
                self.met["over"] += 1
                return _error(429, "too many at once", "rate_limit_exceeded")
            return await self._reply(request, question)
        finally:
            self._at_once -= 1

    def _fault(self, question: str) -> str:
        if self.chaos is not None:
            return self.chaos.fault(question, self.asked[question])
        planned = self.faults.get(question) or []
        fault = planned[0].removeprefix("always ") if planned else "good"
        if planned and not planned[0].startswith("always "):
            planned.pop(0)
        return fault

    async def _reply(self, request: web.Request, question: str) -> web.StreamResponse:
        fault = self._fault(question)
        self.met[fault] += 1
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        good = _completion(question, self.answer(question), "length" if fault == "cut" else "stop")
        if fault in ("half a body", "drip"):
            return await _piecemeal(request, json.dumps(good).encode(), is_whole=fault == "drip")
        if fault == "wrong content type":  # the answer itself is good
            return web.Response(text=json.dumps(good), content_type="text/plain")
        if fault == "no usage":
            del good["usage"]
        if fault == "slow":
            await asyncio.sleep(1.0)
        return _FAULTS[fault]() if fault in _FAULTS else web.json_response(good, headers=self.headers_sent)


async def _piecemeal(request: web.Request, body: bytes, *, is_whole: bool) -> web.StreamResponse:
    """The body in drops, or its first half and then the end of the connection."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(request)
    size = len(body) // 4 + 1
    for start in range(0, len(body) if is_whole else len(body) // 2, size):
        await response.write(body[start : start + size])
        await asyncio.sleep(0.01)
    if not is_whole:
        assert request.transport is not None
        request.transport.abort()
    return response


def _completion(question: str, answer: str | None, reason: str) -> dict[str, Any]:
    usage = {"prompt_tokens": len(question.split()), "completion_tokens": 2}
    message = {"role": "assistant", "content": answer}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}  # the same id for all


def _error(status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": code}}, status=status, headers=headers)


_FAULTS: dict[str, Callable[[], web.Response]] = {
    "429": lambda: _error(429, "slow down", "rate_limit_exceeded", {"Retry-After": "0.3"}),
    "429 soon": lambda: _error(429, "slow down", "rate_limit_exceeded", {"retry-after-ms": "20"}),
    "429 without a header": lambda: _error(429, "slow down"),
    "quota": lambda: _error(429, "You exceeded your current quota", "insufficient_quota"),
    "400": lambda: _error(400, "this model's maximum context length is 4096 tokens", "context_length_exceeded"),
    "403": lambda: _error(403, "forbidden"),
    "404": lambda: _error(404, "The model does not exist", "model_not_found"),
    "500": lambda: web.Response(status=500, text="oops"),
    "503": lambda: _error(503, "overloaded"),
    "redirect": lambda: web.Response(status=301, headers={"Location": "https://example.invalid/"}),
    "html": lambda: web.Response(text="<html><body>Sign in</body></html>", content_type="text/html"),
    "half": lambda: web.Response(text='{"choices": [{"message": {"content": "he', content_type="application/json"),
    "string": lambda: web.json_response("upstream error"),
    "overloaded": lambda: _error(529, "Overloaded", "overloaded_error"),
    "refusal": lambda: web.json_response(_completion("", REFUSAL, "stop")),
    "wrong json": lambda: web.json_response(_completion("", '{"answer": [1, ', "stop")),
    "error with 200": lambda: _error(200, "the engine is dead"),
    "no choices": lambda: web.json_response({"choices": []}),
    "null": lambda: web.json_response(_completion("", None, "stop")),
    "half a character": lambda: web.json_response(_completion("", "fine \ud83d", "stop")),
    "blank": lambda: web.json_response(_completion("", "  ", "stop")),
    "thought too long": lambda: web.json_response(_completion("", "", "length")),
    "not utf-8": lambda: web.Response(body=b'{"choices": "\xff\xfe"}', content_type="application/json"),
}
