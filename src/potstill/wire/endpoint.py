"""Asks HTTP endpoints that answer in JSON, with patience: retries, backoff, limits, and the sense to give up.

    async with open_session(service) as session, Endpoint(session, service) as endpoint:
        reply = await endpoint.ask(Question(body, key), read)

What cannot get better (`http_faults`) is `fatal`: nothing more is asked, and what is under way may still arrive. `stop` does
the same for a reason of ours.
"""

from __future__ import annotations

import asyncio
import errno
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import aiohttp
from yarl import URL

from ..errors import TeacherError
from ..types import STOPPED, Reply, summed
from .credentials import Credential
from .http_faults import FaultReader, HttpAnswer, PassingError, RateLimitError, RowError, SlowError, UnreachableError
from .limits import Limits, Needs
from .pool import NO_NEEDS, Patience, Place, Pool, Turn

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
ROWS_BEFORE_GIVING_UP = 16
FINAL = ("length", "content_filter")
"""Finish reasons after which the same question would end the same way, with or without a text."""
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5.0)

ReadReply = Callable[[Mapping[str, Any]], Reply]


def plain_urls(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """A checked `base_url` field, without a slash at its end; raises ValueError where it is no address or holds a secret.

    >>> plain_urls("http://127.0.0.1:8000/v1/")
    'http://127.0.0.1:8000/v1'
    """
    if isinstance(value, str):
        return _plain_url(value)
    urls = tuple(_plain_url(url) for url in value)
    if not urls or len(set(urls)) < len(urls):
        raise ValueError("base_url must name at least one address, and none twice")
    return urls


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
    patience: Patience = field(default_factory=Patience)
    limits: Limits = field(default_factory=Limits)
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""

    def sent_headers(self) -> dict[str, str]:
        """The headers of every request; raises TeacherError where the key is missing or cannot be sent."""
        return {**self.credential.headers(self.base_urls[0]), **self.headers}


def open_session(service: Service) -> aiohttp.ClientSession:
    """A session that sends the service's headers; raises TeacherError where the key is missing or cannot be sent."""
    proxied = any(URL(url).host not in LOOPBACK for url in service.base_urls)  # the user's proxy is not for this machine
    connector = aiohttp.TCPConnector(limit=0)  # the pool counts
    return aiohttp.ClientSession(headers=service.sent_headers(), trust_env=proxied, connector=connector)


@dataclass(frozen=True, slots=True)
class Question:
    """One POST; the same idempotency key goes with each attempt, so a server that knows it does the work once.

    An empty key is not sent.
    """

    body: Mapping[str, Any]
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What one row's asking has to do with others: what it `needs` of the limits, and its money.

    `ended` is told what each attempt took by itself, and then `again` says whether there may be another.
    """

    needs: Needs = NO_NEEDS
    ended: Callable[[Reply], None] = lambda _: None
    again: Callable[[], bool] = lambda: True


ANY_ROW = Row()


class Endpoint:
    """One service, as many rows ask it at the same time."""

    def __init__(self, session: aiohttp.ClientSession, service: Service) -> None:
        self.session = session
        self.service = service
        self.patience = service.patience
        self.pool = Pool(service.base_urls, service.limits, service.patience, self._is_alive, self._all_gone)
        self.fatal: TeacherError | None = None
        self.give_up_rows = max(ROWS_BEFORE_GIVING_UP, service.limits.max_concurrency)
        self._readers = {url: FaultReader(self._url(url), service.credential) for url in service.base_urls}
        self._urls = {url: URL(self._url(url)) for url in service.base_urls}
        self._timeout = aiohttp.ClientTimeout(total=service.patience.timeout_s)
        self._stopped = asyncio.Event()
        self._answered_once = False
        self._failed_in_a_row = 0
        self._unreachable = ""

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.pool.close()

    async def ask(self, question: Question, read: ReadReply, row: Row = ANY_ROW) -> Reply | None:
        """The reply, one with `error` when this row failed, or None when it was never sent, as nothing more is asked.

        `read` turns the JSON body into a Reply; one with `error` is asked for again, except after a FINAL finish reason.
        Attempts, tokens and cost are those of all attempts; the cost is None where that of one is not known. The finish
        reason is STOPPED where the end of the asking left the row without an answer.
        """
        worn, answers = 0.0, 0
        total: Reply | None = None
        place: Place | None = None
        while True:
            turn = await self.pool.turn(row.needs, avoid=place)
            if turn is None:
                return _cut_short(total)
            place, start = turn.place, time.perf_counter()
            try:
                reply, fault = await self._attempt(turn, question, read, answers)
            except TeacherError as error:
                self._give_up(error)
                reply, fault = Reply("", STOPPED, cost_usd=0.0, error=str(error)), None
            finally:
                self.pool.back(turn)
            row.ended(reply)
            total = reply if total is None else summed(total, reply)
            total = replace(total, latency_s=round(time.perf_counter() - start, 4))
            if reply.error is None:
                self._answered_once, self._failed_in_a_row = True, 0
                return total
            answers += fault is None
            worn += fault.counts if isinstance(fault, PassingError) else 1.0
            is_of_row = isinstance(fault, RowError) or reply.finish_reason in FINAL
            if self.pool.is_stopped and not is_of_row:
                return _cut_short(total)
            if is_of_row or worn >= self.patience.max_attempts or not row.again():
                return self._failed(total, is_of_row=is_of_row)
            if not (isinstance(fault, UnreachableError) or (isinstance(fault, PassingError) and fault.wait_s)):
                await self._sleep(self.patience.pause(max(1, int(worn))))

    def stop(self) -> None:
        """Nothing more is asked; what is under way may still arrive."""
        self._stopped.set()
        self.pool.stop()

    async def _attempt(
        self, turn: Turn, question: Question, read: ReadReply, answers: int
    ) -> tuple[Reply, PassingError | RowError | None]:
        """One POST and what became of it. Raises TeacherError when nothing more should be asked."""
        headers: Mapping[str, str] = {}
        try:
            answer = await self._post(turn.place, question, answers)
            headers = answer.headers
            reply = read(self._readers[turn.place.base_url].body(answer, has_answered=turn.place.has_answered))
        except RowError as fault:
            return Reply("", fault.reason, cost_usd=0.0 if fault.is_free else None, error=str(fault)), fault
        except PassingError as fault:
            self._heed(turn, fault, headers)
            return Reply("", "error", cost_usd=0.0 if fault.is_free else None, error=str(fault)), fault
        if reply.error is None:
            used = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)
            self.pool.answered(turn, headers, used or None)
        elif reply.finish_reason not in FINAL:
            self.pool.troubled(turn)
        return reply, None

    def _heed(self, turn: Turn, fault: PassingError, headers: Mapping[str, str]) -> None:
        if fault.is_overload or fault.wait_s is not None:
            self.pool.busy(turn, headers, fault.wait_s)
        if isinstance(fault, UnreachableError):
            self._unreachable = str(fault)
        if not isinstance(fault, RateLimitError):
            self.pool.troubled(turn, unreachable=isinstance(fault, UnreachableError))

    async def _post(self, place: Place, question: Question, answers: int) -> HttpAnswer:
        headers = {"Content-Type": "application/json"}
        if question.idempotency_key:  # an answer that came but was of no use is not wanted once more
            headers["Idempotency-Key"] = f"{question.idempotency_key}-{answers}" if answers else question.idempotency_key
        url = self._urls[place.base_url]
        data = json.dumps(question.body).encode()
        try:
            async with self.session.post(
                url, data=data, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                return HttpAnswer(response.status, response.headers, await response.read())
        except aiohttp.ClientConnectorCertificateError as error:
            raise TeacherError(
                f"teacher endpoint {url} has a certificate that does not hold ({error}); correct base_url"
            ) from None
        except aiohttp.ClientConnectorError as error:
            if error.os_error.errno in (errno.EMFILE, errno.ENFILE):  # this machine's limit, not the server's
                raise RateLimitError("too many open files; raise ulimit -n or lower max_concurrency") from None
            raise UnreachableError(f"no connection to {url} ({error.strerror or error.os_error})") from None
        except TimeoutError:
            raise SlowError(f"no answer within {self.patience.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise PassingError(f"the connection broke ({type(error).__name__})") from None

    async def _is_alive(self, base_url: str) -> bool:
        """Whether a server that was left out answers again; any answer but a server error will do."""
        try:
            async with self.session.get(f"{base_url}/models{self.service.query}", timeout=PROBE_TIMEOUT) as response:
                return response.status < 500
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    def _url(self, base_url: str) -> str:
        return f"{base_url}{self.service.path}{self.service.query}"

    def _all_gone(self) -> None:
        self._give_up(
            TeacherError(
                f"teacher endpoint: {self._unreachable or 'no server is left'}; start the server or correct base_url, then run "
                "again to go on"
            )
        )

    def _failed(self, reply: Reply, *, is_of_row: bool) -> Reply:
        """Counts a row that failed; too many in a row, and the endpoint is given up."""
        if not is_of_row or not self._answered_once:
            self._failed_in_a_row += 1
        if self._failed_in_a_row >= self.give_up_rows:
            self._give_up(
                TeacherError(
                    f"teacher endpoint {self._url(self.service.base_urls[0])} gave no usable answer to {self._failed_in_a_row} "
                    f"rows in a row, the last: {reply.error}; answers so far are kept, run again to go on"
                )
            )
        return reply

    def _give_up(self, error: TeacherError) -> None:
        self.fatal = self.fatal or error
        self.stop()

    async def _sleep(self, seconds: float) -> None:
        """Sleeps, or until the whole job gives up."""
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return


def _cut_short(so_far: Reply | None) -> Reply | None:
    """What a row has come to whose asking ends; its cost counts."""
    return None if so_far is None else replace(so_far, text="", finish_reason=STOPPED)
