"""Which rows each optimiser step learns, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .batches import Row


class Feed(Protocol):
    """The rows of step 0, 1, ...: the same ones whenever they are asked for, whatever the number of processes."""

    @property
    def steps_per_epoch(self) -> int: ...

    def rows_of(self, step: int) -> Sequence[Row]: ...


@dataclass(frozen=True)
class Shuffled:
    """All rows once an epoch, in a fresh order each time, decided by seed and epoch alone."""

    rows: Sequence[Row]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def rows_of(self, step: int) -> Sequence[Row]:
        epoch, place = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.rows), generator=generator).tolist()
        return [self.rows[number] for number in order[place * self.batch_size : (place + 1) * self.batch_size]]
