"""A teacher behind any server that speaks the OpenAI chat API: a thin client with patience.

    teacher: {kind: openai_api, base_url: "https://api.openai.com/v1", model: gpt-4o, api_key: "env:OPENAI_API_KEY"}

A reply that is broken in any way is asked for again, and in the end becomes a Reply with `error` that harms no other row.
What no row can overcome (a refused key, an unknown model, no credit, nobody there) is a TeacherError at once.
"""

from __future__ import annotations

import asyncio
import os
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from pydantic import Field, field_validator
from yarl import URL

from ..contracts import Price, Requests, Teacher
from ..endpoint import ROWS_BEFORE_GIVING_UP, Endpoint, Patience, Question
from ..errors import TeacherError
from ..journal import key
from ..types import Reply, Request

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
CHECK_TIMEOUT_S = 5.0


class OpenAiApi(Teacher):
    """Any server that speaks the OpenAI chat API: a hosted service, vLLM, llama.cpp, Ollama."""

    base_url: str = Field(description="up to and with /v1, such as http://127.0.0.1:8000/v1")
    model: str = Field(description="the model's name on that server")
    api_key: str | None = Field(default=None, description="env:NAME, the environment variable that holds the key")
    max_concurrency: int = Field(default=16, ge=1, description="requests under way at the same time")
    timeout_s: float = Field(default=120.0, gt=0, description="longest wait for one reply")
    max_attempts: int = Field(default=6, ge=1, description="how often one row is asked before it counts as failed")
    backoff_s: float = Field(default=1.0, gt=0, description="first wait before asking again; doubles each time")
    input_per_million: float | None = Field(default=None, ge=0, description="dollars for a million prompt tokens")
    output_per_million: float | None = Field(default=None, ge=0, description="dollars for a million answer tokens")
    extra: Mapping[str, Any] = Field(default={}, description="more fields of the request's body; null leaves a usual one out")

    @field_validator("base_url")
    @classmethod
    def _is_a_plain_url(cls, value: str) -> str:
        url = URL(value)
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError("base_url must start with http:// or https:// and name a host, such as http://127.0.0.1:8000/v1")
        if url.user or url.password or url.query_string:
            raise ValueError("base_url must hold no user, password or query; put the key into api_key as env:NAME")
        return value.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _is_a_reference(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("api_key must be env:NAME, such as env:OPENAI_API_KEY; the key itself never stands in the job")
        return value

    def identity(self) -> Mapping[str, Any]:
        return {"kind": "openai_api", "base_url": self.base_url, "model": self.model, "extra": dict(self.extra)}

    def price(self) -> Price:
        return Price(self.input_per_million, self.output_per_million)

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        running: set[asyncio.Task[tuple[Request, Reply | None]]] = set()
        async with self._session() as session:
            endpoint = self._endpoint(session)
            try:
                while True:
                    while len(running) < self.max_concurrency and endpoint.fatal is None:
                        request = requests.take() if running else await anext(requests, None)
                        if request is None:
                            break
                        running.add(asyncio.create_task(self._answer(endpoint, request)))
                    if not running:
                        break
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        asked, reply = task.result()
                        if reply is not None:
                            yield asked, reply
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        if endpoint.fatal is not None:
            raise endpoint.fatal

    def problems(self) -> list[str]:
        """What a GET of {base_url}/models shows: nobody there, a refused key, HTML. A 404 is fine, many servers lack it."""
        if self.api_key is not None and not self._key():
            return [self._no_key()]
        if not _can_be_sent(self._key()):
            return [self._bad_key()]
        request = urllib.request.Request(f"{self.base_url}/models", headers=self._headers())
        try:
            with _opener(self.base_url).open(request, timeout=CHECK_TIMEOUT_S) as reply:
                start = reply.read(200).lstrip()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403):
                return [f"teacher endpoint {self.base_url} refuses access (HTTP {error.code}); {self._key_hint()}"]
            if error.code >= 500 or 300 <= error.code < 400:
                return [f"teacher endpoint {self.base_url} answers HTTP {error.code}; check base_url or try again later"]
            return []
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            return [f"teacher endpoint {self.base_url} does not answer ({reason}); start the server or correct base_url"]
        if not start.startswith((b"{", b"[")):
            return [f"teacher endpoint {self.base_url} does not answer with JSON; is base_url right? It often ends in /v1"]
        return []

    def body(self, request: Request) -> dict[str, Any]:
        """The request's JSON body."""
        usual = {
            "model": self.model,
            "messages": [message.as_dict() for message in request.messages],
            "max_tokens": request.sampling.max_tokens,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
        }
        return {name: value for name, value in {**usual, **self.extra}.items() if value is not None}

    def reply(self, body: Mapping[str, Any]) -> Reply:
        """The first choice of a chat completion; `error` is set when it holds no text."""
        choices = body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        reason = str(choice.get("finish_reason") or "stop")
        prompt_tokens, completion_tokens = _usage(body, "prompt_tokens"), _usage(body, "completion_tokens")
        cost = self.price().cost(prompt_tokens, completion_tokens)
        if isinstance(text, str) and text.strip():
            text = text.encode(errors="replace").decode()  # half a surrogate pair cannot be written to any file
            return Reply(text, reason, prompt_tokens, completion_tokens, cost)
        error = f"the reply holds no text (finish reason {reason})" if choice else "the reply holds no choices"
        return Reply("", reason, prompt_tokens, completion_tokens, cost, error=error)

    async def _answer(self, endpoint: Endpoint, request: Request) -> tuple[Request, Reply | None]:
        question = Question(self.body(request), key(self.identity(), request))
        return request, await endpoint.ask(question, self.reply)

    def _session(self) -> aiohttp.ClientSession:
        proxied = URL(self.base_url).host not in LOOPBACK  # the user's proxy is not for servers on this machine
        connector = aiohttp.TCPConnector(limit=self.max_concurrency)
        return aiohttp.ClientSession(headers=self._headers(), trust_env=proxied, connector=connector)

    def _endpoint(self, session: aiohttp.ClientSession) -> Endpoint:
        patience = Patience(
            self.timeout_s, self.max_attempts, self.backoff_s, give_up_rows=max(ROWS_BEFORE_GIVING_UP, self.max_concurrency)
        )
        return Endpoint(session, f"{self.base_url}/chat/completions", patience, secret=self._key(), hint=self._key_hint())

    def _key(self) -> str | None:
        return os.environ.get(self.api_key.removeprefix("env:"), "").strip() if self.api_key else None

    def _headers(self) -> dict[str, str]:
        if self.api_key is None:
            return {}
        secret = self._key()
        if not secret:
            raise TeacherError(self._no_key())
        if not _can_be_sent(secret):
            raise TeacherError(self._bad_key())
        return {"Authorization": f"Bearer {secret}"}

    def _no_key(self) -> str:
        name = (self.api_key or "").removeprefix("env:")
        return f"the environment variable {name} is not set; it must hold the key for {self.base_url} (export {name}=...)"

    def _bad_key(self) -> str:
        name = (self.api_key or "").removeprefix("env:")
        return (
            f"the environment variable {name} holds more than a key (a line break or a letter that no key has); export it again"
        )

    def _key_hint(self) -> str:
        if self.api_key is None:
            return "set the teacher's api_key, such as env:OPENAI_API_KEY"
        return f"check the key in the environment variable {self.api_key.removeprefix('env:')}"


def _can_be_sent(secret: str | None) -> bool:
    """Whether a key fits into a header; the libraries that refuse one repeat it in their error."""
    return secret is None or (secret.isascii() and secret.isprintable())


def _usage(body: Mapping[str, Any], name: str) -> int | None:
    usage = body.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener(base_url: str) -> urllib.request.OpenerDirector:
    direct = [urllib.request.ProxyHandler({})] if URL(base_url).host in LOOPBACK else []
    return urllib.request.build_opener(_NoRedirect, *direct)
