"""What all teachers behind an HTTP endpoint share: their fields' types, the asking of many rows at once, and the look before.

class OpenAiApi(Teacher):
    base_url: BaseUrl
    api_key: ApiKey = None
    max_concurrency: MaxConcurrency = 128
    ...                                               # the fields of HostedFields

    def service(self) -> Service:
        return service_of(self, "/chat/completions", Credential(self.api_key))

    async def answers(self, requests):
        async with aclosing(ask_all(self.service(), requests, self._question, self._read)) as replies:
            async for request, reply in replies:
                yield request, reply

    def problems(self):
        return problems_of(self.service())
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from functools import partial
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field
from yarl import URL

from ..contracts import Requests
from ..types import Reply, Request
from .credentials import Credential, key_reference
from .endpoint import LOOPBACK, Endpoint, Question, Row, Service, open_session, plain_urls
from .limits import Limits, Needs
from .pool import Patience

CHECK_TIMEOUT_S = 5.0
REFUSED = "refuses access"
OPEN_PER_REQUEST = 2
"""How many rows may be open for each that may be under way: the others wait to be asked again."""

MakeQuestion = Callable[[Request], Question]
ReadBody = Callable[[Request, Mapping[str, Any]], Reply]

BaseUrl = Annotated[
    str | tuple[str, ...],
    AfterValidator(plain_urls),
    Field(description="up to and with /v1, such as http://127.0.0.1:8000/v1; a list where several servers hold the same model"),
]
ApiKey = Annotated[
    str | None, AfterValidator(key_reference), Field(description="env:NAME, the environment variable that holds the key")
]
MaxConcurrency = Annotated[int, Field(ge=1, description="most requests under way at once; fewer while the server is busy")]
PerMinute = Annotated[int | None, Field(ge=1, description="most of them sent in a minute; default: as the server allows")]
TimeoutS = Annotated[float, Field(gt=0, description="longest wait for one reply")]
MaxAttempts = Annotated[int, Field(ge=1, description="how often one row is asked before it counts as failed")]
BackoffS = Annotated[float, Field(gt=0, description="first wait before asking again; doubles each time")]


class HostedFields(Protocol):
    """The fields that every such teacher has, under the same names."""

    @property
    def base_url(self) -> str | tuple[str, ...]: ...
    @property
    def max_concurrency(self) -> int: ...
    @property
    def max_requests_per_minute(self) -> int | None: ...
    @property
    def max_tokens_per_minute(self) -> int | None: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def backoff_s(self) -> float: ...


def service_of(
    teacher: HostedFields, path: str, credential: Credential, headers: Mapping[str, str] | None = None, query: str = ""
) -> Service:
    """Where a teacher with these fields is asked: `path` behind each base_url, with more `headers` than the key's."""
    urls = (teacher.base_url,) if isinstance(teacher.base_url, str) else teacher.base_url
    patience = Patience(teacher.timeout_s, teacher.max_attempts, teacher.backoff_s)
    limits = Limits(teacher.max_concurrency, teacher.max_requests_per_minute, teacher.max_tokens_per_minute)
    return Service(urls, path, credential, patience, limits, headers or {}, query)


async def ask_all(
    service: Service,
    requests: Requests,
    question: MakeQuestion,
    read: ReadBody,
) -> AsyncGenerator[tuple[Request, Reply], None]:
    """Each request with its reply as they arrive, many under way at once; close it (aclose) to stop at once.

    `question` makes the body that is POSTed. `read` turns the JSON object that came back into a Reply; where it sets `error`
    the request is asked again, within max_attempts and as `requests.again` allows. Raises TeacherError at the end, after
    everything that could still arrive, when nothing more can be asked; what was not sent by then is given back.
    """
    async with open_session(service) as session, Endpoint(session, service) as endpoint:
        asking = _Asking(endpoint, requests, question, read)
        try:
            while (answered := await asking.arrived.get()) is not None:
                asking.open.release()
                yield answered
        finally:
            await asking.close()
    if endpoint.fatal is not None:
        raise endpoint.fatal


class _Asking:
    """Takes requests as the endpoint has room for them, each in a task of its own, so that none waits behind another."""

    def __init__(self, endpoint: Endpoint, requests: Requests, question: MakeQuestion, read: ReadBody) -> None:
        self.endpoint = endpoint
        self.requests = requests
        self.question = question
        self.read = read
        self.arrived: asyncio.Queue[tuple[Request, Reply] | None] = asyncio.Queue()
        """None is the end."""
        self.open = asyncio.Semaphore(OPEN_PER_REQUEST * endpoint.service.limits.max_concurrency)
        self._tokens, self._characters = 1, 4  # of prompts so far; the usual ratio until the first reply
        self._running: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._taking = self._start(self._take_all())
        requests.when_stopped(endpoint.stop)

    async def close(self) -> None:
        """Stops what still runs; raises what went wrong in it."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._fault is not None:
            raise self._fault

    async def _take_all(self) -> None:
        while True:
            await self.open.acquire()
            await self.endpoint.pool.room()
            if self.endpoint.pool.is_stopped:
                return
            request = self.requests.take()
            if request is None:
                request = await anext(self.requests, None)
            if request is None:
                return
            self._start(self._answer(request))
            await asyncio.sleep(0)  # so that it has its place at the endpoint before room is looked for again

    async def _answer(self, request: Request) -> None:
        characters = sum(len(message.content) for message in request.messages)
        needs = Needs(characters * self._tokens / self._characters, request.sampling.max_tokens)
        row = Row(needs, partial(self.requests.ended, request), partial(self.requests.again, request))
        reply = await self.endpoint.ask(self.question(request), partial(self.read, request), row)
        if reply is None:
            self.requests.give_back(request)
            self.open.release()
            return
        if reply.prompt_tokens and reply.attempts == 1:
            self._tokens, self._characters = self._tokens + reply.prompt_tokens, self._characters + characters
        self.arrived.put_nowait((request, reply))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self._fault = self._fault or fault
            self.endpoint.stop()
        rows = self._running - {self._taking}
        waits_in_vain = self.endpoint.pool.is_stopped  # the taking, for what only an answer would bring
        if not rows and (waits_in_vain or self._taking.done()):
            self.arrived.put_nowait(None)


def problems_of(service: Service, path: str = "/models") -> list[str]:
    """What a GET of `path` shows: nobody there, a refused key, HTML. A 404 is fine, many servers lack it.

    Of several servers it is enough that one is well, where no other refuses the key: the job goes on without the others.
    """
    problem = service.credential.problem(service.base_urls[0])
    if problem:
        return [problem]
    told = [_look(service, base_url, path) for base_url in service.base_urls]
    one_is_well = None in told
    return [problem for problem in told if problem and (REFUSED in problem or not one_is_well)]


def _look(service: Service, base_url: str, path: str) -> str | None:
    request = urllib.request.Request(f"{base_url}{path}{service.query}", headers=service.sent_headers())
    try:
        with _opener(base_url).open(request, timeout=CHECK_TIMEOUT_S) as reply:
            start = reply.read(200).lstrip()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            return f"teacher endpoint {base_url} {REFUSED} (HTTP {error.code}); {service.credential.hint()}"
        if error.code >= 500 or 300 <= error.code < 400:
            return f"teacher endpoint {base_url} answers HTTP {error.code}; check base_url or try again later"
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"teacher endpoint {base_url} does not answer ({reason}); start the server or correct base_url"
    if not start.startswith((b"{", b"[")):
        return f"teacher endpoint {base_url} does not answer with JSON; is base_url right? It often ends in /v1"
    return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener(base_url: str) -> urllib.request.OpenerDirector:
    direct = [urllib.request.ProxyHandler({})] if URL(base_url).host in LOOPBACK else []
    return urllib.request.build_opener(_NoRedirect, *direct)
