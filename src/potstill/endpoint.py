"""Asks an HTTP endpoint that answers in JSON, with patience: retries, backoff, Retry-After, and the sense to give up.

Three kinds of fault: of the endpoint for now (asked again), of one row (that row fails, no other), and of the whole job (a
refused key, no credit, nobody there: `fatal`, after which nothing more is asked and what is under way may still arrive).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from .credentials import Credential
from .errors import TeacherError
from .limits import Limits
from .types import Reply

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
RETRIED = frozenset({408, 409, 425, 429})
NO_CREDIT = (
    *("insufficient_quota", "insufficient balance", "insufficient_balance", "billing_hard_limit_reached"),  # OpenAI, DeepSeek
    *("credit balance is too low", "billing_error", "enforced_spend_limit_reached"),  # Anthropic
    *("specified api usage limits", "specified workspace api usage limits"),
)
REFUSED_KEY = ("invalid_api_key", "incorrect api key")
FINAL_REASONS = frozenset({"length", "content_filter"})
"""Why an answer without text ended so that the same question would end the same way."""
LONGEST_RETRY_AFTER_S = 3600.0
LONGEST_BACKOFF_S = 60.0
ROWS_BEFORE_GIVING_UP = 16
SHOWN_CHARACTERS = 200
KEY_LIKE = re.compile(r"\b(sk|hf|gsk|key)[-_][-_A-Za-z0-9*]{6,}|Bearer \S+")

ReadReply = Callable[[Mapping[str, Any]], Reply]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often one row is asked."""

    timeout_s: float = 120.0
    max_attempts: int = 6
    backoff_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """One POST; the same idempotency key goes with each attempt, so a server that knows it does the work once."""

    body: Mapping[str, Any]
    idempotency_key: str


def plain_urls(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """A checked `base_url` field, without a slash at its end; raises ValueError where it is no address or holds a secret.

    >>> plain_urls("http://127.0.0.1:8000/v1/")
    'http://127.0.0.1:8000/v1'
    """
    if isinstance(value, tuple):
        if not value or len(set(value)) < len(value):
            raise ValueError("base_url must name at least one address, and none twice")
        return tuple(_plain_url(url) for url in value)
    return _plain_url(value)


def _plain_url(value: str) -> str:
    url = URL(value)
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("base_url must start with http:// or https:// and name a host, such as http://127.0.0.1:8000/v1")
    if url.user or url.password or url.query_string:
        raise ValueError("base_url must hold no user, password or query; put the key into api_key as env:NAME")
    return value.rstrip("/")


@dataclass(frozen=True, slots=True)
class Service:
    """Where a teacher is asked, with whose key, how patiently, and how many at a time.

    `path` and `query` (such as "?api-version=1") stand behind each of `base_urls`; `headers` are sent beside the key's.
    """

    base_urls: tuple[str, ...]
    path: str
    credential: Credential
    patience: Patience = Patience()
    limits: Limits = field(default_factory=Limits)
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""

    def sent_headers(self) -> dict[str, str]:
        """The headers of every request; raises TeacherError where the key is missing or cannot be sent."""
        return {**self.credential.headers(self.base_urls[0]), **self.headers}


def open_session(service: Service) -> aiohttp.ClientSession:
    """A session that sends the service's headers; raises TeacherError where the key is missing or cannot be sent."""
    proxied = any(URL(url).host not in LOOPBACK for url in service.base_urls)
    connector = aiohttp.TCPConnector(limit=service.limits.max_concurrency)
    return aiohttp.ClientSession(headers=service.sent_headers(), trust_env=proxied, connector=connector)


class _Answered(NamedTuple):
    status: int
    retry_after: str | None
    data: bytes


class _PassingError(Exception):
    """This attempt failed by the endpoint's fault; `wait_s` is what its Retry-After asks for."""

    def __init__(self, reason: str, *, wait_s: float | None = None, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.unreachable = unreachable


class _RowError(Exception):
    """The endpoint refuses this row; asking again would not help."""


class Endpoint:
    """One service, as many rows ask it at the same time."""

    def __init__(self, session: aiohttp.ClientSession, service: Service) -> None:
        self.session = session
        self.url = f"{service.base_urls[0]}{service.path}{service.query}"
        self.patience = service.patience
        self.give_up_rows = max(ROWS_BEFORE_GIVING_UP, service.limits.max_concurrency)
        self.secret = service.credential.secret()
        self.hint = service.credential.hint()
        self.fatal: TeacherError | None = None
        self._stopped = asyncio.Event()
        self._not_before = 0.0
        self._answered_once = False
        self._faults_in_a_row = 0

    async def ask(self, question: Question, read: ReadReply, again: Callable[[], bool] = lambda: True) -> Reply | None:
        """The reply, one with `error` when this row failed, or None when `fatal` left it unasked.

        `read` turns the JSON body into a Reply; one with `error` is asked for again, except after a final finish reason,
        and as long as `again` says that the row may be sent once more.
        """
        cost: float | None = 0.0
        for attempt in range(1, self.patience.max_attempts + 1):
            await self._wait_for_turn()
            if self.fatal is not None:
                return None
            start = time.perf_counter()
            try:
                reply = read(await self._attempt(question))
            except TeacherError as error:
                self._give_up(error)
                return None
            except _RowError as fault:
                return self._failed(Reply("", "error", attempts=attempt, cost_usd=cost, error=str(fault)), endpoint_fault=False)
            except _PassingError as fault:
                reply, failure = Reply("", "error", cost_usd=0.0, error=str(fault)), fault
            else:
                failure = _PassingError(reply.error or "")
            cost = None if cost is None or reply.cost_usd is None else cost + reply.cost_usd
            reply = replace(reply, attempts=attempt, cost_usd=cost, latency_s=round(time.perf_counter() - start, 4))
            if reply.error is None:
                self._answered_once, self._faults_in_a_row = True, 0
                return reply
            if attempt == self.patience.max_attempts or reply.finish_reason in FINAL_REASONS or not again():
                return self._exhausted(reply, failure)
            await self._back_off(attempt, failure)
        raise AssertionError("max_attempts is at least 1")

    async def _attempt(self, question: Question) -> Mapping[str, Any]:
        answered = await self._post(question)
        try:
            body = json.loads(answered.data)
        except ValueError:
            body = None
        said = self._said(body, answered.data)
        if answered.status != 200:
            raise self._fault(answered, said)
        if not isinstance(body, dict):
            raise _PassingError(f"the endpoint answered something that is not a JSON object: {said}")
        if body.get("error"):
            raise self._credit_or_key(said) or _PassingError(f"the endpoint answered an error with status 200: {said}")
        return body

    async def _post(self, question: Question) -> _Answered:
        timeout = aiohttp.ClientTimeout(total=self.patience.timeout_s)
        headers = {"Idempotency-Key": question.idempotency_key}
        try:
            async with self.session.post(
                self.url, json=question.body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return _Answered(response.status, response.headers.get("Retry-After"), await response.read())
        except aiohttp.ClientConnectorError as error:
            raise _PassingError(f"no connection to {self.url} ({error.strerror or error.os_error})", unreachable=True) from None
        except TimeoutError:
            raise _PassingError(f"no answer within {self.patience.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _PassingError(f"the connection broke ({type(error).__name__})") from None

    def _fault(self, answered: _Answered, said: str) -> Exception:
        """What a status other than 200 means. A refusal counts for the whole job until one row has been answered."""
        status = answered.status
        told = f"HTTP {status}: {said}"
        if status == 401 or (status == 403 and not self._answered_once):
            return TeacherError(f"teacher endpoint {self.url} refuses access (HTTP {status}); {self.hint}")
        if status == 402 or self._credit_or_key(said):
            return self._credit_or_key(said) or TeacherError(f"teacher endpoint {self.url} wants to be paid ({told}); add credit")
        if status in (404, 405) and not self._answered_once:
            return TeacherError(f"teacher endpoint {self.url} knows no such model or path ({told}); correct base_url or model")
        if 300 <= status < 400:
            return TeacherError(f"teacher endpoint {self.url} redirects (HTTP {status}); write the address it redirects to")
        if status in RETRIED or status >= 500 or status in (404, 405):
            return _PassingError(told, wait_s=_retry_after(answered.retry_after))
        return _RowError(told)

    def _credit_or_key(self, said: str) -> TeacherError | None:
        lowered = said.lower()
        if any(word in lowered for word in NO_CREDIT):
            return TeacherError(f"the account at {self.url} has no credit left ({said}); add credit, then run again to go on")
        if any(word in lowered for word in REFUSED_KEY):
            return TeacherError(f"teacher endpoint {self.url} refuses access; {self.hint}")
        return None

    def _said(self, body: Any, data: bytes) -> str:
        return said_by(body, data, self.secret)

    def _exhausted(self, reply: Reply, fault: _PassingError) -> Reply | None:
        if fault.unreachable:
            self._give_up(
                TeacherError(f"teacher endpoint: {fault}; start the server or correct base_url, then run again to go on")
            )
            return None
        return self._failed(reply, endpoint_fault=reply.finish_reason not in FINAL_REASONS)

    def _failed(self, reply: Reply, *, endpoint_fault: bool) -> Reply:
        if endpoint_fault or not self._answered_once:
            self._faults_in_a_row += 1
        if self._faults_in_a_row >= self.give_up_rows:
            self._give_up(
                TeacherError(
                    f"teacher endpoint {self.url} gave no usable answer to {self._faults_in_a_row} rows in a row, the last: "
                    f"{reply.error}; answers so far are kept, run again to go on"
                )
            )
        return reply

    def _give_up(self, error: TeacherError) -> None:
        self.fatal = self.fatal or error
        self._stopped.set()

    async def _back_off(self, attempt: int, fault: _PassingError) -> None:
        if fault.wait_s is not None:  # the whole endpoint is busy: every row waits
            self._not_before = max(self._not_before, time.monotonic() + fault.wait_s)
            return
        longest = min(self.patience.backoff_s * 2.0 ** (attempt - 1), LONGEST_BACKOFF_S)
        await self._sleep(random.uniform(0.5, 1.0) * longest)

    async def _wait_for_turn(self) -> None:
        while self.fatal is None and (wait := self._not_before - time.monotonic()) > 0:
            await self._sleep(wait + random.uniform(0.0, 0.1) * min(wait, 10.0))

    async def _sleep(self, seconds: float) -> None:
        """Sleeps, or until the whole job gives up."""
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return


def said_by(body: Any, data: bytes, secret: str | None) -> str:
    """What an endpoint said, short, on one line, with nothing in it that looks like a key.

    >>> said_by({"error": {"code": "odd", "message": "Bearer sk-123456789 is unknown"}}, b"", None)
    'odd *** is unknown'
    """
    error = body.get("error") if isinstance(body, dict) else body
    if isinstance(error, dict):
        details = error.get("details")
        more = {"error_code": details.get("error_code")} if isinstance(details, dict) else {}
        told = " ".join(str(part) for part in map({**error, **more}.get, ("code", "type", "error_code", "message")) if part)
    else:
        told = error if isinstance(error, str) else data[: 4 * SHOWN_CHARACTERS].decode(errors="replace")
    shown = told.replace(secret, "***") if secret else told
    return " ".join(KEY_LIKE.sub("***", shown).split())[:SHOWN_CHARACTERS] or "nothing"


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3).

    >>> _retry_after("2.5"), _retry_after("soon"), _retry_after(None)
    (2.5, None, None)
    """
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        seconds = float(value)
    else:
        try:
            when = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)
