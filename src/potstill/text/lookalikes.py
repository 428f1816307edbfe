"""Finds the earlier text that says nearly the same, in bounded memory: candidates by MinHash, then a look at the words."""

from __future__ import annotations

import struct
import tempfile
import weakref
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .shingles import Codes, Hashes, Outline, Shingles, band_keys, shingles

FRESH_ROWS = 8192
"""Rows whose keys wait in a dict; older keys lie in sorted arrays."""
SPREAD = 4
"""A sorted array takes in the next one that is not SPREAD times smaller: few arrays to search, few times sorted again."""
MOST_OF_A_KEY, MOST_COMPARED = 16, 16
COMMON_SHARE, COMMON_LEAST = 0.2, 10
OFTEN = 3
_HEAD = struct.Struct("<QHI")
_HALF = np.uint64(32)


class Bands:
    """Which rows share keys with a row: 8 bytes a key, once `fresh_rows` rows have been sorted away."""

    def __init__(self, fresh_rows: int = FRESH_ROWS) -> None:
        self.fresh_rows = fresh_rows
        self._fresh: dict[int, list[int]] = {}
        self._num_fresh = 0
        self._sorted: list[Hashes] = []

    def add(self, row: int, keys: Codes) -> None:
        for key in keys.tolist():
            self._fresh.setdefault(key, []).append(row)
        self._num_fresh += 1
        if self._num_fresh == self.fresh_rows:
            self._settle()

    def nearest(self, keys: Codes) -> list[int]:
        """The rows that share most keys, those first; a key that few rows have says more. Not all of a key of many rows."""
        weight: dict[int, float] = {}
        for key in keys.tolist():
            _weigh(self._fresh.get(key, [])[-MOST_OF_A_KEY:], weight)
        low = keys.astype(np.uint64) << _HALF
        for entries in self._sorted:
            first = entries.searchsorted(low)
            found = entries[np.minimum(first, len(entries) - 1)] >> _HALF == keys
            for start, key in zip(first[found].tolist(), low[found].tolist(), strict=True):
                end = int(entries.searchsorted(np.uint64(key | 0xFFFFFFFF), side="right"))
                here = entries[max(start, end - MOST_OF_A_KEY) : end]
                _weigh((here & np.uint64(0xFFFFFFFF)).tolist(), weight)
        return sorted(weight, key=lambda row: (-weight[row], row))[:MOST_COMPARED]

    def _settle(self) -> None:
        entries = np.array([key << 32 | row for key, rows in self._fresh.items() for row in rows], np.uint64)
        entries.sort()
        self._fresh, self._num_fresh = {}, 0
        while self._sorted and len(self._sorted[-1]) < SPREAD * len(entries):
            entries = np.concatenate([self._sorted.pop(), entries])
            entries.sort(kind="stable")  # merges two sorted halves in one pass
        self._sorted.append(entries)


def _weigh(rows: Sequence[int], weight: dict[int, float]) -> None:
    for row in rows:
        weight[row] = weight.get(row, 0.0) + 1 / len(rows)


class Lookalikes:
    """The texts seen so far; their words lie in a nameless file in `folder`, about 160 bytes a text in memory.

    Two texts are alike when they have one identity and every sentence of each stands in the other: `alike` of its words and
    pairs of words. So a long text that both share never hides that they ask different questions about it.
    """

    def __init__(self, folder: Path, alike: float) -> None:
        self.alike = alike
        self._bands = Bands()
        self._common: Hashes = np.zeros(0, np.uint64)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._starts = array("Q")
        self._size = 0

    def learn(self, outlines: Sequence[Outline]) -> None:
        """Notes what stands in many of these texts: an instruction that they share would make all of them candidates."""
        each = [np.unique(shingles(one.codes).hashes) for one in outlines]
        hashes, counts = np.unique(np.concatenate(each), return_counts=True) if each else (self._common, self._common)
        self._common = hashes[counts > max(COMMON_LEAST, COMMON_SHARE * len(outlines))]

    def find(self, text: Outline) -> str | None:
        """The id of a text that says nearly the same."""
        return self._find(text, self._keys(text))

    def add(self, name: str, text: Outline) -> None:
        """Remembers a text; one without words is like no other."""
        self._add(name, text, self._keys(text))

    def find_or_add(self, name: str, text: Outline) -> str | None:
        """The id of a text that says nearly the same; where there is none, this one is remembered."""
        keys = self._keys(text)
        found = self._find(text, keys)
        if found is None:
            self._add(name, text, keys)
        return found

    def _keys(self, text: Outline) -> Codes:
        hashes = shingles(text.codes).hashes
        if len(self._common) and len(hashes):
            at = np.minimum(self._common.searchsorted(hashes), len(self._common) - 1)
            rare = hashes[self._common[at] != hashes]
            hashes = rare if len(rare) else hashes
        return band_keys(hashes, text.identity)

    def _find(self, text: Outline, keys: Codes) -> str | None:
        for row in self._bands.nearest(keys):
            name, other = self._read(row)
            if other.identity == text.identity and likeness(text.codes, other.codes, self.alike) >= self.alike:
                return name
        return None

    def _add(self, name: str, text: Outline, keys: Codes) -> None:
        self._bands.add(len(self._starts), keys)
        label = name.encode()
        record = _HEAD.pack(text.identity, len(label), len(text.codes)) + label + text.codes.tobytes()
        self._starts.append(self._size)
        self._file.write(record)
        self._size += len(record)

    def _read(self, row: int) -> tuple[str, Outline]:
        start = self._starts[row]
        self._file.seek(start)
        identity, length, count = _HEAD.unpack(self._file.read(_HEAD.size))
        name = self._file.read(length).decode()
        codes = np.frombuffer(self._file.read(4 * count), np.uint32)
        self._file.seek(self._size)
        return name, Outline(codes, identity, True)


def likeness(one: Codes, other: Codes, enough: float = 0.0) -> float:
    """How much of its worst covered sentence each of two texts shares with the other: 1 all words and pairs, 0 none; the mean
    of both. Less than `enough` may be less than it says.

    A word counts as missing where it stands less often in the other text, up to OFTEN times: "When was the first printed?"
    and "When was the second printed?" differ though the page that both ask about names both.
    """
    first, second = shingles(one), shingles(other)
    covered = _worst_sentence(first, second)
    if (covered + 1) / 2 < enough:
        return covered / 2
    return (covered + _worst_sentence(second, first)) / 2


def _worst_sentence(mine: Shingles, theirs: Shingles) -> float:
    """The smallest share of a sentence of mine that stands in theirs."""
    if not len(mine.hashes) or not len(theirs.hashes):
        return float(len(mine.hashes) == len(theirs.hashes))
    wanted, place_of, times = np.unique(mine.hashes, return_inverse=True, return_counts=True)
    known, known_times = np.unique(theirs.hashes, return_counts=True)
    at = np.minimum(known.searchsorted(wanted), len(known) - 1)
    is_there = np.where(known[at] == wanted, known_times[at], 0) >= np.minimum(times, OFTEN)
    inside = mine.sentence >= 0
    place = mine.sentence[inside]
    total = np.bincount(place)
    covered = np.bincount(place, weights=is_there[place_of][inside])
    return float((covered[total > 0] / total[total > 0]).min())
