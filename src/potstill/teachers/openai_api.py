"""A teacher behind any server that speaks the OpenAI chat API: a thin client with patience.

    teacher: {kind: openai_api, base_url: "https://api.openai.com/v1", model: gpt-4o, api_key: "env:OPENAI_API_KEY"}
    teacher: {kind: openai_api, base_url: ["http://one:8000/v1", "http://two:8000/v1"], model: our-model, provider: vllm}

A reply that is broken in any way is asked for again, and in the end becomes a Reply with `error` that harms no other row.
What no row can overcome (a refused key, an unknown model, no credit, nobody there) is a TeacherError at once. Several servers
of the same model share the rows; the first one's address stands for all in the journal, so that adding another behind it pays
for nothing twice. `identity_url` keeps the answers of a server that has moved.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from functools import cached_property
from typing import Any

from pydantic import Field, model_validator

from ..catalog import Provider
from ..contracts import Price, Requests, Teacher
from ..journal import key
from ..types import Reply, Request, Sampling
from ..wire.credentials import Credential
from ..wire.endpoint import Question, Service
from ..wire.hosted import (
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
from ..wire.openai import THINKING_ROOM, chat_body, chat_identity, chat_reply, fitting_sampling, provider_of, thinks


class OpenAiApi(Teacher):
    """Any server that speaks the OpenAI chat API: a hosted service, vLLM, llama.cpp, Ollama."""

    base_url: BaseUrl
    model: str = Field(description="the model's name on that server")
    api_key: ApiKey = None
    provider: str | Provider | None = Field(
        default=None, description="openai, azure_openai, deepseek, mistral, vllm, sglang, llama_cpp, ollama; default: by the host"
    )
    api_version: str | None = Field(default=None, description="sent as ?api-version=, for Azure's dated APIs")
    identity_url: str | None = Field(default=None, description="address that its answers have in the journal; default: the first")
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, description="against words, the more often they were used")
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, description="against words that were used")
    stop: tuple[str, ...] = Field(default=(), description="texts that end an answer")
    top_logprobs: int = Field(default=0, ge=0, le=20, description="likeliest alternatives kept for each token, for training")
    thinks: bool | None = Field(default=None, description="whether the model thinks before it answers; default: by its name")
    thinking_tokens: int | None = Field(
        default=None, ge=0, description="room for thoughts beside an answer's limit; default: 8,192 where the model thinks"
    )
    max_concurrency: MaxConcurrency = 128
    max_requests_per_minute: PerMinute = None
    max_tokens_per_minute: PerMinute = None
    timeout_s: TimeoutS = 120.0
    max_attempts: MaxAttempts = 6
    backoff_s: BackoffS = 1.0
    input_per_million: float | None = Field(default=None, ge=0, description="dollars for a million prompt tokens")
    output_per_million: float | None = Field(default=None, ge=0, description="dollars for a million answer tokens")
    extra: Mapping[str, Any] = Field(default={}, description="more fields of the request's body; null leaves a usual one out")

    @model_validator(mode="before")
    @classmethod
    def _as_the_server_takes_it(cls, fields: Any) -> Any:
        return fitting_sampling(fields) if isinstance(fields, dict) else fields

    @cached_property
    def _provider(self) -> Provider:
        return provider_of(self.provider, self.base_url)

    @cached_property
    def _is_thinking(self) -> bool:
        return thinks(self._provider, self.model, self.extra) if self.thinks is None else self.thinks

    def sampling(self, max_tokens: int) -> Sampling:
        room = (THINKING_ROOM if self._is_thinking else 0) if self.thinking_tokens is None else self.thinking_tokens
        penalties = (self.frequency_penalty, self.presence_penalty)
        return Sampling(max_tokens + room, self.temperature, self.top_p, *penalties, self.stop, self.top_logprobs)

    def identity(self) -> Mapping[str, Any]:
        version = {"api_version": self.api_version} if self.api_version else {}
        return {**chat_identity(self.base_url, self.model, self.extra, self.identity_url), **version}

    def price(self) -> Price:
        return Price(self.input_per_million, self.output_per_million)

    def service(self) -> Service:
        speaks = self._provider
        credential = Credential(self.api_key, speaks.usual_key, speaks.auth_header, speaks.auth_prefix)
        query = f"?api-version={self.api_version}" if self.api_version else ""
        return service_of(self, "/chat/completions", credential, query=query)

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        async with aclosing(ask_all(self.service(), requests, self._question, self._read)) as replies:
            async for request, reply in replies:
                yield request, reply

    def problems(self) -> list[str]:
        return problems_of(self.service())

    def body(self, request: Request) -> dict[str, Any]:
        """The request's JSON body."""
        return chat_body(self.model, request, self._provider, self.extra, is_thinking=self._is_thinking)

    def reply(self, body: Mapping[str, Any]) -> Reply:
        """The first choice of a chat completion; `error` is set when it holds no text."""
        return chat_reply(body, self.price(), is_thinking=self._is_thinking)

    def _question(self, request: Request) -> Question:
        named = key(self.identity(), request) if self._provider.takes_idempotency_key else ""
        return Question(self.body(request), named)

    def _read(self, request: Request, body: Mapping[str, Any]) -> Reply:
        del request
        return self.reply(body)
