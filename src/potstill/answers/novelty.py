"""Whether a text is new among many: ROUGE-L with every earlier text that could come near, without looking at all of them.

A text is like another where ROUGE-L's F1 of their words reaches a limit (0.7 in Self-Instruct, Wang et al. 2022, arXiv
2212.10560). Two texts of m and n words can reach the limit t only when they share t(m+n)/2 words, so a text need only be
compared with those that hold one of its rarest words: exact, and a small share of all.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..text.shingles import TURN_BREAK, outline
from ..text.texts import normalised

MAX_COMPARED = 2000
"""A text that shares rare words with more texts than this is compared with this many: some milliseconds at most."""
TEMPLATE_SHARE = 0.5
"""A pair of neighbouring words that stands in this share of the examples belongs to their form, and is not compared."""


class Like(NamedTuple):
    """An earlier text that is like one: the kind it was added as, and whether numbers, negations and signs are the same."""

    kind: int
    is_same: bool


class Novelty:
    """The texts so far, each with a kind: about 250 bytes a text of 15 words.

    >>> seen = Novelty(0.7)
    >>> seen.add(["Which trains leave for Oslo tonight?"], 0)
    >>> seen.find(["Which ferry goes to Bergen tonight?"]), seen.find(["Which trains leave for Oslo, tonight?"])
    ([], [Like(kind=0, is_same=True)])
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._template: set[tuple[int, int]] = set()
        self._rows_with: dict[int, array[int]] = {}
        self._codes = array("I")
        self._ends = array("q", [0])
        self._identities = array("Q")
        self._kinds = array("B")

    def __len__(self) -> int:
        return len(self._kinds)

    def learn_form(self, examples: Sequence[Sequence[str]]) -> None:
        """Takes what at least half of the examples share ("Premise:", an instruction in each prompt) for their form."""
        counts = Counter(pair for turns in examples for pair in set(_pairs(_codes(turns)[0])))
        least = max(2.0, TEMPLATE_SHARE * len(examples))
        self._template = {pair for pair, count in counts.items() if count >= least}

    def add(self, turns: Sequence[str], kind: int) -> None:
        """Remembers a text, given as the turns of a chat; kinds are 0 to 255."""
        codes, identity = self._compared(turns)
        row = len(self._kinds)
        for code in set(codes):
            self._rows_with.setdefault(code, array("I")).append(row)
        self._codes.extend(codes)
        self._ends.append(len(self._codes))
        self._identities.append(identity)
        self._kinds.append(kind)

    def find(self, turns: Sequence[str]) -> list[Like]:
        """The earlier texts that are like this one; a text without words is like its equals alone."""
        codes, identity = self._compared(turns)
        places: dict[int, int] = {}
        for place, code in enumerate(codes):
            places[code] = places.get(code, 0) | 1 << place
        found = []
        for row in self._near(codes):
            other = self._codes[self._ends[row] : self._ends[row + 1]]
            enough = self.limit * (len(codes) + len(other)) / 2
            if _longest_common(places, len(codes), other) >= enough:
                found.append(Like(self._kinds[row], self._identities[row] == identity))
        return found

    def _near(self, codes: Sequence[int]) -> list[int]:
        """The rows that share enough words, in any order: of those with one of the text's rarest words, all that can be like."""
        counts = Counter(codes)
        rarest = sorted(counts, key=lambda code: (len(self._rows_with.get(code, ())), code))
        left, must_share, most = len(codes), self.limit / (2 - self.limit) * len(codes), MAX_COMPARED
        parts: list[NDArray[np.uint32]] = []
        for code in rarest:
            if left < must_share or most <= 0:
                break
            rows_with = self._rows_with.get(code)
            if rows_with is not None:
                parts.append(np.frombuffer(rows_with, np.uint32)[-most:])
                most -= len(parts[-1])
            left -= counts[code]
        return self._sharing(np.unique(np.concatenate(parts)), codes) if parts else []

    def _sharing(self, rows: NDArray[np.uint32], codes: Sequence[int]) -> list[int]:
        ends = np.frombuffer(self._ends, np.int64)
        lengths = ends[rows + 1] - ends[rows]
        enough = self.limit * (lengths + len(codes)) / 2
        fits = np.minimum(lengths, len(codes)) >= enough
        rows, lengths, enough = rows[fits], lengths[fits], enough[fits]
        if not len(rows):
            return []
        first = np.cumsum(lengths) - lengths
        places = np.arange(lengths.sum()) + np.repeat(ends[rows] - first, lengths)
        is_shared = np.isin(np.frombuffer(self._codes, np.uint32)[places], np.array(codes, np.uint32))
        found: list[int] = rows[np.add.reduceat(is_shared, first, dtype=np.int64) >= enough].tolist()
        return found

    def _compared(self, turns: Sequence[str]) -> tuple[list[int], int]:
        """The words without those of the common form; all of them where nothing else is left."""
        codes, identity = _codes(turns)
        if self._template and codes:
            in_form = [pair in self._template for pair in _pairs(codes)]
            sides = zip(codes, [False, *in_form], [*in_form, False], strict=True)
            codes = [code for code, before, behind in sides if not (before or behind)] or codes
        return codes, identity


def _codes(turns: Sequence[str]) -> tuple[list[int], int]:
    found = outline(turns)
    codes = [code for code in found.codes.tolist() if code > TURN_BREAK]
    return codes or [crc32(normalised("\n".join(turns)).encode())], found.identity


def _pairs(codes: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(codes))


def _longest_common(places: dict[int, int], length: int, other: Sequence[int]) -> int:
    """The length of the longest common subsequence, bit-parallel (Hyyrö 2004): one step a word of `other`."""
    everywhere = (1 << length) - 1
    free = everywhere
    for code in other:
        here = places.get(code)
        if here is not None:
            taken = free & here
            free = ((free + taken) | (free - taken)) & everywhere
    return length - free.bit_count()
