"""A teacher behind any server that speaks the OpenAI chat API: a thin client with patience.

    teacher: {kind: openai_api, base_url: "https://api.openai.com/v1", model: gpt-4o, api_key: "env:OPENAI_API_KEY"}

A reply that is broken in any way is asked for again, and in the end becomes a Reply with `error` that harms no other row.
What no row can overcome (a refused key, an unknown model, no credit, nobody there) is a TeacherError at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from pydantic import Field

from ..contracts import Price, Requests, Teacher
from ..credentials import Credential
from ..endpoint import Question, Service
from ..hosted import (
    ApiKey,
    BackoffS,
    BaseUrl,
    MaxAttempts,
    MaxConcurrency,
    PerMinute,
    TimeoutS,
    ask_all,
    problems_of,
    service_of,
)
from ..journal import key
from ..types import Reply, Request


class OpenAiApi(Teacher):
    """Any server that speaks the OpenAI chat API: a hosted service, vLLM, llama.cpp, Ollama."""

    base_url: BaseUrl
    model: str = Field(description="the model's name on that server")
    api_key: ApiKey = None
    max_concurrency: MaxConcurrency = 128
    max_requests_per_minute: PerMinute = None
    max_tokens_per_minute: PerMinute = None
    timeout_s: TimeoutS = 120.0
    max_attempts: MaxAttempts = 6
    backoff_s: BackoffS = 1.0
    input_per_million: float | None = Field(default=None, ge=0, description="dollars for a million prompt tokens")
    output_per_million: float | None = Field(default=None, ge=0, description="dollars for a million answer tokens")
    extra: Mapping[str, Any] = Field(default={}, description="more fields of the request's body; null leaves a usual one out")

    def identity(self) -> Mapping[str, Any]:
        first = self.base_url if isinstance(self.base_url, str) else self.base_url[0]
        return {"kind": "openai_api", "base_url": first, "model": self.model, "extra": dict(self.extra)}

    def price(self) -> Price:
        return Price(self.input_per_million, self.output_per_million)

    def service(self) -> Service:
        return service_of(self, "/chat/completions", Credential(self.api_key))

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        async with aclosing(ask_all(self.service(), requests, self._question, self._read)) as replies:
            async for request, reply in replies:
                yield request, reply

    def problems(self) -> list[str]:
        return problems_of(self.service())

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

    def _question(self, request: Request) -> Question:
        return Question(self.body(request), key(self.identity(), request))

    def _read(self, request: Request, body: Mapping[str, Any]) -> Reply:
        del request
        return self.reply(body)


def _usage(body: Mapping[str, Any], name: str) -> int | None:
    usage = body.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None
