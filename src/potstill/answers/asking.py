"""Asks teachers by way of the journal: looked up first, asked only when missing, recorded before it is used.

    ask([Asking(teacher, inquiries, use)], journal, purse, run_id)      # outcomes arrive in any order
    for outcome in replay(teacher, inquiries, journal, failures): ...   # in order, asking nobody

An inquiry is a generator: it yields a Request, gets the Reply, and may yield another (a longer limit, the next turn of a
chat) until it returns its outcome. As all of its requests go through the journal, an inquiry that was killed half-way is
walked again to where it was, and pays for nothing twice. Every stage that needs a teacher's text comes through here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from ..contracts import Requests, Teacher
from ..journal import Entry, Journal, Payer, keys
from ..types import Reply, Request
from .budget import Purse

LOOKED_UP_TOGETHER = 256
COMMITTED_TOGETHER = 128
SECONDS_BETWEEN_LOOKS = 0.05
PENDING = Reply("", "error", attempts=0, cost_usd=0.0, error="pending: never asked")

T = TypeVar("T")
Result = TypeVar("Result")
Inquiry = Generator[Request, Reply, T]


def once(request: Request) -> Inquiry[tuple[Request, Reply]]:
    """The plainest inquiry: one request and its reply."""
    reply = yield request
    return request, reply


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


@dataclass
class Asking(Generic[T]):
    """One teacher's share of a round: its inquiries, who sees their outcomes, and whose money it is.

    `may_start` says how many inquiries may be open or done by now (a smoke gate); `failures` keeps the replies with an error.
    """

    teacher: Teacher
    inquiries: Iterable[Inquiry[T]]
    use: Callable[[T], None]
    payer: Payer | None = None
    may_start: Callable[[], float] = lambda: float("inf")
    spent: Asked = field(default_factory=Asked)
    failures: dict[str, Reply] = field(default_factory=dict)


def ask(askings: Sequence[Asking[Any]], journal: Journal, purse: Purse | None = None) -> None:
    """Runs every inquiry to its outcome; `use` sees each one after the replies it rests on are safe in the journal.

    Teachers behind an endpoint are asked side by side, those with weights here one after another. Inquiries are started as
    the teacher takes requests, never all at once. Raises TeacherError when a teacher cannot be asked at all and BudgetError
    when the purse is empty; whatever had arrived by then, or by Ctrl-C, is in the journal.
    """
    _run(_ask_all([_Round(asking, journal, purse) for asking in askings]))


def replay(
    teacher: Teacher, inquiries: Iterable[Inquiry[T]], journal: Journal, failures: Mapping[str, Reply] | None = None
) -> Iterator[T]:
    """Each inquiry's outcome in the order given, out of the journal; what is not there is its failure, or PENDING."""
    identity = teacher.identity()
    known_failures = failures or {}
    for part in _parts(inquiries, LOOKED_UP_TOGETHER):
        outcomes: dict[int, T] = {}
        walks = [_Walk(number, inquiry) for number, inquiry in enumerate(part)]
        walking = [walk for walk in walks if not _advance(walk, None, outcomes.__setitem__)]
        while walking:
            names = keys(identity, (walk.request for walk in walking))
            found = journal.get(set(names))
            replies = [found.get(name) or known_failures.get(name) or PENDING for name in names]
            walking = [
                walk for walk, reply in zip(walking, replies, strict=True) if not _advance(walk, reply, outcomes.__setitem__)
            ]
        yield from (outcomes[number] for number in range(len(part)))


class _Walk(Generic[T]):
    """An inquiry on its way, and the request that it waits for."""

    def __init__(self, number: int, inquiry: Inquiry[T]) -> None:
        self.number = number
        self.inquiry = inquiry
        self.request = Request("", ())


def _advance(walk: _Walk[T], reply: Reply | None, done: Callable[[int, T], None]) -> bool:
    """Sends a reply on (None starts the inquiry); True when the outcome is there and `done` has it."""
    try:
        walk.request = next(walk.inquiry) if reply is None else walk.inquiry.send(reply)
    except StopIteration as end:
        done(walk.number, end.value)
        return True
    return False


class _Feed(Requests):
    """What a teacher may be asked now: fresh inquiries and those that an answer has led on, within the purse."""

    def __init__(self, asking: Asking[Any], journal: Journal, purse: Purse | None) -> None:
        super().__init__(())
        self.asking = asking
        self.journal = journal
        self.purse = purse
        self.identity = asking.teacher.identity()
        self.price = asking.teacher.price()
        self.ready: deque[Request] = deque()
        self.waiting: dict[str, list[_Walk[Any]]] = {}
        self.under_way = 0
        self.changed = asyncio.Event()
        self._fresh = iter(asking.inquiries)
        self._started = 0
        self._is_dry = False
        self.is_starved = False

    def has_something(self) -> bool:
        """Whether there is a request that the journal cannot answer and that may be asked now, money aside."""
        while not self.ready and self._start_some():
            pass
        return bool(self.ready)

    def take(self) -> Request | None:
        if not self.has_something() or (self.purse is not None and not self.purse.reserve(self.ready[0], self.price)):
            return None
        self.under_way += 1
        return self.ready.popleft()

    async def __anext__(self) -> Request:
        while True:
            self.changed.clear()
            request = self.take()
            if request is not None:
                return request
            if self.under_way == 0 and self.ready and self.purse is not None and self.purse.under_way.requests > 0:
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)  # what other teachers hold may come back
                continue
            if self.under_way == 0:
                raise StopAsyncIteration
            await self.changed.wait()

    def again(self, request: Request) -> bool:
        if self.purse is None or self.purse.reserve(request, self.price):
            return True
        self.is_starved = True
        return False

    @property
    def is_done(self) -> bool:
        """Whether every inquiry has come to its outcome."""
        return self._is_dry and not self.waiting

    def settle(self, entries: Sequence[Entry]) -> None:
        """Takes recorded replies: their inquiries go on, to their outcome or to what they ask next."""
        moving: list[tuple[_Walk[Any], Reply]] = []
        names = keys(self.identity, (entry.request for entry in entries))
        for (request, reply), name in zip(entries, names, strict=True):
            self.under_way -= 1
            self.asking.spent.count(reply)
            if self.purse is not None:
                self.purse.settle(request, reply, self.price)
            if reply.error is not None:
                self.asking.failures[name] = reply
            moving += [(walk, reply) for walk in self.waiting.pop(name, ())]
        self._move(moving)
        self.changed.set()

    def _start_some(self) -> bool:
        """Starts fresh inquiries, a part at a time; False when none may start or none is left."""
        allowed = min(LOOKED_UP_TOGETHER, self.asking.may_start() - self._started)
        fresh = list(islice(self._fresh, int(allowed))) if allowed > 0 else []
        self._is_dry = self._is_dry or (allowed > 0 and not fresh)
        self._started += len(fresh)
        self._move([(_Walk(0, inquiry), None) for inquiry in fresh])
        return bool(fresh)

    def _move(self, moving: Sequence[tuple[_Walk[Any], Reply | None]]) -> None:
        """Walks inquiries as far as the journal's answers take them; what is missing there is ready to be asked."""
        while moving:
            walks = [walk for walk, reply in moving if not _advance(walk, reply, self._use)]
            names = keys(self.identity, (walk.request for walk in walks))
            known = self.journal.get(set(names)) if names else {}
            moving = []
            for name, walk in zip(names, walks, strict=True):
                if name in known:
                    self.asking.spent.from_journal += 1
                    moving.append((walk, known[name]))
                elif name in self.waiting:
                    self.waiting[name].append(walk)
                else:
                    self.waiting[name] = [walk]
                    self.ready.append(walk.request)

    def _use(self, _: int, outcome: Any) -> None:
        self.asking.use(outcome)


class _Round:
    """One teacher being asked: its replies are put into the journal together, as many as have arrived."""

    def __init__(self, asking: Asking[Any], journal: Journal, purse: Purse | None) -> None:
        self.asking = asking
        self.journal = journal
        self.purse = purse
        self.is_local = asking.teacher.local_model() is not None

    async def run(self) -> None:
        feed = _Feed(self.asking, self.journal, self.purse)
        if feed.has_something():  # else all is known: the teacher's weights are not loaded and its key is not needed
            await self._ask(feed)
        if self.purse is not None and (feed.is_starved or not feed.is_done):
            raise self.purse.error()

    async def _ask(self, feed: _Feed) -> None:
        arrived: asyncio.Queue[Entry | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(feed, arrived))
        try:
            while entries := await _next(arrived):
                await self._record(feed, entries)
        except asyncio.CancelledError:  # Ctrl-C: what has arrived is paid for, so it is kept
            await _stop(reader)
            entries = _drained(arrived)
            self._keep(feed, entries)
            feed.settle(entries)
            raise
        except BaseException:
            await _stop(reader)
            self._keep(feed, _drained(arrived))
            raise
        await reader

    async def _read(self, feed: _Feed, arrived: asyncio.Queue[Entry | None]) -> None:
        answers = self.asking.teacher.answers(feed)
        try:
            async for request, reply in answers:
                arrived.put_nowait(Entry(request, reply))
                if arrived.qsize() >= COMMITTED_TOGETHER:
                    await asyncio.sleep(0)
        finally:
            if isinstance(answers, AsyncGenerator):  # closes connections and frees weights now, not when collected
                await answers.aclose()
            arrived.put_nowait(None)

    async def _record(self, feed: _Feed, entries: list[Entry]) -> None:
        """Writes in a thread, as a disk's sync takes as long as ten requests; to its end, also when this is cancelled."""
        writing = asyncio.create_task(asyncio.to_thread(self._keep, feed, entries))
        try:
            await asyncio.shield(writing)
        finally:
            await asyncio.wait([writing])
            if writing.exception() is None:
                feed.settle(entries)

    def _keep(self, feed: _Feed, entries: list[Entry]) -> None:
        self.journal.put(feed.identity, entries, self.asking.payer)


async def _ask_all(rounds: Sequence[_Round]) -> None:
    async def one_by_one() -> None:
        for one in rounds:
            if one.is_local:
                await one.run()

    tasks = [asyncio.create_task(one.run()) for one in rounds if not one.is_local]
    tasks.append(asyncio.create_task(one_by_one()))
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


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


def _parts(stream: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(stream)
    while part := list(islice(rest, size)):
        yield part


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs to the end, also where a loop is already running (a notebook): then in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
