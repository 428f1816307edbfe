"""Asks by a provider's batches: many rows in one file, answered within a day, at a lower price.

    async for request, reply in BatchAsking(provider, ledger, plan).ask(requests): ...

Every batch is written into the ledger before it is sent, and rows are joined to answers by their journal key alone. So a
process that was killed finds its batches again, also one that the provider had taken before its id was known here: such a
batch is looked for at the provider, twice, before its rows are sent anew. A batch that ends early (expired, cancelled) keeps
its answers, and only what is missing is asked again. A batch that is refused as a whole is split, so that one row that the
provider does not take stands alone in the end and fails alone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from ..contracts import Requests
from ..errors import TeacherError
from ..types import Reply, Request, summed
from .batch_api import BatchPlan, Look, Outcome, Provider
from .batch_ledger import Batch, Ledger, Row
from .endpoint import FINAL
from .http_faults import PassingError, RowError

KEPT_TOGETHER = 500
SETTLE_S = 10.0
"""How long before a provider is asked a second time for a batch that it may have taken just now."""
REFUSED_IN_A_ROW = 40
"""Splitting finds one bad row of 100,000 in 17 steps of at most two refusals; more in a row are not one row's fault."""
HELD_ROUNDS = 10


@dataclass
class _Waiting:
    """A row that was taken and has no reply yet: the requests for it (equal ones have one key), and its size in a file."""

    requests: list[Request] = field(default_factory=list)
    size: int = 0


class BatchAsking:
    """One teacher's rows, on their way through batches."""

    def __init__(self, provider: Provider, ledger: Ledger, plan: BatchPlan, key_of: Callable[[Request], str]) -> None:
        self.provider = provider
        self.ledger = ledger
        self.plan = plan
        self.key_of = key_of
        self._rows: dict[str, _Waiting] = {}
        self._loose: dict[str, None] = {}
        self._parts: deque[list[str]] = deque()
        self._standing: dict[str, list[str]] = {}
        self._done: deque[tuple[Request, Reply]] = deque()
        self._requests = Requests(())
        self._stopped = asyncio.Event()
        self._refused = 0
        self._held = 0
        self._trouble_since: float | None = None

    async def ask(self, requests: Requests) -> AsyncGenerator[tuple[Request, Reply], None]:
        """Each request with its reply. Raises TeacherError when nothing more can be asked; what is under way stays so."""
        self._requests = requests
        requests.when_stopped(self._stop)
        first = await anext(requests, None)
        while (first is not None or self._rows) and not self._stopped.is_set():
            if first is not None:
                self._take(first, requests)
            while self._done:
                yield self._done.popleft()
            sent = await self._send()
            came = await self._look()
            while self._done:
                yield self._done.popleft()
            first = requests.take() if self._has_room else None
            if first is None and not self._rows:
                first = await anext(requests, None)
            elif first is None and not (sent or came):
                self._held = max(0, self._held - 1)
                await self._sleep(self.plan.poll_s)

    def _stop(self) -> None:
        """Nothing more is asked: the provider keeps what it has, and the ledger knows where."""
        self._stopped.set()
        for row in self._rows.values():
            for request in row.requests:
                self._requests.give_back(request)

    async def _sleep(self, seconds: float) -> None:
        """Sleeps, or until nothing more is asked."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    @property
    def _has_room(self) -> bool:
        return not self._loose and not self._parts and len(self._standing) < self.plan.at_once

    def _take(self, first: Request, requests: Requests) -> None:
        """Takes as much as fits into one batch, and places it."""
        names, size, request = [], 0, first
        while True:
            name = self.key_of(request)
            waiting = self._rows.setdefault(name, _Waiting())
            waiting.requests.append(request)
            if len(waiting.requests) == 1:
                names.append(name)
                waiting.size = len(self.provider.line(name, request)) + 1
                size += waiting.size
            if len(names) >= self.plan.max_rows or size >= self.plan.max_bytes or (more := requests.take()) is None:
                break
            request = more
        self._place(names)

    def _place(self, names: Sequence[str], *, has_ended: bool = False) -> None:
        """Puts rows where they belong: answered, into the batch that holds them, or to those that are to be sent."""
        for name, row in self.ledger.rows(names).items():
            if row.result is not None:
                self._settle(name, row, self.provider.read(row.result))
            elif row.token is not None:
                self._standing.setdefault(row.token, []).append(name)
            elif has_ended:
                error = "the batch ended without a word on this row"  # nor on whether it was asked: what it cost is unknown
                self._settle(name, row, Outcome(Reply("", "error", error=error), may_repeat=True))
            else:
                self._loose[name] = None

    def _settle(self, name: str, row: Row, outcome: Outcome) -> None:
        """A row has its reply, or is asked once more."""
        reply, waiting = outcome.reply, self._rows[name]
        before = Reply("", "", row.prompt_tokens or None, row.completion_tokens or None, row.cost_usd)
        reply = replace(summed(before, reply), attempts=max(row.attempts, 1))
        if reply.error is not None:
            repeats = outcome.may_repeat and reply.finish_reason not in FINAL and row.attempts < self.plan.max_attempts
            if repeats and self._may_repeat(waiting.requests[0], outcome.reply):
                self.ledger.free({name: outcome.reply})
                self._loose[name] = None
                return
            self.ledger.forget([name])
        self._done.extend((request, reply) for request in waiting.requests)
        del self._rows[name]

    @property
    def _may_send(self) -> bool:
        return not self._held and len(self._standing) < self.plan.at_once and not self._stopped.is_set()

    def _may_repeat(self, request: Request, useless: Reply) -> bool:
        self._requests.ended(request, useless)
        return self._requests.again(request)

    async def _send(self) -> bool:
        """Sends what is to be sent, as far as there is room; whether anything was."""
        sent = False
        while self._may_send and (self._parts or self._loose):
            names = self._parts.popleft() if self._parts else self._next_part()
            try:
                async with self._sending():
                    await self._send_one(names)
            except PassingError as fault:
                standing = {name for others in self._standing.values() for name in others}
                self._loose.update(dict.fromkeys(name for name in names if name in self._rows and name not in standing))
                await self._wait_out(fault)
                return sent
            self._trouble_since, sent = None, True
        return sent

    def _next_part(self) -> list[str]:
        part: list[str] = []
        size = 0
        for name in self._loose:
            size += self._rows[name].size
            if part and (len(part) >= self.plan.max_rows or size > self.plan.max_bytes):
                break
            part.append(name)
        for name in part:
            del self._loose[name]
        return part

    async def _send_one(self, names: list[str]) -> None:
        """One batch: written down, sent, and its id written down. Raises PassingError where that it was sent is not certain."""
        newest = await self.provider.newest()
        token = uuid.uuid4().hex
        claimed = self.ledger.intend(self.provider.name, token, newest, names)
        if len(claimed) < len(names):  # another process was quicker
            self._place(list(set(names).difference(claimed)))
        if not claimed:
            return
        self._standing[token] = claimed
        try:
            with self._file(claimed) as file:
                provider_id = await self.provider.create(token, file)
        except RowError as fault:
            self._refuse(token, Look(is_over=True, refused=str(fault)))
            return
        except TeacherError:
            self.ledger.never_sent(token)
            raise
        self.ledger.accepted(token, provider_id)

    @contextmanager
    def _file(self, names: Iterable[str]) -> Iterator[BinaryIO]:
        """The batch as an open file that has no name in the folder, so that nothing is left of it when we are killed."""
        head, joint, tail = self.provider.frame
        with tempfile.TemporaryFile(dir=self.plan.state_folder) as file:
            for number, name in enumerate(names):
                file.write((joint if number else head) + self.provider.line(name, self._rows[name].requests[0]))
            file.write(tail)
            file.seek(0)
            yield file

    async def _look(self) -> bool:
        """Looks at every batch that rows wait for; whether any is over."""
        came = False
        opened = self.ledger.open_batches(self.provider.name) if self._standing else {}
        for token in list(self._standing):
            batch = opened.get(token)
            try:
                if batch is None:  # another process was done with it
                    self._place(self._standing.pop(token), has_ended=True)
                    came = True
                elif batch.provider_id is None:
                    came |= await self._look_for(batch)
                else:
                    came |= await self._look_at(batch, batch.provider_id)
            except PassingError as fault:
                await self._wait_out(fault)
            else:
                self._trouble_since = None
        return came

    async def _look_at(self, batch: Batch, provider_id: str) -> bool:
        try:
            look = await self.provider.look(provider_id)
            if look.is_over and look.refused is None:
                await self._fetch(batch.token, look.files)
        except RowError as fault:
            raise TeacherError(
                f"the account at {self.provider.name} does not know batch {provider_id} with {batch.size:,} rows that were sent "
                f"before ({fault}); use the key that it was sent with, or move {self.ledger.path} away to pay for them again"
            ) from None
        if not look.is_over:
            return False
        if look.refused is not None:
            self._refuse(batch.token, look)
            return True
        self._refused = self._held = 0
        self._place(self._standing.pop(batch.token), has_ended=True)
        return True

    async def _fetch(self, token: str, files: Iterable[str]) -> None:
        """Writes all results of a batch down, some at a time, and then that it is over."""
        part: list[tuple[str, str]] = []
        for path in files:
            async with aclosing(self.provider.results(path)) as results:
                async for result in results:
                    part.append(result)
                    if len(part) >= KEPT_TOGETHER:
                        self.ledger.keep(token, part)
                        part.clear()
        self.ledger.keep(token, part)
        self.ledger.end(token)

    async def _look_for(self, batch: Batch) -> bool:
        """Looks for a batch that may have been sent; when it certainly was not, its rows are sent anew."""
        async with self._sending():  # whoever is sending it now comes to an end first
            still = self.ledger.open_batches(self.provider.name).get(batch.token)
            if still is None or still.provider_id is not None:
                return True
            for number in range(2):
                if number:
                    await self._sleep(min(SETTLE_S, self.plan.poll_s))
                known = self.ledger.known_ids(self.provider.name)
                found = await self.provider.find(batch, known, lambda name: self._is_in(batch, name))
                if found.provider_id is not None:
                    self.ledger.accepted(batch.token, found.provider_id)
                    return True
                if not found.is_certain:
                    return False
            self.ledger.never_sent(batch.token)
        self._place(self._standing.pop(batch.token))
        return True

    def _is_in(self, batch: Batch, name: str) -> bool:
        return self.ledger.rows([name])[name].token == batch.token

    def _refuse(self, token: str, look: Look) -> None:
        """A batch was refused as a whole: it goes in two parts, the lines that the provider names apart from the others."""
        names = self._standing.pop(token)
        self.ledger.never_sent(token)
        if look.is_full:
            self._held = HELD_ROUNDS
        self._refused += not (look.is_full and self._standing)  # it may be full of what else of ours is under way
        if look.ends_the_job or self._refused > REFUSED_IN_A_ROW:
            times = f"{self._refused} batches in a row, the last" if self._refused > 1 else "a batch"
            raise TeacherError(f"{self.provider.name} refused {times}: {look.refused}; put that right, then run again to go on")
        if len(names) == 1 and not look.is_full:
            error = f"the provider does not take this row: {look.refused}"
            row = self.ledger.rows(names)[names[0]]
            self._settle(names[0], row, Outcome(Reply("", "error", cost_usd=0.0, error=error)))
            return
        named = [name for number, name in enumerate(names, 1) if number in look.lines]
        others = [name for number, name in enumerate(names, 1) if number not in look.lines]
        middle = (len(names) + 1) // 2
        parts = [named, others] if named and others else [names[:middle], names[middle:]]
        self._parts.extendleft(part for part in reversed(parts) if part)

    async def _wait_out(self, fault: PassingError) -> None:
        """Waits a moment; too long in a row, and the job stops in order."""
        now = time.monotonic()
        self._trouble_since = now if self._trouble_since is None else self._trouble_since
        if now - self._trouble_since > self.plan.patience_s:
            raise TeacherError(
                f"{self.provider.name} has not answered for {now - self._trouble_since:,.0f} s, the last time: {fault}; batches "
                "under way stay so, run again to go on"
            )
        await self._sleep(min(max(fault.wait_s or 0.0, self.plan.poll_s), SETTLE_S * 6))

    @asynccontextmanager
    async def _sending(self) -> AsyncIterator[None]:
        """Alone with the sending of batches to this provider, of all processes that share the state folder."""
        descriptor = os.open(self.plan.state_folder / "sending.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.1)
            yield
        finally:
            os.close(descriptor)
