"""Gives memory that was freed back to the system.

Batches differ in shape, so a step frees blocks that the next one cannot use again, and glibc keeps them: a training whose
tensors took 0.9 GB held 2.3 GB after eight steps, and more with each (docs/log.md, 2026-11-24). torch's allocators for
accelerators have rules of their own.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import psutil

SLACK = 2**28
"""Bytes that may be held in any case: to fault a page in again costs time, a step of this size about 1%."""


class FreedMemory:
    """Of a process on a processor; does nothing where malloc is not glibc's."""

    def __init__(self) -> None:
        trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        self._trim = trim
        self._held = 0

    def give_back(self) -> bool:
        """Trims the heap once the process holds half as much again as after the last time; says whether it did."""
        if self._trim is None or _held() < max(self._held + SLACK, self._held * 3 // 2):
            return False
        self._trim(0)
        self._held = _held()
        return True


def _held() -> int:
    return int(psutil.Process().memory_info().rss)
