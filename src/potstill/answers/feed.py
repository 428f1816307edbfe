"""What a teacher may be asked now: inquiries are walked as far as the journal's answers take them, the rest is handed out.

An inquiry is a generator: it yields a Request, gets the Reply, and may yield another (a longer limit, the next turn of a
chat) until it returns its outcome. `Feed` is the `Requests` that a teacher sees while `asking` asks it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any, Generic, TypeVar

from ..contracts import Requests, Teacher
from ..journal import Entry, Journal, Payer, Spend, keys
from ..types import STOPPED, Reply, Request
from .budget import UNSEEN, Purse

LOOKED_UP_TOGETHER = 256
SECONDS_BETWEEN_LOOKS = 0.05
UNSAFE_FOR_EACH_AT_ONCE = 2
"""How many requests may be taken and not yet safe in the journal, for each that a teacher sends at a time (max_concurrency):
those under way, and as many that have arrived and wait for the disk. More a sudden end of the process never costs."""

T = TypeVar("T")
Inquiry = Generator[Request, Reply, T]


def once(request: Request) -> Inquiry[tuple[Request, Reply]]:
    """The plainest inquiry: one request and its reply."""
    reply = yield request
    return request, reply


@dataclass
class Asked:
    """What asking cost by what the replies tell: `asked` went to the teacher, `from_journal` did not. A cost of None is
    unknown, never zero."""

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
        self.cost_usd = None if self.cost_usd is None or reply.cost_usd is None else self.cost_usd + reply.cost_usd


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


class Walk(Generic[T]):
    """An inquiry on its way, and the request that it waits for."""

    def __init__(self, number: int, inquiry: Inquiry[T]) -> None:
        self.number = number
        self.inquiry = inquiry
        self.request = Request("", ())

    def advance(self, reply: Reply | None, done: Callable[[int, T], None]) -> bool:
        """Sends a reply on (None starts the inquiry); True when the outcome is there and `done` has it."""
        try:
            self.request = next(self.inquiry) if reply is None else self.inquiry.send(reply)
        except StopIteration as end:
            done(self.number, end.value)
            return True
        return False


class Feed(Requests):
    """What one teacher may be asked now: fresh inquiries and those that an answer has led on, within the purse.

    `in_hand` are the requests that the teacher has and has not answered, `unsafe` those whose replies are not recorded yet.
    """

    def __init__(self, asking: Asking[Any], journal: Journal, purse: Purse) -> None:
        super().__init__(())
        self.asking = asking
        self.journal = journal
        self.purse = purse
        self.identity = asking.teacher.identity()
        self.price = asking.teacher.price()
        self.ready: deque[Request] = deque()
        self.waiting: dict[str, list[Walk[Any]]] = {}
        self.in_hand: set[Request] = set()
        self.unsafe: set[Request] = set()
        self.is_starved = False
        self.is_stopped = False
        self._most_unsafe = UNSAFE_FOR_EACH_AT_ONCE * getattr(asking.teacher, "max_concurrency", float("inf"))
        self._changed = asyncio.Event()
        self._on_stop: list[Callable[[], None]] = []
        self._fresh = iter(asking.inquiries)
        self._started = 0
        self._is_dry = False

    def has_something(self) -> bool:
        """Whether there is a request that the journal cannot answer and that may be asked now, money aside."""
        while not self.ready and self._start_some():
            pass
        return bool(self.ready)

    def take(self) -> Request | None:
        if self.is_stopped or len(self.unsafe) >= self._most_unsafe or not self.has_something():
            return None
        if not self.purse.reserve(self.ready[0], self.price):
            return None
        request = self.ready.popleft()
        self.in_hand.add(request)
        self.unsafe.add(request)
        return request

    async def __anext__(self) -> Request:
        while not self.is_stopped:
            self._changed.clear()
            request = self.take()
            if request is not None:
                return request
            if self.unsafe:
                await self._changed.wait()
            elif self.ready and self.purse.under_way.requests > 0:
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)  # what other teachers hold may come back
            else:
                break
        raise StopAsyncIteration

    def again(self, request: Request) -> bool:
        if self.is_stopped:
            return False
        if self.purse.reserve(request, self.price):
            return True
        self.is_starved = True
        return False

    def ended(self, request: Request, attempt: Reply) -> None:
        self.purse.ended(request, attempt, self.price)

    def give_back(self, request: Request) -> None:
        self.purse.give_back(request, self.price)
        self.in_hand.discard(request)
        self.unsafe.discard(request)
        self._changed.set()

    def when_stopped(self, do: Callable[[], None]) -> None:
        self._on_stop.append(do)
        if self.is_stopped:
            do()

    def stop(self) -> None:
        """Hands out nothing more, and tells the teacher so."""
        if not self.is_stopped:
            self.is_stopped = True
            self._changed.set()
            for do in self._on_stop:
                do()

    @property
    def is_done(self) -> bool:
        """Whether every inquiry has come to its outcome."""
        return self._is_dry and not self.waiting

    def charge(self, entries: Sequence[Entry]) -> Spend:
        """Takes replies that have arrived, and what they took out of the purse."""
        charged = Spend()
        for request, reply in entries:
            self.in_hand.discard(request)
            self.asking.spent.count(reply)
            charged += self.purse.settle(request, reply, self.price)
        return charged

    def go_on(self, entries: Sequence[Entry]) -> None:
        """Takes recorded replies: their inquiries go on, to their outcome or to what they ask next."""
        moving: list[tuple[Walk[Any], Reply]] = []
        names = keys(self.identity, (entry.request for entry in entries))
        for (request, reply), name in zip(entries, names, strict=True):
            self.unsafe.discard(request)
            walks = self.waiting.pop(name, ())
            if reply.finish_reason != STOPPED:
                if reply.error is not None:
                    self.asking.failures[name] = reply
                moving += [(walk, reply) for walk in walks]
        self._changed.set()
        self._move(moving)

    def give_up(self) -> list[Entry]:
        """What the teacher was asked and nobody waits for any more, as failures: it may have been paid for."""
        lost = [(request, self.purse.give_up(request, self.price)) for request in self.in_hand]
        return [Entry(request, replace(UNSEEN, attempts=attempts)) for request, attempts in lost if attempts]

    def let_go(self) -> None:
        """Frees what is held for requests that a teacher has taken and not answered."""
        for request in list(self.in_hand):
            self.give_back(request)

    def _start_some(self) -> bool:
        """Starts fresh inquiries, a part at a time; False when none may start or none is left."""
        allowed = min(LOOKED_UP_TOGETHER, self.asking.may_start() - self._started)
        fresh = list(islice(self._fresh, int(allowed))) if allowed > 0 else []
        self._is_dry = self._is_dry or (allowed > 0 and not fresh)
        self._started += len(fresh)
        self._move([(Walk(0, inquiry), None) for inquiry in fresh])
        return bool(fresh)

    def _move(self, moving: Sequence[tuple[Walk[Any], Reply | None]]) -> None:
        """Walks inquiries as far as the journal's answers take them; what is missing there is ready to be asked."""
        while moving:
            walks = [walk for walk, reply in moving if not walk.advance(reply, self._use)]
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
