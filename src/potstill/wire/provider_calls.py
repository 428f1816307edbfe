"""Single calls to a provider's API, for what is not one row's question: files, batches, their state and their results.

Each call is tried once and tells by its error what became of it: UnreachableError did not arrive, any other PassingError may
have arrived, RowError was refused, and a TeacherError ends the job (`http_faults`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from .endpoint import Service
from .http_faults import FaultReader, HttpAnswer, PassingError, RowError, SlowError, UnreachableError


class Calls:
    """A provider's API under one address, with the headers of a session."""

    def __init__(self, session: aiohttp.ClientSession, service: Service) -> None:
        self.session = session
        self.base_url = service.base_urls[0]
        self.query = service.query
        self.credential = service.credential
        self._has_answered = False
        wait = service.patience.timeout_s
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=wait, sock_read=wait)  # a large file takes its time

    async def get(
        self, path: str, parameters: Mapping[str, str] | None = None, *, may_be_missing: bool = False
    ) -> dict[str, Any]:
        """The JSON object at a path; RowError where there is none and it `may_be_missing`."""
        async with self._open("GET", path, params=parameters) as response:
            answer = HttpAnswer(response.status, response.headers, await response.read())
        if answer.status == 404 and may_be_missing:
            raise RowError("HTTP 404")
        return self._body(path, answer)

    async def post(self, path: str, data: Any, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON object that answers; `data` is what aiohttp takes: bytes, an open file, a form."""
        async with self._open("POST", path, data=data, headers=headers) as response:
            return self._body(path, HttpAnswer(response.status, response.headers, await response.read()))

    async def lines(self, path: str) -> AsyncGenerator[str, None]:
        """The lines of a file, as they come; an error in the midst of it says that it is not whole."""
        async with self._open("GET", path) as response:
            if response.status != 200:
                self._body(path, HttpAnswer(response.status, response.headers, await response.read()))
                raise PassingError(f"HTTP {response.status} instead of a file")
            rest = b""
            async for part in response.content.iter_any():
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
            if rest:
                yield rest.decode(errors="replace")

    def _body(self, path: str, answer: HttpAnswer) -> dict[str, Any]:
        reader = FaultReader(f"{self.base_url}{path}", self.credential)
        body = reader.body(answer, has_answered=self._has_answered)
        self._has_answered = True
        return body

    @asynccontextmanager
    async def _open(self, method: str, path: str, **what: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        url = f"{self.base_url}{path}{self.query}"
        try:
            async with self.session.request(method, url, timeout=self._timeout, allow_redirects=False, **what) as response:
                yield response
        except aiohttp.ClientConnectorError as error:
            raise UnreachableError(f"no connection to {url} ({error.strerror or error.os_error})") from None
        except TimeoutError:
            raise SlowError(f"no answer from {url} in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise PassingError(f"the connection to {url} broke ({type(error).__name__})") from None


def id_of(body: Mapping[str, Any]) -> str:
    """The id of what was made; where none is told, whether it was made is not certain."""
    name = body.get("id")
    if not isinstance(name, str) or not name:
        raise PassingError("the provider answered without an id")
    return name


def listed(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What stands on a page of a list.

    >>> listed({"data": [{"id": "batch_1"}, "odd"], "has_more": False})
    [{'id': 'batch_1'}]
    """
    data = page.get("data")
    return [one for one in data if isinstance(one, dict) and "id" in one] if isinstance(data, list) else []


async def all_listed(calls: Calls, path: str, after: str) -> AsyncGenerator[dict[str, Any], None]:
    """Everything in a list, page after page; `after` names the parameter that a next page is asked for with."""
    parameters, seen = {"limit": "100"}, set[str]()
    while True:
        page = await calls.get(path, parameters)
        fresh = [one for one in listed(page) if one["id"] not in seen]
        for one in fresh:
            seen.add(one["id"])
            yield one
        if not fresh or not page.get("has_more"):
            return
        parameters = {"limit": "100", after: str(fresh[-1]["id"])}
