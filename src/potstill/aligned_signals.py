"""Signals of a teacher with tokens of its own: from the disk by the teacher's row, or from the replies of an API.

A row of the student's finds what was said of it by its name (`Row.name`), never by an order. What is exact in the comparison and
what is not stands in `aligned_cells.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .aligned_cells import RowCells, Words, cells_of_row, joined, untold
from .aligned_terms import Aligned
from .alignment import Groups, groups_of
from .batches import Batch, Row
from .codec import WordSets
from .runfolder import fingerprint
from .signals import logp_of
from .spelling import Key, Spelled, Spelling, word_map


class Source(Protocol):
    """The teacher's words of each of its tokens, the token itself among them, as levels (`signals.levels_of`)."""

    def read(self, rows: Sequence[str]) -> WordSets: ...


class Said(NamedTuple):
    """One answer in the teacher's tokens: the text, its name in the source, its tokens, and where those end in the text's bytes.
    Tokens behind the last of these are the end of the turn."""

    text: str
    name: str
    tokens_T: npt.NDArray[np.int64]
    spelled: Spelled


class Voice(NamedTuple):
    """A teacher's words: what they spell, its end of turn, and how many a token has; None: all that are there."""

    source: Source
    keys: Sequence[Key]
    end: tuple[int, ...] = ()
    num_top: int | None = None


class _Pair(NamedTuple):
    said: Said
    groups: Groups
    prefixes: tuple[bool, bool]


class AlignedSignals:
    """What one teacher says of the student's rows."""

    takes_packed = True

    def __init__(self, voice: Voice, student: Spelling, rows: Sequence[Row], said: Mapping[str, Said]) -> None:
        """`said` are answers by the rows' names. A row that is not there, or whose tokens do not spell it, has no target."""
        self.voice = voice
        self.student = student
        self._maps: dict[tuple[bool, bool], npt.NDArray[np.int64]] = {}
        self._pairs: dict[str, _Pair] = {}
        for row in rows:
            heard = said.get(row.name)
            spelled = student.spelled(row.answer, heard.text) if heard and row.name not in self._pairs else None
            if heard and spelled:
                prefixes = (heard.spelled.has_prefix, spelled.has_prefix)
                self._pairs[row.name] = _Pair(heard, groups_of(heard.spelled, spelled), prefixes)
        self.num_untold = sum(row.name not in self._pairs for row in rows)

    def digest(self) -> str:
        """Names what is said of which row."""
        return fingerprint(sorted((name, pair.said.name) for name, pair in self._pairs.items()))

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Aligned:
        taken = [rows[number] for number in batch.numbers]
        told = [pair for row in taken if (pair := self._pairs.get(row.name)) is not None]
        if not told:
            return joined([untold(len(row.answer)) for row in taken])
        sets = self.voice.source.read([pair.said.name for pair in told])
        words, logp_U = sets.words_U.astype(np.int64), logp_of(sets.numbers_U)
        tokens = np.cumsum([0, *(len(pair.said.tokens_T) for pair in told)])
        places = np.cumsum([0, *sets.sizes_N])[tokens]
        parts: list[RowCells] = []
        place = 0
        for row in taken:
            pair = self._pairs.get(row.name)
            if pair is None:
                parts.append(untold(len(row.answer)))
                continue
            mine, those = slice(*tokens[place : place + 2]), slice(*places[place : place + 2])
            said = Words(sets.sizes_N[mine], words[those], logp_U[those])
            maps = (self._map(pair.prefixes), self._map((False, False)))
            answer_N = row.answer.astype(np.int64)
            parts.append(cells_of_row(pair.groups, pair.said.tokens_T, answer_N, said, maps, self.voice.num_top))
            place += 1
        return joined(parts)

    def _map(self, prefixes: tuple[bool, bool]) -> npt.NDArray[np.int64]:
        if prefixes not in self._maps:
            self._maps[prefixes] = word_map(self.voice.keys, self.student, self.voice.end, prefixes)
        return self._maps[prefixes]
