"""Asks teachers by way of the journal: looked up first, asked only when missing, recorded before it is used.

    ask([Asking(teacher, inquiries, use, payer)], journal, purse)       # outcomes arrive in any order
    for outcome in replay(teacher, inquiries, journal, failures): ...   # in order, asking nobody

As all requests of an inquiry (`feed`) go through the journal, one that was killed half-way is walked again to where it was,
and pays for nothing twice. Every stage that needs a teacher's text comes through here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, TypeVar

from ..contracts import Teacher
from ..errors import PotstillError
from ..journal import Entry, Journal, Spend, keys
from ..types import Reply
from .budget import Budget, BudgetError, Purse
from .feed import LOOKED_UP_TOGETHER, Feed, Walk
from .feed import Asked as Asked
from .feed import Asking as Asking
from .feed import Inquiry as Inquiry
from .feed import once as once

MOST_UNRECORDED = 256
"""Replies of one teacher that may have arrived and not be on the disk yet; it is not listened to while there are more."""
GRACE_S = 5.0
"""How long Ctrl-C waits for answers that are under way: they are paid for. A second Ctrl-C does not wait."""
PENDING = Reply("", "error", attempts=0, cost_usd=0.0, error="pending: never asked")

T = TypeVar("T")
Result = TypeVar("Result")
Because = Callable[[Exception], None]


def ask(askings: Sequence[Asking[Any]], journal: Journal, purse: Purse | None = None) -> None:
    """Runs every inquiry to its outcome; `use` sees each one after the replies it rests on are safe in the journal.

    Teachers behind an endpoint are asked side by side, those with weights here one after another. Inquiries are started as
    the teacher takes requests, never all at once. Raises TeacherError when a teacher cannot be asked at all, BudgetError
    when the purse is empty, and what `use` raises. Before it raises, nothing new is asked and what is under way arrives, of
    all teachers, in the journal; after Ctrl-C as much as arrives in `GRACE_S`.
    """
    _run(_Rounds(askings, journal, purse or Purse(Budget(), Spend())).run())


def replay(
    teacher: Teacher, inquiries: Iterable[Inquiry[T]], journal: Journal, failures: Mapping[str, Reply] | None = None
) -> Iterator[T]:
    """Each inquiry's outcome in the order given, out of the journal; what is not there is its failure, or PENDING."""
    identity = teacher.identity()
    known_failures = failures or {}
    for part in _parts(inquiries, LOOKED_UP_TOGETHER):
        outcomes: dict[int, T] = {}
        walks = [Walk(number, inquiry) for number, inquiry in enumerate(part)]
        walking = [walk for walk in walks if not walk.advance(None, outcomes.__setitem__)]
        while walking:
            names = keys(identity, (walk.request for walk in walking))
            found = journal.get(set(names))
            replies = [found.get(name) or known_failures.get(name) or PENDING for name in names]
            walking = [
                walk for walk, reply in zip(walking, replies, strict=True) if not walk.advance(reply, outcomes.__setitem__)
            ]
        yield from (outcomes[number] for number in range(len(part)))


class _Rounds:
    """All teachers that are asked by one call, and why they stop."""

    def __init__(self, askings: Sequence[Asking[Any]], journal: Journal, purse: Purse) -> None:
        self.askings = askings
        self.journal = journal
        self.purse = purse
        self._rounds: list[_Round] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._reasons: list[Exception] = []

    async def run(self) -> None:
        self._rounds = [_Round(asking, self.journal, self.purse, self._because) for asking in self.askings]
        groups = [[one] for one in self._rounds if not one.is_local] + [[one for one in self._rounds if one.is_local]]
        self._tasks = [asyncio.create_task(_one_by_one(group)) for group in groups if group]
        try:
            if self._tasks:
                await asyncio.wait(self._tasks)
        except asyncio.CancelledError:  # Ctrl-C; another one comes out of this wait too
            self._stop()
            await asyncio.wait(self._tasks, timeout=GRACE_S)
            raise
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if any(one.is_out_of_money for one in self._rounds):
            self._reasons.append(self.purse.error())
        if self._reasons:
            raise _worded(self._reasons)

    def _because(self, reason: Exception) -> None:
        """One teacher's asking comes to an end before its time: nobody is asked anything new."""
        self._reasons.append(reason)
        self._stop()

    def _stop(self) -> None:
        for one in self._rounds:
            one.feed.stop()


class _Round:
    """One teacher being asked: its replies are put into the journal together, as many as have arrived."""

    def __init__(self, asking: Asking[Any], journal: Journal, purse: Purse, because: Because) -> None:
        self.asking = asking
        self.journal = journal
        self.feed = Feed(asking, journal, purse)
        self.is_local = asking.teacher.local_model() is not None
        self.is_out_of_money = False
        self._because = because
        self._arrived: asyncio.Queue[Entry | None] = asyncio.Queue()
        """None is the end."""
        self._room = asyncio.Semaphore(MOST_UNRECORDED)

    async def run(self) -> None:
        feed = self.feed
        with self._told():
            if feed.has_something():  # else all is known: the teacher's weights are not loaded and its key is not needed
                await self._ask()
        self.is_out_of_money = feed.is_starved or not (feed.is_stopped or feed.is_done)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong inside stops all teachers in order, and is raised when what is under way has arrived."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - _Rounds raises it
            self._because(error)

    async def _ask(self) -> None:
        reader = asyncio.create_task(self._read())
        try:
            while entries := await self._next():
                with self._told():
                    await self._record(entries)
                for _ in entries:
                    self._room.release()
        except BaseException:  # cancelled: the end without waiting
            await self._keep_the_rest(reader)
            raise
        try:
            await reader
        finally:
            self.feed.let_go()

    async def _read(self) -> None:
        answers = self.asking.teacher.answers(self.feed)
        try:
            async for request, reply in answers:
                self._arrived.put_nowait(Entry(request, reply))
                await self._room.acquire()
        finally:
            if isinstance(answers, AsyncGenerator):  # closes connections and frees weights now, not when collected
                await answers.aclose()
            self._arrived.put_nowait(None)

    async def _next(self) -> list[Entry]:
        """All that has arrived, at least one; nothing when the teacher has finished."""
        entry = await self._arrived.get()
        return [] if entry is None else [entry, *self._drained()]

    def _drained(self) -> list[Entry]:
        entries: list[Entry] = []
        while not self._arrived.empty():
            entry = self._arrived.get_nowait()
            if entry is None:  # the end: left for the next look
                self._arrived.put_nowait(None)
                return entries
            entries.append(entry)
        return entries

    async def _record(self, entries: list[Entry]) -> None:
        """Writes in a thread, as a disk's sync takes as long as ten requests; to its end, also when this is cancelled."""
        writing = asyncio.create_task(asyncio.to_thread(self._put, entries, self.feed.charge(entries)))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            raise
        self.feed.go_on(entries)

    async def _keep_the_rest(self, reader: asyncio.Task[None]) -> None:
        """The end without waiting: keeps what has arrived, and counts what was sent for nothing as dear as it may have been."""
        self.feed.stop()
        for _ in range(MOST_UNRECORDED):
            self._room.release()
        await asyncio.sleep(0)  # the reader takes what lies ready
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        entries = self._drained()
        charged = self.feed.charge(entries)
        if not self.is_local:
            lost = self.feed.give_up()
            charged += self.feed.charge(lost)
            entries += lost
        self._put(entries, charged)

    def _put(self, entries: list[Entry], charged: Spend) -> None:
        self.journal.put(self.feed.identity, entries, self.asking.payer, charged)


async def _one_by_one(rounds: Sequence[_Round]) -> None:
    for one in rounds:
        if not one.feed.is_stopped:
            await one.run()


def _worded(reasons: Sequence[Exception]) -> Exception:
    """What to raise where several stop reasons meet: the first, and that the budget is used up behind what else it was."""
    first = min(reasons, key=lambda reason: isinstance(reason, BudgetError))
    if isinstance(first, PotstillError) and len(reasons) > 1 and isinstance(reasons[-1], BudgetError):
        first.args = (f"{first}; and {reasons[-1]}",)
    return first


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
    return _run_in_a_thread(work)


def _run_in_a_thread(work: Coroutine[Any, Any, Result]) -> Result:
    """As asyncio.run, Ctrl-C included: it comes out here, so that it is passed on and the end waited for."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def told() -> Result:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result((asyncio.get_running_loop(), task))
        return await work

    with ThreadPoolExecutor(max_workers=1) as thread:
        working = thread.submit(asyncio.run, told())
        try:
            return working.result()
        except KeyboardInterrupt:
            while not working.done():
                with suppress(KeyboardInterrupt, RuntimeError):  # a second one, which does not wait; a loop that just ended
                    loop, task = begun.result()
                    loop.call_soon_threadsafe(task.cancel)
                    wait([working])
            raise
