"""How much may be under way and how much a minute: the user's limits, and the server's as it tells and shows them.

Every time here is a reading of a monotonic clock that the caller passes as `now`, so a jump of the wall clock moves nothing;
a date that a server names is measured against the server's own clock.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

LONGEST_WAIT_S = 3600.0
LATE_S = 0.1
"""A send may be this much late without losing its place in the minute; the intervals are longer by as much a minute."""
FIRST_WINDOW = 16
UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|us|µs|ns|[dhms]))+")
EPOCH_FROM = 1e9
"""Larger numbers are seconds since 1970 and not seconds from now; from a thousand times as much on, milliseconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The user's limits; None is no limit."""

    max_concurrency: int = 128
    max_requests_per_minute: int | None = None
    max_tokens_per_minute: int | None = None


class Needs(NamedTuple):
    """What one request takes: the tokens of its prompt, about, and of its answer, at most."""

    prompt: float = 0.0
    answer: float = 0.0


class Pace:
    """At most so many in any 60 seconds: each one moves on the time from which the next may go.

    >>> pace = Pace(60)
    >>> pace.spend(1, now=100.0)
    >>> 1.0 > pace.ready_at - 100.0 > 0.9
    True
    """

    def __init__(self, per_minute: int | None) -> None:
        self.interval_s = (60.0 + LATE_S) / per_minute if per_minute else 0.0
        self.ready_at = -LONGEST_WAIT_S

    def spend(self, amount: float, now: float) -> None:
        self.ready_at = max(self.ready_at, now - LATE_S) + amount * self.interval_s

    def give_back(self, amount: float) -> None:
        """What was spent by estimate and not used."""
        self.ready_at -= amount * self.interval_s


class Window:
    """How many requests one server takes at a time, found by trying: doubled a round until it first refuses, then AIMD.

    Additive increase (one more a round), multiplicative decrease (half, once for all that was sent before the last cut), as
    in TCP's congestion avoidance (RFC 5681).

    >>> window = Window(ceiling=100)
    >>> number = window.send()
    >>> window.refused(number)
    >>> window.size
    8.0
    """

    def __init__(self, ceiling: int, first: int = FIRST_WINDOW) -> None:
        self.ceiling = ceiling
        self.size = float(min(first, ceiling))
        self.under_way = 0
        self._doubling = True
        self._sent = 0
        self._cut_at = 0

    @property
    def has_room(self) -> bool:
        return self.under_way < int(self.size)

    def send(self) -> int:
        """Counts one as under way and returns its number."""
        self.under_way += 1
        self._sent += 1
        return self._sent

    def back(self) -> None:
        """One is no longer under way."""
        self.under_way -= 1

    def answered(self) -> None:
        """Grows where the window is in use; to be called before `back`."""
        if 2 * self.under_way >= self.size:
            self.size = min(self.size + (1.0 if self._doubling else 1.0 / self.size), self.ceiling)

    def refused(self, number: int) -> None:
        """The server is busy: half as many, unless what was refused was sent before the last cut."""
        if number > self._cut_at:
            self.size = max(1.0, self.size / 2)
            self._doubling = False
            self._cut_at = self._sent

    def restart(self) -> None:
        """The server was away: one at first."""
        self.size = 1.0
        self._doubling = True


class _Family(NamedTuple):
    """The three headers of one limit of the server's, and which part of a request counts."""

    kind: str
    left: str
    limit: str
    reset: str


def _families() -> list[_Family]:
    openai = [
        _Family(kind, f"x-ratelimit-remaining-{kind}", f"x-ratelimit-limit-{kind}", f"x-ratelimit-reset-{kind}")
        for kind in ("requests", "tokens")
    ]
    anthropic = [
        _Family(kind, *(f"anthropic-ratelimit-{kind}-{part}" for part in ("remaining", "limit", "reset")))
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
    ]
    return [*openai, *anthropic]


FAMILIES = _families()


@dataclass(slots=True)
class _Allowance:
    """What is left of one limit by the server's last word, and how fast it grows again: full at `full_at`."""

    left: float
    at: float
    full_at: float
    limit: float | None

    def ready_at(self, need: float) -> float:
        """When `need` is there; at once where it is already."""
        need = need if self.limit is None else min(need, self.limit)
        if self.left >= need:
            return self.at
        if self.limit is None or self.limit <= self.left:  # how fast it grows is not told
            return self.full_at
        return self.at + (need - self.left) * (self.full_at - self.at) / (self.limit - self.left)


class ServerLimits:
    """The rate limits that a server tells in its headers: OpenAI's names, which many use, and Anthropic's.

    A reply tells what was left when its request came in; what was sent after it is taken off again.
    """

    def __init__(self) -> None:
        self._allowances: dict[str, _Allowance] = {}
        self._sent = (0.0, 0.0, 0.0)

    def send(self, needs: Needs) -> tuple[float, float, float]:
        """Counts a request as sent; returns the mark that goes with it into `heed`."""
        requests, prompt, answer = self._sent
        self._sent = (requests + 1, prompt + needs.prompt, answer + needs.answer)
        for kind, allowance in self._allowances.items():
            allowance.left -= _part(kind, (1.0, *needs))
        return self._sent

    def ready_at(self, needs: Needs) -> float:
        """When a request may be sent by what the server told."""
        return max((told.ready_at(_part(kind, (1.0, *needs))) for kind, told in self._allowances.items()), default=0.0)

    def heed(self, headers: Mapping[str, str], mark: tuple[float, float, float], now: float) -> None:
        """Takes what a reply tells; a negative number means nothing (Azure sends -1)."""
        for kind, left_name, limit_name, reset_name in FAMILIES:
            told = headers.get(left_name)
            if told is None:
                continue
            left, limit = _number(told), _number(headers.get(limit_name))
            reset_s = seconds_until(headers.get(reset_name), headers.get("Date"))
            if left is None or reset_s is None:
                self._allowances.pop(kind, None)
                continue
            since = tuple(total - then for total, then in zip(self._sent, mark, strict=True))
            self._allowances[kind] = _Allowance(left - _part(kind, since), now, now + reset_s, limit)


def _part(kind: str, amounts: tuple[float, ...]) -> float:
    requests, prompt, answer = amounts
    return {"requests": requests, "tokens": prompt + answer, "input-tokens": prompt, "output-tokens": answer}[kind]


def _number(value: str | None) -> float | None:
    return float(value) if value is not None and re.fullmatch(r"\d{1,18}(\.\d*)?", value.strip(), re.ASCII) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to be left alone: `retry-after-ms`, or Retry-After (RFC 9110, 10.2.3).

    >>> retry_after({"retry-after-ms": "1500"}), retry_after({"Retry-After": "soon"})
    (1.5, None)
    """
    exact = _number(headers.get("retry-after-ms"))
    if exact is not None:
        return min(exact / 1000, LONGEST_WAIT_S)
    return seconds_until(headers.get("Retry-After"), headers.get("Date"))


def seconds_until(value: str | None, date: str | None = None) -> float | None:
    """Seconds from now in any of the forms that servers use, at least 0 and at most an hour; None where it is none of them.

    Seconds, a duration, seconds since 1970, a date as in HTTP or RFC 3339. `date` is the server's clock (its Date header).

    >>> seconds_until("6m0s"), seconds_until("120ms"), seconds_until("2.5"), seconds_until("later")
    (360.0, 0.12, 2.5, None)
    >>> seconds_until("2026-11-24T10:00:30Z", "Tue, 24 Nov 2026 10:00:00 GMT")
    30.0
    """
    text = (value or "").strip()
    number = _number(text)
    if number is not None and number < EPOCH_FROM:
        seconds = number
    elif DURATION.fullmatch(text):
        seconds = sum(float(amount) * UNITS_S[unit] for amount, unit in re.findall(r"([\d.]+)([a-zµ]+)", text))
    else:
        when = _moment(text) if number is None else number / (1.0 if number < 1000 * EPOCH_FROM else 1000.0)
        if when is None:
            return None
        clock = _moment(date or "")
        seconds = when - (datetime.now(UTC).timestamp() if clock is None else clock)
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


def _moment(text: str) -> float | None:
    """Seconds since 1970 of a date as in HTTP or RFC 3339."""
    for read in (datetime.fromisoformat, email.utils.parsedate_to_datetime):
        try:
            when = read(text)
            return when.replace(tzinfo=when.tzinfo or UTC).timestamp()
        except (ValueError, OverflowError, IndexError, TypeError):
            continue
    return None
