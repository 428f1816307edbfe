"""A teacher asked by Anthropic's Message Batches: half the price, an answer within a day.

    teacher: {kind: anthropic_batch, base_url: "https://api.anthropic.com/v1", model: claude-haiku-4-5, api_key: "env:MY_KEY"}

Batches under way are written down in `state_folder`, and a job that was stopped or killed finds them again: no row is sent
twice. `input_per_million` and `output_per_million` are list prices, of which a batch costs `batch_share`. Answers have the
same place in the journal as those of `anthropic_api`, so a job may change from one to the other and pays for nothing again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, BinaryIO

from pydantic import Field, model_validator

from ..contracts import Price, Requests, Teacher
from ..journal import key
from ..types import Reply, Request, Sampling
from ..wire.anthropic import HEADERS, claude_identity, fitting_sampling, message_body, message_reply, room_for_thinking
from ..wire.batch_api import Found, Look, Outcome, json_object
from ..wire.batch_ledger import Batch
from ..wire.batch_teacher import (
    AtOnce,
    BatchShare,
    MaxAttempts,
    OneUrl,
    PatienceS,
    PollS,
    StateFolder,
    ask_in_batches,
    batch_price,
    batch_problems,
    batch_service,
    text_in,
)
from ..wire.credentials import Credential
from ..wire.endpoint import Service
from ..wire.hosted import ApiKey, TimeoutS
from ..wire.provider_calls import Calls, all_listed, id_of, listed

PATH = "/messages/batches"
OF_THE_ROW = frozenset({"invalid_request_error", "request_too_large", "not_found_error", "permission_error"})
"""Errors that the same row would meet again."""


class AnthropicBatch(Teacher):
    """Anthropic's Message Batches: half the price, answers within a day, found again after a restart."""

    base_url: OneUrl
    model: str = Field(description="the model's name, such as claude-haiku-4-5")
    api_key: ApiKey = None
    stop: tuple[str, ...] = Field(default=(), description="texts that end an answer")
    thinking_tokens: int | None = Field(
        default=None, ge=0, description="room for thoughts beside an answer's limit; default: 8,192 for models that think unasked"
    )
    state_folder: StateFolder = None
    max_rows: int = Field(default=10_000, ge=1, le=100_000, description="most rows in one batch")
    max_megabytes: float = Field(default=100.0, gt=0, le=256, description="most of them in one batch")
    max_batches: AtOnce = 8
    poll_s: PollS = 30.0
    patience_s: PatienceS = 3600.0
    timeout_s: TimeoutS = 120.0
    max_attempts: MaxAttempts = 3
    input_per_million: float | None = Field(default=None, ge=0, description="list price in dollars, a million prompt tokens")
    output_per_million: float | None = Field(default=None, ge=0, description="list price in dollars, a million answer tokens")
    batch_share: BatchShare = 0.5
    extra: Mapping[str, Any] = Field(default={}, description="more fields of a request's body; null leaves a usual one out")

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
        return batch_price(self)

    def service(self) -> Service:
        return batch_service(self, Credential(self.api_key, "env:ANTHROPIC_API_KEY", "x-api-key", ""), HEADERS)

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        identity = self.identity()
        replies = ask_in_batches(self, self.service(), self._api, lambda request: key(identity, request), requests)
        async with aclosing(replies):
            async for request, reply in replies:
                yield request, reply

    def problems(self) -> list[str]:
        return batch_problems(self, self.service())

    def _api(self, calls: Calls) -> _Batches:
        return _Batches(calls, self._body, self.price())

    def _body(self, request: Request) -> dict[str, Any]:
        return message_body(self.model, request, self.extra)


class _Batches:
    """The API of Message Batches. It has no place for our token: a batch is known by its size and the names of its rows."""

    frame = (b'{"requests":[', b",", b"]}")

    def __init__(self, calls: Calls, body: Callable[[Request], dict[str, Any]], price: Price) -> None:
        self.calls = calls
        self.body = body
        self.price = price
        self.name = f"{calls.base_url}{PATH}"

    def line(self, name: str, request: Request) -> bytes:
        return json.dumps({"custom_id": name, "params": self.body(request)}).encode()

    async def newest(self) -> str | None:
        page = await self.calls.get(PATH, {"limit": "1"})
        return next((str(one["id"]) for one in listed(page)), None)

    async def create(self, token: str, file: BinaryIO) -> str:
        headers = {"Content-Type": "application/json", "Idempotency-Key": token}
        return id_of(await self.calls.post(PATH, file, headers))

    async def find(self, batch: Batch, known: set[str], is_ours: Callable[[str], bool]) -> Found:
        async with aclosing(all_listed(self.calls, PATH, "after_id")) as batches:  # newest first, as the reference promises
            async for one in batches:
                if one["id"] == batch.newest:
                    break
                counts = json_object(one.get("request_counts"))
                if one["id"] in known or sum(counts.values()) != batch.size:
                    continue
                if one.get("processing_status") != "ended":  # its rows' names are seen when it is over
                    return Found(None, is_certain=False)
                if one.get("results_url") and await self._begins_with(one["id"], is_ours):
                    return Found(str(one["id"]))
        return Found(None)

    async def look(self, provider_id: str) -> Look:
        batch = await self.calls.get(f"{PATH}/{provider_id}", may_be_missing=True)
        if batch.get("processing_status") != "ended":
            return Look(is_over=False)
        return Look(is_over=True, files=(f"{PATH}/{provider_id}/results",) if batch.get("results_url") else ())

    async def results(self, path: str) -> AsyncGenerator[tuple[str, str], None]:
        async with aclosing(self.calls.lines(path)) as lines:
            async for line in lines:
                name = json_object(line).get("custom_id")
                if isinstance(name, str):
                    yield name, line

    def read(self, result: str) -> Outcome:
        told = json_object(json_object(result).get("result"))
        kind = told.get("type")
        if kind == "succeeded":
            return Outcome(message_reply(json_object(told.get("message")), self.price), may_repeat=True)
        if kind == "errored":
            outer = json_object(told.get("error"))
            error = json_object(outer.get("error")) or outer
            said = f"the batch answered this row with an error: {text_in(error, 'type', 'message')}"
            return Outcome(Reply("", "error", cost_usd=0.0, error=said), may_repeat=error.get("type") not in OF_THE_ROW)
        return Outcome(Reply("", "error", cost_usd=0.0, error=f"the batch ended before this row ({kind})"), may_repeat=True)

    async def _begins_with(self, provider_id: str, is_ours: Callable[[str], bool]) -> bool:
        """Whether the first result of a batch is one of our rows'."""
        async with aclosing(self.results(f"{PATH}/{provider_id}/results")) as results:
            async for name, _ in results:
                return is_ours(name)
        return False
