"""The coming step's batches and signals, made ready in a thread while this step runs.

Reading takes about a microsecond a token (docs/log.md, 2026-11-24), which matters where a step runs on an accelerator. Rows that
depend on the weights (on-policy) are not known ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from .batches import Row

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Begun(Generic[Result]):
    rows: Sequence[Row]
    budget: int
    future: Future[Result]


class Prefetch(Generic[Result]):
    """One step ahead at most. `make` is given rows and the positions of a micro-batch, and must draw no random numbers."""

    def __init__(self, make: Callable[[Sequence[Row], int], Result]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._begun: _Begun[Result] | None = None

    def begin(self, rows: Sequence[Row], budget: int) -> None:
        self._begun = _Begun(rows, budget, self._pool.submit(self._make, rows, budget))

    def take(self, rows: Sequence[Row], budget: int) -> Result:
        """What was begun where it was for just these rows and this budget; else made now. Raises what making it raised."""
        begun, self._begun = self._begun, None
        if begun is not None:
            made = begun.future.result()
            same = begun.budget == budget and len(rows) == len(begun.rows)
            if same and all(one is other for one, other in zip(rows, begun.rows, strict=True)):
                return made
        return self._make(rows, budget)
