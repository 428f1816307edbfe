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
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field
from yarl import URL

from .contracts import Requests
from .credentials import Credential, key_reference
from .endpoint import LOOPBACK, Endpoint, Patience, Question, Service, open_session, plain_urls
from .limits import Limits
from .types import Reply, Request

CHECK_TIMEOUT_S = 5.0

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
    question: Callable[[Request], Question],
    read: Callable[[Request, Mapping[str, Any]], Reply],
) -> AsyncGenerator[tuple[Request, Reply], None]:
    """Each request with its reply as they arrive, many under way at once; close it (aclose) to stop at once.

    `question` makes the body that is POSTed. `read` turns the JSON object that came back into a Reply; where it sets `error`
    the request is asked again, within max_attempts and as `requests.again` allows. Raises TeacherError at the end, after
    everything that could still arrive, when nothing more can be asked.
    """
    running: set[asyncio.Task[tuple[Request, Reply | None]]] = set()
    async with open_session(service) as session:
        endpoint = Endpoint(session, service)

        async def answer(request: Request) -> tuple[Request, Reply | None]:
            reply = await endpoint.ask(question(request), lambda body: read(request, body), lambda: requests.again(request))
            return request, reply

        try:
            while True:
                while len(running) < service.limits.max_concurrency and endpoint.fatal is None:
                    request = requests.take() if running else await anext(requests, None)
                    if request is None:
                        break
                    running.add(asyncio.create_task(answer(request)))
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


def problems_of(service: Service, path: str = "/models") -> list[str]:
    """What a GET of `path` shows: nobody there, a refused key, HTML. A 404 is fine, many servers lack it."""
    told = []
    for base_url in service.base_urls:
        problem = service.credential.problem(base_url)
        if problem:
            return [problem]
        problem = _look(service, base_url, path)
        told += [problem] if problem else []
    return told


def _look(service: Service, base_url: str, path: str) -> str | None:
    request = urllib.request.Request(f"{base_url}{path}{service.query}", headers=service.sent_headers())
    try:
        with _opener(base_url).open(request, timeout=CHECK_TIMEOUT_S) as reply:
            start = reply.read(200).lstrip()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            return f"teacher endpoint {base_url} refuses access (HTTP {error.code}); {service.credential.hint()}"
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
