"""Asks a teacher by way of the journal: looked up first, asked only when missing, recorded before it is used.

    spent = ask(teacher, requests, journal, on_reply)          # replies arrive in any order
    for request, reply in recorded(teacher, requests, journal): ...   # in the order of the requests

Stages that need a teacher's text (generate, evaluate) come through here, so that no answer is paid for twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any, TypeVar

from .contracts import Teacher
from .journal import Entry, Journal, key
from .types import Reply, Request

LOOKED_UP_TOGETHER = 256
COMMITTED_TOGETHER = 64

OnReply = Callable[[Request, Reply], None]
Result = TypeVar("Result")


@dataclass
class Asked:
    """What asking cost: `asked` went to the teacher, `from_journal` did not. A cost of None is unknown, never zero."""

    asked: int = 0
    from_journal: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def count(self, reply: Reply) -> None:
        self.asked += 1
        self.failed += reply.error is not None
        self.prompt_tokens += reply.prompt_tokens or 0
        self.completion_tokens += reply.completion_tokens or 0
        if self.cost_usd is not None and reply.error is None:
            self.cost_usd = None if reply.cost_usd is None else self.cost_usd + reply.cost_usd
        elif self.cost_usd is not None:
            self.cost_usd += reply.cost_usd or 0.0


def ask(
    teacher: Teacher, requests: Iterable[Request], journal: Journal, on_reply: OnReply | None = None, spent: Asked | None = None
) -> Asked:
    """Has every request answered or failed; `on_reply` sees each one after its reply is safe in the journal.

    Requests are pulled as the teacher takes them, never all at once. `spent` is counted up while asking, for progress. Raises
    TeacherError when the teacher cannot be asked at all; whatever had arrived by then, or by Ctrl-C, is in the journal.
    """
    asking = _Asking(teacher, journal, on_reply, spent or Asked())
    _run(asking.run(requests))
    return asking.spent


def recorded(teacher: Teacher, requests: Iterable[Request], journal: Journal) -> Iterator[tuple[Request, Reply | None]]:
    """Each request with its recorded answer in the order given, None where the journal has none; asks nobody."""
    identity = teacher.identity()
    for part in _parts(requests):
        keys = [key(identity, request) for request in part]
        known = journal.get(set(keys))
        for name, request in zip(keys, part, strict=True):
            yield request, known.get(name)


class _Asking:
    """One round of asking: which requests wait for which key, and what has been spent."""

    def __init__(self, teacher: Teacher, journal: Journal, on_reply: OnReply | None, spent: Asked) -> None:
        self.teacher = teacher
        self.journal = journal
        self.on_reply = on_reply
        self.identity = teacher.identity()
        self.waiting: dict[str, list[Request]] = {}
        self.spent = spent

    async def run(self, requests: Iterable[Request]) -> None:
        missing = self._missing(requests)
        first = next(missing, None)
        if first is None:  # all is known: the teacher's weights are not loaded and its key is not needed
            return
        arrived: asyncio.Queue[Entry | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(chain([first], missing), arrived))
        try:
            while entries := await _next(arrived):
                self._record(entries)
        except asyncio.CancelledError:  # Ctrl-C: what has arrived is paid for, so it is kept
            await _stop(reader)
            self._record(_drained(arrived))
            raise
        except BaseException:
            await _stop(reader)
            raise
        await reader

    async def _read(self, requests: Iterator[Request], arrived: asyncio.Queue[Entry | None]) -> None:
        answers = self.teacher.answers(requests)
        try:
            async for request, reply in answers:
                arrived.put_nowait(Entry(request, reply))
                if arrived.qsize() >= COMMITTED_TOGETHER:
                    await asyncio.sleep(0)
        finally:
            if isinstance(answers, AsyncGenerator):  # closes connections and frees weights now, not when collected
                await answers.aclose()
            arrived.put_nowait(None)

    def _missing(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests without a recorded answer, each key once; the known ones are used on the way."""
        for part in _parts(requests):
            keys = [key(self.identity, request) for request in part]
            known = self.journal.get(set(keys))
            fresh = []
            for name, request in zip(keys, part, strict=True):
                if name in known:
                    self.spent.from_journal += 1
                    self._use(request, known[name])
                elif name in self.waiting:
                    self.waiting[name].append(request)
                else:
                    self.waiting[name] = [request]
                    fresh.append(request)
            yield from fresh

    def _record(self, entries: list[Entry]) -> None:
        self.journal.put(self.identity, entries)
        for request, reply in entries:
            self.spent.count(reply)
            for same in self.waiting.pop(key(self.identity, request), []):
                self._use(same, reply)

    def _use(self, request: Request, reply: Reply) -> None:
        if self.on_reply is not None:
            self.on_reply(request, reply)


async def _next(arrived: asyncio.Queue[Entry | None]) -> list[Entry]:
    """All that has arrived, at least one; nothing when the teacher has finished."""
    entry = await arrived.get()
    return [] if entry is None else [entry, *_drained(arrived)]


def _drained(arrived: asyncio.Queue[Entry | None]) -> list[Entry]:
    entries: list[Entry] = []
    while not arrived.empty():
        entry = arrived.get_nowait()
        if entry is None:  # the end: left for the next look
            arrived.put_nowait(None)
            return entries
        entries.append(entry)
    return entries


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _parts(requests: Iterable[Request]) -> Iterator[list[Request]]:
    stream = iter(requests)
    while part := list(islice(stream, LOOKED_UP_TOGETHER)):
        yield part


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs to the end, also where a loop is already running (a notebook): then in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
