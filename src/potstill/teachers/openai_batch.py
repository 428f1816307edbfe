"""A teacher asked by OpenAI's batches, or a server's that has the same files and batches: half the price, within a day.

    teacher: {kind: openai_batch, base_url: "https://api.openai.com/v1", model: gpt-4o-mini, api_key: "env:OPENAI_API_KEY"}

Batches under way are written down in `state_folder`, and a job that was stopped or killed finds them again: no row is sent
twice. `input_per_million` and `output_per_million` are list prices, of which a batch costs `batch_share`. Answers have the
same place in the journal as those of `openai_api`, so a job may change from one to the other and pays for nothing again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import cached_property
from typing import Any, BinaryIO

import aiohttp
from pydantic import Field, model_validator

from ..catalog import Provider
from ..contracts import Price, Requests, Teacher
from ..journal import key
from ..types import Reply, Request, Sampling
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
from ..wire.http_faults import BUSY, FILTERED, NO_CREDIT, RETRIED, UNKNOWN_MODEL
from ..wire.openai import THINKING_ROOM, chat_body, chat_identity, chat_reply, fitting_sampling, provider_of, thinks
from ..wire.provider_calls import Calls, all_listed, id_of

PATH = "/batches"
MARK = "potstill"
"""The name in a batch's metadata under which our token stands."""
OVER = frozenset({"completed", "expired", "cancelled", "failed"})
TOO_MUCH = "token_limit_exceeded"


class OpenAiBatch(Teacher):
    """OpenAI's batches and those of its like: half the price, answers within a day, found again after a restart."""

    base_url: OneUrl
    model: str = Field(description="the model's name on that server")
    api_key: ApiKey = None
    provider: str | Provider | None = Field(default=None, description="how the server speaks; default: by its host")
    endpoint: str = Field(default="/v1/chat/completions", pattern="^/", description="what each row of a batch is sent to")
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, description="against words, the more often they were used")
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, description="against words that were used")
    stop: tuple[str, ...] = Field(default=(), description="texts that end an answer")
    top_logprobs: int = Field(default=0, ge=0, le=20, description="likeliest alternatives kept for each token, for training")
    thinks: bool | None = Field(default=None, description="whether the model thinks before it answers; default: by its name")
    thinking_tokens: int | None = Field(
        default=None, ge=0, description="room for thoughts beside an answer's limit; default: 8,192 where the model thinks"
    )
    state_folder: StateFolder = None
    max_rows: int = Field(default=10_000, ge=1, le=50_000, description="most rows in one batch")
    max_megabytes: float = Field(default=100.0, gt=0, le=200, description="most of them in one batch")
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
        return chat_identity(self.base_url, self.model, self.extra)

    def price(self) -> Price:
        return batch_price(self)

    def service(self) -> Service:
        speaks = self._provider
        return batch_service(self, Credential(self.api_key, speaks.usual_key, speaks.auth_header, speaks.auth_prefix))

    async def answers(self, requests: Requests) -> AsyncIterator[tuple[Request, Reply]]:
        identity = self.identity()
        replies = ask_in_batches(self, self.service(), self._api, lambda request: key(identity, request), requests)
        async with aclosing(replies):
            async for request, reply in replies:
                yield request, reply

    def problems(self) -> list[str]:
        return batch_problems(self, self.service())

    def _api(self, calls: Calls) -> _Batches:
        return _Batches(calls, self._line, self.endpoint, self.price())

    def _line(self, request: Request) -> dict[str, Any]:
        body = chat_body(self.model, request, self._provider, self.extra, is_thinking=self._is_thinking)
        return {"method": "POST", "url": self.endpoint, "body": body}


class _Batches:
    """The API of files and batches. Our token stands in a batch's metadata, which the list of batches shows."""

    frame = (b"", b"\n", b"\n")

    def __init__(self, calls: Calls, line: Callable[[Request], dict[str, Any]], endpoint: str, price: Price) -> None:
        self.calls = calls
        self.row = line
        self.endpoint = endpoint
        self.price = price
        self.name = f"{calls.base_url}{PATH}"

    def line(self, name: str, request: Request) -> bytes:
        return json.dumps({"custom_id": name, **self.row(request)}).encode()

    async def newest(self) -> None:
        """Not needed: the token is looked for in the whole list, whose order is not promised."""

    async def create(self, token: str, file: BinaryIO) -> str:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", file, filename=f"{MARK}-{token}.jsonl", content_type="application/jsonl")
        uploaded = id_of(await self.calls.post("/files", form))
        asked = {"input_file_id": uploaded, "endpoint": self.endpoint, "completion_window": "24h"}
        body = json.dumps({**asked, "metadata": {MARK: token}}).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": token}
        return id_of(await self.calls.post(PATH, body, headers))

    async def find(self, batch: Batch, known: set[str], is_ours: Callable[[str], bool]) -> Found:
        del known, is_ours  # the token alone says it
        async with aclosing(all_listed(self.calls, PATH, "after")) as batches:
            async for one in batches:
                if json_object(one.get("metadata")).get(MARK) == batch.token:
                    return Found(str(one["id"]))
        return Found(None)

    async def look(self, provider_id: str) -> Look:
        batch = await self.calls.get(f"{PATH}/{provider_id}", may_be_missing=True)
        status = str(batch.get("status")).lower()
        names = [batch.get(name) for name in ("output_file_id", "error_file_id")]
        files = tuple(f"/files/{name}/content" for name in names if name)
        if status == "failed" and not files:
            return _refused(batch)
        return Look(is_over=True, files=files) if status in OVER else Look(is_over=False)

    async def results(self, path: str) -> AsyncGenerator[tuple[str, str], None]:
        async with aclosing(self.calls.lines(path)) as lines:
            async for line in lines:
                name = json_object(line).get("custom_id")
                if isinstance(name, str):
                    yield name, line

    def read(self, result: str) -> Outcome:
        told = json_object(result)
        answer = json_object(told.get("response"))
        status, body = answer.get("status_code"), json_object(answer.get("body"))
        if told.get("error") or not answer:
            said = f"the batch ended before this row: {text_in(told.get('error'), 'code', 'message')}"
            return Outcome(Reply("", "error", cost_usd=0.0, error=said), may_repeat=True)
        if status == 200 and not body.get("error"):
            return Outcome(chat_reply(body, self.price), may_repeat=True)
        said = text_in(body.get("error") or body, "code", "type", "message")
        reason = "content_filter" if any(word in said.lower() for word in FILTERED) else "error"
        may_repeat = not isinstance(status, int) or status in BUSY | RETRIED or status >= 500
        reply = Reply("", reason, cost_usd=0.0, error=f"the batch answered this row with HTTP {status}: {said}")
        return Outcome(reply, may_repeat)


def _refused(batch: Mapping[str, Any]) -> Look:
    """Why a batch failed as a whole: its file was looked through, and none of its rows was asked."""
    data = json_object(batch.get("errors")).get("data")
    errors = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    said = text_in(errors[0] if errors else {}, "code", "message", "param")
    lines = frozenset(one["line"] for one in errors if isinstance(one.get("line"), int))
    is_full = any(one.get("code") == TOO_MUCH for one in errors)
    ends_the_job = any(word in said.lower() for word in (*UNKNOWN_MODEL, *NO_CREDIT))
    return Look(is_over=True, refused=said, lines=lines, is_full=is_full, ends_the_job=ends_the_job)
