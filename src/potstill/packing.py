"""Which rows share a line: best fit decreasing, counted by lengths instead of row by row.

Best fit decreasing takes the rows longest first and puts each into the line with the least room that still holds it; it
needs at most 11/9 of the fewest lines possible, plus a constant (Johnson, Near-optimal bin packing algorithms, 1973).

Lengths are whole numbers, so many rows have the same one, and many lines the same room. A row of length L that went into
the tightest line, of room R, leaves R - L: less than before, so while this still holds L the same line is the tightest
again. So a line of room R takes R // L rows of length L in one go, and all lines of room R do so at once: the work grows
with the distinct lengths and rooms, and what is left per row is copying. The rooms, and so the number of lines, are those
of the rule applied row by row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def pack(lengths: Sequence[int] | npt.NDArray[np.integer], capacity: int) -> list[list[int]]:
    """Places in `lengths`, line by line: each once, no line longer than `capacity`. The same lengths give the same lines.

    Lines come in the order in which they were begun: by their longest row, longest first, which is also each line's first.
    Raises ValueError for a length that is not from 1 to `capacity`.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if not sizes.size:
        return []
    if sizes.min() < 1 or sizes.max() > capacity:
        wrong = next(size for size in (int(sizes.min()), int(sizes.max())) if not 1 <= size <= capacity)
        raise ValueError(f"a row of length {wrong} cannot be packed: lengths are from 1 to the capacity of a line, {capacity}")
    order = _stable_order(capacity - sizes)
    values, counts = np.unique(sizes, return_counts=True)
    line_of = np.array(_best_fit_decreasing(values[::-1].tolist(), counts[::-1].tolist(), capacity))
    rows = order[_stable_order(line_of)].tolist()
    ends = np.cumsum(np.bincount(line_of)).tolist()
    return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _stable_order(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """numpy sorts 16-bit keys by their digits, several times as fast as by comparison."""
    return np.argsort(keys.astype(np.uint16) if keys.max() < 2**16 else keys, kind="stable")


def _best_fit_decreasing(lengths: Sequence[int], counts: Sequence[int], capacity: int) -> list[int]:
    """The line of each row, of falling lengths and how many rows have each."""
    line_of: list[int] = []
    lines = _Lines(capacity)
    for length, count in zip(lengths, counts, strict=True):
        left = count
        while left:
            room = lines.tightest_for(length)
            num_each = room // length
            taken = lines.take(room, -(-left // num_each))
            num_filled = min(len(taken), left // num_each)
            filled, last = taken[:num_filled], taken[num_filled:]
            line_of += filled * num_each
            lines.add(room - num_each * length, filled)
            left -= num_each * num_filled
            if last:  # one line, for fewer rows than it would hold
                line_of += last * left
                lines.add(room - left * length, last)
                left = 0
    return line_of


class _Lines:
    """The begun lines that have room, by how much they have."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.num_begun = 0
        self.with_room: dict[int, list[int]] = {}
        self.rooms: list[int] = []  # the keys of with_room, rising

    def tightest_for(self, length: int) -> int:
        """The least room that holds a row of this length; where no begun line has it, that of a new line."""
        place = bisect_left(self.rooms, length)
        return self.rooms[place] if place < len(self.rooms) else self.capacity

    def take(self, room: int, at_most: int) -> list[int]:
        """Lines of just this room, out of the list; as many as are asked for where they are new."""
        if room == self.capacity:
            self.num_begun += at_most
            return list(range(self.num_begun - at_most, self.num_begun))
        lines = self.with_room[room]
        if len(lines) > at_most:
            taken = lines[-at_most:]
            del lines[-at_most:]
            return taken
        del self.rooms[bisect_left(self.rooms, room)]
        return self.with_room.pop(room)

    def add(self, room: int, lines: list[int]) -> None:
        if room in self.with_room:
            self.with_room[room] += lines
        elif room and lines:
            self.with_room[room] = lines
            insort(self.rooms, room)
