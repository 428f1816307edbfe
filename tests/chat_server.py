"""A real HTTP server on 127.0.0.1 that speaks the OpenAI chat API, counts what it is asked, and misbehaves on request."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web

KEY = "test-key-0123456789"


def upper(question: str) -> str:
    return question.upper()


@dataclass
class ChatServer:
    """`with ChatServer(faults={"hello": ["500", "html"]}) as server:` answers "hello" well on the third request.

    The faults of a question are used up one a request; a fault named "always X" stays.
    """

    faults: dict[str, list[str]] = field(default_factory=dict)
    delay_s: float = 0.0
    answer: Callable[[str], str] = upper
    wanted_key: str | None = None
    models_page: str | None = None
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    _at_once: int = 0

    def __enter__(self) -> ChatServer:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

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
            return await self._reply(request, question)
        finally:
            self._at_once -= 1

    async def _reply(self, request: web.Request, question: str) -> web.StreamResponse:
        planned = self.faults.get(question) or []
        fault = planned[0].removeprefix("always ") if planned else "good"
        if planned and not planned[0].startswith("always "):
            planned.pop(0)
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault == "slow":
            await asyncio.sleep(1.0)
        if fault == "cut":
            return web.json_response(_completion(question, self.answer(question), "length"))
        return _FAULTS[fault]() if fault in _FAULTS else web.json_response(_completion(question, self.answer(question), "stop"))


def _completion(question: str, answer: str | None, reason: str) -> dict[str, Any]:
    usage = {"prompt_tokens": len(question.split()), "completion_tokens": 2}
    message = {"role": "assistant", "content": answer}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": usage}


def _error(status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": code}}, status=status, headers=headers)


_FAULTS: dict[str, Callable[[], web.Response]] = {
    "429": lambda: _error(429, "slow down", "rate_limit_exceeded", {"Retry-After": "0.3"}),
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
    "error with 200": lambda: _error(200, "the engine is dead"),
    "no choices": lambda: web.json_response({"choices": []}),
    "null": lambda: web.json_response(_completion("", None, "stop")),
    "half a character": lambda: web.json_response(_completion("", "fine \ud83d", "stop")),
    "blank": lambda: web.json_response(_completion("", "  ", "stop")),
    "thought too long": lambda: web.json_response(_completion("", "", "length")),
    "not utf-8": lambda: web.Response(body=b'{"choices": "\xff\xfe"}', content_type="application/json"),
}
