"""A teacher behind Anthropic's Messages API, or any server that speaks it: a thin client with patience.

    teacher: {kind: anthropic_api, base_url: "https://api.anthropic.com/v1", model: claude-sonnet-4-5, api_key: "env:MY_KEY"}

Claude 4.7 and later sample in their own way and refuse `temperature` and `top_p`; they count as asked at temperature 1. From
Claude 5 on they think before they answer, and their thoughts count towards the limit of an answer: `thinking_tokens` is the
room for them. Where a model lets thinking be turned off, `extra: {thinking: {type: disabled}}` does so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from pydantic import Field, model_validator

from ..contracts import Price, Requests, Teacher
from ..journal import key
from ..types import Reply, Request, Sampling
from ..wire.anthropic import HEADERS, claude_identity, fitting_sampling, message_body, message_reply, room_for_thinking
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


class AnthropicApi(Teacher):
    """Anthropic's Messages API: the Claude models, and servers that speak the same."""

    base_url: BaseUrl
    model: str = Field(description="the model's name, such as claude-sonnet-4-5")
    api_key: ApiKey = None
    stop: tuple[str, ...] = Field(default=(), description="texts that end an answer")
    thinking_tokens: int | None = Field(
        default=None, ge=0, description="room for thoughts beside an answer's limit; default: 8,192 for models that think unasked"
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
    def _as_the_model_samples(cls, fields: Any) -> Any:
        return fitting_sampling(fields) if isinstance(fields, dict) else fields

    def sampling(self, max_tokens: int) -> Sampling:
        room = room_for_thinking(self.model, self.thinking_tokens, self.extra)
        return Sampling(max_tokens + room, self.temperature, self.top_p, stop=self.stop)

    def identity(self) -> Mapping[str, Any]:
        return claude_identity(self.base_url, self.model, self.extra)

    def price(self) -> Price:
        return Price(self.input_per_million, self.output_per_million)

    def service(self) -> Service:
        return service_of(self, "/messages", Credential(self.api_key, "env:ANTHROPIC_API_KEY", "x-api-key", ""), HEADERS)

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        async with aclosing(ask_all(self.service(), requests, self._question, self._read)) as replies:
            async for request, reply in replies:
                yield request, reply

    def problems(self) -> list[str]:
        return problems_of(self.service())

    def _question(self, request: Request) -> Question:
        return Question(message_body(self.model, request, self.extra), key(self.identity(), request))

    def _read(self, request: Request, body: Mapping[str, Any]) -> Reply:
        del request
        return message_reply(body, self.price())
