"""What was freed goes back to the system, and not at every step."""

from __future__ import annotations

import psutil
import pytest
import torch

from potstill.freed_memory import SLACK, FreedMemory


def held() -> int:
    return int(psutil.Process().memory_info().rss)


def scattered(megabytes: int) -> list[torch.Tensor]:
    """Freed blocks below one that is still in use, so that malloc cannot give them back by itself."""
    blocks = [torch.ones(2**16) for _ in range(4 * megabytes)]
    return [blocks[0], blocks[-1]]


def test_what_was_freed_is_given_back_once_it_is_much() -> None:
    memory = FreedMemory()
    if not memory.give_back():
        pytest.skip("malloc is not glibc's")
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # from here on blocks of up to 32 MB come from the heap
    kept = scattered(SLACK // 2**20 * 2)
    before = held()
    assert memory.give_back()
    assert held() < before - SLACK
    assert not memory.give_back(), "there is nothing more to be given"
    assert kept[0].sum() == 2**16
