"""Refuses train rows that give away a test or validation row."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from ..contracts import Answered, Check, Finding, Room, Watch
from ..runfolder import read_rows
from ..text.lookalikes import Lookalikes
from ..text.overlap import references
from ..text.shingles import TURN_BREAK, Hashes, Outline, outline, runs, spoken
from ..types import Example

HELD_OUT = ("test", "validation")
COMMON_WORDS = 5
COMMON_SHARE, COMMON_ROWS = 0.005, 10
MOST_COMMON = 4
SAMPLED_BYTES = 16 * 1024 * 1024
PAIRS_SHOWN = 5
WORTH_AN_ALARM, FEW = 0.1, 50


class Contamination(Check):
    """Refuses a train row that shares a long run of words with a test or validation row, or nearly is one.

    The rows that are scored are never touched. Prompts, answers and gold count, system messages do not; nor does what many
    rows share (an instruction, a signature): a run counts when at most 4 of its words stand in runs of 5 words that 0.5% of
    the rows have. On seven public data sets that were cleaned before, it refuses 0 to 1% of train. Letters of scripts
    without spaces count as half a word.
    """

    words: int = Field(default=13, ge=5, le=100, description="how many words in a row, shared with a held-out row, are too many")
    share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the held-out row's own words that such runs must cover; 0: one run is enough",
    )
    alike: float = Field(default=0.9, ge=0.5, le=1, description="as in near_duplicates; numbers and negations must be equal")

    @override
    def watch(self, room: Room) -> Watch:
        return _Watch(self, room)


class _Watch(Watch):
    """Holds the runs of words of the held-out rows: about 12 bytes for each of their words."""

    check: Contamination

    def __init__(self, check: Contamination, room: Room) -> None:
        super().__init__(check, room)
        self.held_out: _HeldOut | None = None
        self.num_seen = 0
        self.counts = Counter[str]()
        self.pairs: list[dict[str, Any]] = []

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        self.held_out = self.held_out or _HeldOut(self.check, self.room.data)
        self.num_seen += len(answers)
        return [self._look(one, self.held_out) for one in answers]

    def _look(self, one: Answered, held_out: _HeldOut) -> Finding | None:
        if one.example.id in held_out.ids:  # the check looks at the held-out rows' own answers
            return None
        prompt = outline(spoken(one.example.messages).turns)
        name = held_out.lookalikes.find(prompt)
        if name is not None:
            return self._refused(one, "alike", name, 1.0)
        answer = one.example.gold if one.reply is None else one.reply.text
        for text in (prompt, *([] if answer is None else [outline([answer])])):
            passage = held_out.passages.find(text)
            if passage is not None and passage.covered >= self.check.share:
                return self._refused(one, "passages", held_out.names[passage.unit // 2], passage.covered)
        return None

    def _refused(self, one: Answered, how: str, name: str, covered: float) -> Finding:
        split, _, example_id = name.partition(" ")
        self.counts[how] += 1
        if len(self.pairs) < PAIRS_SHOWN:
            self.pairs.append({"row": one.example.id, split: example_id, "covered": round(covered, 2)})
        shared = f"shares {self.check.words} words in a row with" if how == "passages" else "is nearly the same as"
        return Finding(f"{shared} a {split} row")

    @override
    def report(self) -> dict[str, Any]:
        if self.held_out is None:
            return {}
        refused = self.counts.total()
        said: dict[str, Any] = {"held_out_rows": len(self.held_out.names), **self.counts}
        if self.pairs:
            said["pairs"] = self.pairs
        if not self.held_out.names:
            said["alarm"] = "there are no test or validation rows to compare with; name files in data.test and data.validation"
        elif self.num_seen >= FEW and refused > WORTH_AN_ALARM * self.num_seen:
            said["alarm"] = (
                f"{refused / self.num_seen:.0%} of the train rows overlap with held-out rows; read the pairs, and where rows "
                "share a document on purpose, set `share` to 0.9 or leave this check out"
            )
        return said


class _Passage(NamedTuple):
    """The held-out text that a row shares most with (twice the row's number, one more for its gold), and how much of it."""

    unit: int
    covered: float


class _HeldOut:
    """All that train rows are compared with: prompts that they may resemble, and runs of words of prompts and gold."""

    def __init__(self, check: Contamination, data: Path) -> None:
        common = np.unique(np.concatenate([_common(data / f"{split}.jsonl") for split in (*HELD_OUT, "train")]))
        self.ids: set[str] = set()
        self.names: list[str] = []
        self.passages = _Passages(check.words, common)
        self.lookalikes = Lookalikes(data, check.alike)
        self.lookalikes.learn(
            [prompt for split in HELD_OUT for _, prompt in zip(range(1000), _prompts(data, split), strict=False)]
        )
        for split in HELD_OUT:
            for row in read_rows(data / f"{split}.jsonl"):
                example = Example.from_dict(row)
                prompt = outline(spoken(example.messages).turns)
                self.ids.add(example.id)
                self.names.append(f"{split} {example.id}")
                self.lookalikes.add(self.names[-1], prompt)
                self.passages.add(prompt)
                self.passages.add(outline(references(example)))
        self.passages.close()


class _Passages:
    """The runs of words of some texts, without those that are common to many rows."""

    def __init__(self, length: int, common: Hashes) -> None:
        self.length = length
        self.common = common
        self.own_words = array("I")
        self.hashes: Hashes = np.zeros(0, np.uint64)
        self.units: NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._parts: list[Hashes] = []

    def add(self, text: Outline) -> None:
        """Takes the next text; `close` ends it."""
        own = ~self._in_common(text)
        found = runs(text.codes, self._length(text))
        sums = np.concatenate([[0], np.cumsum(own)])
        length = self._length(text)
        counted = sums[found.starts + length] - sums[found.starts] >= length - MOST_COMMON * length // self.length
        self._parts.append(np.unique(found.hashes[counted]))
        self.own_words.append(int(own.sum()))

    def close(self) -> None:
        counts = [len(part) for part in self._parts]
        hashes = np.concatenate(self._parts) if self._parts else self.hashes
        order = hashes.argsort(kind="stable")
        self.hashes, self.units = hashes[order], np.repeat(np.arange(len(counts), dtype=np.uint32), counts)[order]
        self._parts = []

    def find(self, text: Outline) -> _Passage | None:
        """The text that shares most of its own words with this one."""
        if not len(self.hashes):
            return None
        length = self._length(text)
        found = runs(text.codes, length)
        first = self.hashes.searchsorted(found.hashes)
        hits = self.hashes[np.minimum(first, len(self.hashes) - 1)] == found.hashes
        words: defaultdict[int, set[int]] = defaultdict(set)
        for place, start in zip(first[hits].tolist(), found.starts[hits].tolist(), strict=True):
            end = int(self.hashes.searchsorted(self.hashes[place], side="right"))
            for unit in self.units[place:end].tolist():
                words[unit].update(range(start, start + length))
        shares = [_Passage(unit, min(len(seen) / max(self.own_words[unit], 1), 1.0)) for unit, seen in words.items()]
        return max(shares, key=lambda passage: passage.covered, default=None)

    def _length(self, text: Outline) -> int:
        return self.length if text.is_spaced else 2 * self.length

    def _in_common(self, text: Outline) -> NDArray[np.bool_]:
        """For each word, whether it stands in a run that many rows share."""
        marked = np.zeros(int((text.codes > TURN_BREAK).sum()), np.bool_)
        found = runs(text.codes, COMMON_WORDS)
        starts = found.starts[np.isin(found.hashes, self.common)]
        for offset in range(COMMON_WORDS):
            marked[starts + offset] = True
        return marked


def _common(path: Path) -> Hashes:
    """The short runs that many of a file's rows share, from a sample of about SAMPLED_BYTES."""
    each = [np.unique(runs(outline(_texts(example)).codes, COMMON_WORDS).hashes) for example in _sampled(path)]
    if not each:
        return np.zeros(0, np.uint64)
    hashes, counts = np.unique(np.concatenate(each), return_counts=True)
    many = max(min(COMMON_ROWS, len(each) / 2), COMMON_SHARE * len(each), 2)
    return hashes[counts > many]


def _texts(example: Example) -> list[str]:
    return [*spoken(example.messages).turns, *references(example)]


def _prompts(data: Path, split: str) -> Iterator[Outline]:
    return (outline(spoken(example.messages).turns) for example in _sampled(data / f"{split}.jsonl"))


def _sampled(path: Path) -> Iterator[Example]:
    """Rows of a file, chosen by their content, so that the sample is the same every time and of every part of the file."""
    if not path.is_file():
        return
    one_in = 1 + path.stat().st_size // SAMPLED_BYTES
    with path.open("rb") as file:
        for line in file:
            if crc32(line) % one_in == 0 and line.endswith(b"\n"):
                yield Example.from_dict(json.loads(line))
