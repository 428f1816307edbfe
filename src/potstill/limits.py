"""How many requests may be under way, and how many a minute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The user's limits; None is no limit. The server's own limits are found while asking."""

    max_concurrency: int = 128
    max_requests_per_minute: int | None = None
    max_tokens_per_minute: int | None = None
