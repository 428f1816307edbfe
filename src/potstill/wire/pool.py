"""The servers behind one teacher: which of them takes the next request, and when; one that fails is left out for a while.

    pool = Pool(base_urls, limits, patience, probe)
    turn = await pool.turn(needs)        # waits for room at any server; None when nothing more is asked
    pool.answered(turn, headers)         # or busy, troubled
    pool.back(turn)

The least loaded server is taken. One that cannot be reached, or fails again and again while another works, is out: it is
looked at with a cheap GET, seldomer each time, and takes one request at first when it is back. Gone are all of them when each
was found out of order `max_attempts` times in a row.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .limits import Limits, Needs, Pace, ServerLimits, Window

LONGEST_BACKOFF_S = 60.0
FAULTS_BEFORE_OUT = 5
NO_NEEDS = Needs()


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often one row is asked."""

    timeout_s: float = 120.0
    max_attempts: int = 6
    backoff_s: float = 1.0

    def pause(self, times: int) -> float:
        """Seconds before asking again after so many failures, with jitter: so that rows do not come back all at once."""
        return random.uniform(0.5, 1.0) * min(self.backoff_s * 2.0 ** (times - 1), LONGEST_BACKOFF_S)


class Place:
    """One server: its address, how much it takes, and how it has been."""

    def __init__(self, base_url: str, ceiling: int) -> None:
        self.base_url = base_url
        self.window = Window(ceiling)
        self.told = ServerLimits()
        self.blocked_until = 0.0
        self.has_answered = False
        self.faults = 0
        self.strikes = 0
        self.is_out = False
        self.probe: asyncio.Task[None] | None = None

    @property
    def load(self) -> float:
        return self.window.under_way / self.window.size

    @property
    def takes_more(self) -> bool:
        return not self.is_out and self.window.has_room

    def ready_at(self, needs: Needs) -> float:
        """When it wants another request, by what it told."""
        return max(self.blocked_until, self.told.ready_at(needs))


class Turn(NamedTuple):
    """Leave to send one request to one server."""

    place: Place
    number: int
    mark: tuple[float, float, float]
    needs: Needs


class _Waiting(NamedTuple):
    needs: Needs
    avoid: Place | None
    turn: asyncio.Future[Turn | None]


class Pool:
    """All servers of one teacher, and the limits that they share. `gone` is called when none of them is left."""

    def __init__(
        self,
        base_urls: Sequence[str],
        limits: Limits,
        patience: Patience,
        probe: Callable[[str], Awaitable[bool]],
        gone: Callable[[], None],
    ) -> None:
        self.places = [Place(url, limits.max_concurrency) for url in base_urls]
        self.ceiling = limits.max_concurrency
        self.under_way = 0
        self.patience = patience
        self.is_stopped = False
        self._requests = Pace(limits.max_requests_per_minute)
        self._tokens = Pace(limits.max_tokens_per_minute)
        self._probe = probe
        self._gone = gone
        self._rows: deque[_Waiting] = deque()
        self._fresh: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None

    async def room(self) -> None:
        """Returns when a fresh row may be taken: there is room, and no row that is asked again waits for it."""
        while not self.is_stopped and (self._rows or self._best(NO_NEEDS, None, time.monotonic()) is None):
            self._fresh = asyncio.get_running_loop().create_future()
            self._wake()
            await self._fresh

    async def turn(self, needs: Needs = NO_NEEDS, avoid: Place | None = None) -> Turn | None:
        """Leave to send, as soon as there is room, rather not to `avoid`; None when the job has stopped."""
        if self.is_stopped:
            return None
        if not self._rows:
            now = time.monotonic()
            place = self._best(needs, avoid, now)
            if place is not None:
                return self._grant(place, needs, now)
        future: asyncio.Future[Turn | None] = asyncio.get_running_loop().create_future()
        self._rows.append(_Waiting(needs, avoid, future))
        self._wake()
        return await future

    def answered(self, turn: Turn, headers: Mapping[str, str], used: float | None) -> None:
        """A usable reply came, that took `used` tokens in all."""
        place = turn.place
        place.has_answered, place.faults, place.strikes = True, 0, 0
        place.window.answered()
        place.told.heed(headers, turn.mark, time.monotonic())
        if used is not None:
            self._tokens.give_back(sum(turn.needs) - used)

    def busy(self, turn: Turn, headers: Mapping[str, str], wait_s: float | None) -> None:
        """The server has too much to do: it gets half as much, and nothing before the time that it asks for."""
        now = time.monotonic()
        turn.place.window.refused(turn.number)
        turn.place.told.heed(headers, turn.mark, now)
        if wait_s is not None:
            turn.place.blocked_until = max(turn.place.blocked_until, now + wait_s * random.uniform(1.0, 1.05))

    def troubled(self, turn: Turn, *, unreachable: bool = False) -> None:
        """The server failed. It is out at once when it cannot be reached; else after some faults, where another works."""
        place = turn.place
        place.faults += 1
        others = any(not other.is_out for other in self.places if other is not place)
        if not place.is_out and (unreachable or (others and place.faults >= (1 if place.strikes else FAULTS_BEFORE_OUT))):
            place.is_out = True
            place.strikes += 1
            if not self._are_gone():
                place.probe = asyncio.create_task(self._look_after(place))

    def back(self, turn: Turn) -> None:
        """The request is no longer under way."""
        turn.place.window.back()
        self.under_way -= 1
        if self._rows or self._fresh is not None:
            self._wake()

    def stop(self) -> None:
        """Nothing more is asked."""
        self.is_stopped = True
        self._wake()

    async def close(self) -> None:
        """Ends what runs beside the asking."""
        if self._alarm is not None:
            self._alarm.cancel()
        probes = [place.probe for place in self.places if place.probe is not None]
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    async def _look_after(self, place: Place) -> None:
        while not self.is_stopped:
            await asyncio.sleep(self.patience.pause(place.strikes))
            if await self._probe(place.base_url):
                place.is_out = False
                place.window.restart()
                return self._wake()
            place.strikes += 1
            if self._are_gone():
                return None
        return None

    def _are_gone(self) -> bool:
        gone = all(place.is_out and place.strikes >= self.patience.max_attempts for place in self.places)
        if gone:
            self._gone()
        return gone

    def _best(self, needs: Needs, avoid: Place | None, now: float) -> Place | None:
        """The least loaded server that takes a request now, `avoid` where there is no other."""
        if self.under_way >= self.ceiling or now < self._shared_ready_at:
            return None
        free = [place for place in self.places if place.takes_more and now >= place.ready_at(needs)]
        return min(free, key=lambda place: (place is avoid, place.load), default=None)

    @property
    def _shared_ready_at(self) -> float:
        return max(self._requests.ready_at, self._tokens.ready_at)

    def _grant(self, place: Place, needs: Needs, now: float) -> Turn:
        self.under_way += 1
        self._requests.spend(1, now)
        self._tokens.spend(sum(needs), now)
        return Turn(place, place.window.send(), place.told.send(needs), needs)

    def _wake(self) -> None:
        """Gives turns to waiting rows in their order, then to fresh ones; sets an alarm where only time is missing."""
        now = time.monotonic()
        while self._rows:
            row = self._rows[0]
            place = None if self.is_stopped else self._best(row.needs, row.avoid, now)
            if place is None and not self.is_stopped:
                return self._set_alarm(row.needs, now)
            self._rows.popleft()
            if not row.turn.done():  # done already where its task was cancelled
                row.turn.set_result(self._grant(place, row.needs, now) if place else None)
        if self._fresh is not None and not self._fresh.done():
            if not self.is_stopped and self._best(NO_NEEDS, None, now) is None:
                return self._set_alarm(NO_NEEDS, now)
            self._fresh.set_result(None)
        return None

    def _set_alarm(self, needs: Needs, now: float) -> None:
        ready = [place.ready_at(needs) for place in self.places if place.takes_more]
        if self.under_way >= self.ceiling or not ready:
            return  # a reply or a probe wakes
        when = max(self._shared_ready_at, min(ready))
        if when > now:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = asyncio.get_running_loop().call_later(when - now, self._wake)
