"""The log-probabilities that came with a teacher's replies, as what it says of its own tokens.

A server's tokens have no ids that the student knows, so here a word is what it spells, and its number is given as words are met.
All of it stands in memory: about 130 bytes a token with 20 alternatives. The end of the turn is not among a reply's tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from .codec import WordSets
from .runfolder import fingerprint
from .signals import levels_of


class ReplyLogprobs:
    """What replies say, found by the fingerprint of their log-probabilities (`Lesson.told`)."""

    def __init__(self, replies: Iterable[dict[str, Any]], wanted: Collection[str]) -> None:
        """`replies` are rows of answers.jsonl."""
        self._words: dict[bytes, int] = {}
        self._sets: dict[str, WordSets] = {}
        self.tokens: dict[str, list[int]] = {}
        """Each reply's tokens, as words."""
        for reply in replies:
            logprobs = reply.get("logprobs") or ()
            name = fingerprint(logprobs) if logprobs else ""
            if name in wanted and name not in self._sets:
                self._take(name, logprobs)

    @property
    def keys(self) -> list[bytes]:
        """What each word spells, by its number."""
        return list(self._words)

    def read(self, rows: Sequence[str]) -> WordSets:
        """These replies' words, token after token."""
        sets = [self._sets[row] for row in rows]
        sizes, words, levels = (np.concatenate(part) for part in zip(*sets, strict=True))
        return WordSets(sizes, words, levels.astype(np.int32))

    def _take(self, name: str, logprobs: Sequence[Any]) -> None:
        sizes, words, own = list[int](), list[int](), list[int]()
        logps: list[float] = []
        for spelled, logprob, others in logprobs:
            said: dict[int, float] = {}
            for text, other in others:
                word = self._word(text)
                said[word] = float(np.logaddexp(said[word], other)) if word in said else other
            own.append(self._word(spelled))
            said.setdefault(own[-1], logprob)
            sizes.append(len(said))
            words += said.keys()
            logps += said.values()
        levels = levels_of(np.minimum(np.array(logps, dtype=np.float64), 0.0)).astype(np.uint16)
        self._sets[name] = WordSets(np.array(sizes, np.int32), np.array(words, np.int32), levels)
        self.tokens[name] = own

    def _word(self, text: str) -> int:
        return self._words.setdefault(bytes.fromhex(text), len(self._words))
