"""Measures how much the answers resemble one another, and raises an alarm where a teacher repeats itself."""

from __future__ import annotations

import hashlib
import heapq
import zlib
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from sacrebleu.metrics.bleu import BLEU
from typing_extensions import override

from ..contracts import Answered, Check, Finding, Room, Task, Watch
from ..runfolder import read_rows
from ..text.texts import words

LABEL_TASKS = ("nli", "classification")
SELF_BLEU_TEXTS = 100
SELF_BLEU_SCORED = 50
SELF_BLEU_WORDS = 100
"""50 of 100 texts, at most 100 words of each, take about a second; all of 400 would take a minute."""
FEW = 50
"""Below so many answers nothing is said to be too much alike."""


class _Alike(NamedTuple):
    """How much texts resemble one another: high self-BLEU, compression and identical are bad, and so is a low distinct-n."""

    distinct_1: float
    distinct_2: float
    distinct_3: float
    compression: float
    self_bleu: float
    identical: float


# People's answers of four public data sets (solutions, short answers, summaries, replies), 400 of train and of test: distinct-3
# 0.81 to 0.99, compression 1.7 to 2.8, self-BLEU 8 to 32, at most 7% identical. The same with a third made equal: 0.60 to 0.79
# (answers of two words: 0.97), 2.2 to 4.0, 39 to 48, 33% and more. Where there is gold, it is the measure instead.
LIMITS = _Alike(0.0, 0.0, 0.6, 4.0, 50.0, 0.2)


class Diversity(Check):
    """Measures distinct-n, compression, self-BLEU and identical answers, and raises an alarm where answers are too much alike.

    It refuses nothing. All but the identical answers are measured on a sample, chosen by hash and so the same every time.
    The same is measured on the gold of the job, where there is any, and an alarm says what is far worse than there. Labels
    are not looked at: the check class_balance is for them.
    """

    sample: int = Field(default=400, ge=FEW, le=10_000, description="how many answers are compared")

    @override
    def watch(self, room: Room) -> Watch:
        return Watch(self, room) if _has_labels(room.task) else _Watch(self, room)


class _Watch(Watch):
    """Keeps a sample of the answers, and eight bytes of each other one."""

    check: Diversity

    def __init__(self, check: Diversity, room: Room) -> None:
        super().__init__(check, room)
        self.sample = _Sample(check.sample)
        self.seen = array("Q")
        self.row = ""
        self.seen_in_row: set[int] = set()

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        for one in answers:
            if one.reply is None or one.source == "gold" or not one.reply.text.strip():
                continue
            if one.example.id != self.row:
                self.row, self.seen_in_row = one.example.id, set()
            mark = _mark(one.reply.text)
            if mark not in self.seen_in_row:  # samples of one row may be alike
                self.seen_in_row.add(mark)
                self.seen.append(mark)
                self.sample.add(one.example.id, one.reply.text)
        return [None] * len(answers)

    @override
    def report(self) -> dict[str, Any]:
        texts = self.sample.texts()
        if not texts:
            return {"answers": 0}
        gold = _gold(self.room, len(texts))
        if len(gold) >= FEW:
            texts = texts[: len(gold)]
        teacher, known = _alike(texts), _alike(gold) if len(gold) >= FEW else None
        _, counts = np.unique(np.frombuffer(self.seen, dtype=np.uint64), return_counts=True)
        said: dict[str, Any] = {
            "answers": len(self.seen),
            "identical_answers": round(1 - len(counts) / len(self.seen), 4),
            "commonest_answer": round(int(counts.max()) / len(self.seen), 4),
            "sampled": len(texts),
            "teacher": _rounded(teacher),
            "gold": _rounded(known) if known else None,
        }
        reasons = _reasons(teacher, known) if len(texts) >= FEW else []
        if reasons:
            said["alarm"] = (
                f"the answers are much alike: {', '.join(reasons)}; read some of them, and vary the prompts or raise the "
                "teacher's temperature"
            )
        return said


def _alike(texts: Sequence[str]) -> _Alike:
    """The measures of some texts; all of them depend on how many there are."""
    split = [words(text) for text in texts]
    raw = "\n".join(texts).encode("utf-8", "replace")
    return _Alike(
        distinct_1=_distinct(split, 1),
        distinct_2=_distinct(split, 2),
        distinct_3=_distinct(split, 3),
        compression=len(raw) / len(zlib.compress(raw, 9)),
        self_bleu=_self_bleu([" ".join(some[:SELF_BLEU_WORDS]) for some in split[:SELF_BLEU_TEXTS] if some]),
        identical=1 - len(set(map(_mark, texts))) / len(texts),
    )


class _Sample:
    """The texts whose rows hash lowest: the same ones in whatever order the rows come."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: list[tuple[int, str]] = []

    def add(self, name: str, text: str) -> None:
        rank = -_mark(f"{name}\0{text}")
        if len(self._kept) < self.size:
            heapq.heappush(self._kept, (rank, text))
        elif rank > self._kept[0][0]:
            heapq.heapreplace(self._kept, (rank, text))

    def texts(self) -> list[str]:
        return [text for _, text in sorted(self._kept, reverse=True)]


def _has_labels(task: Task) -> bool:
    return task.kind in LABEL_TASKS or "labels" in type(task).model_fields


def _gold(room: Room, size: int) -> list[str]:
    """A sample of the gold answers, at most `size`."""
    sample = _Sample(size)
    for name, text in _gold_rows(room):
        sample.add(name, text)
    return sample.texts()


def _gold_rows(room: Room) -> Iterator[tuple[str, str]]:
    for split in ("train", "validation"):
        path = room.data / f"{split}.jsonl"
        if path.is_file():
            yield from ((row["id"], row["gold"]) for row in read_rows(path) if (row.get("gold") or "").strip())


def _mark(text: str) -> int:
    folded = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.blake2b(folded.encode("utf-8", "replace"), digest_size=8).digest())


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """The share of runs of n words that are different from all others (Li et al. 2016, arXiv 1510.03055); 1 without any."""
    runs = [tuple(text[at : at + n]) for text in texts for at in range(len(text) - n + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def _self_bleu(texts: Sequence[str]) -> float:
    """The mean BLEU of a text against all others (Zhu et al. 2018, arXiv 1802.01886), 0 to 100."""
    if len(texts) < 2:
        return 0.0
    scored = range(min(SELF_BLEU_SCORED, len(texts)))
    total = sum(float(_bleu().sentence_score(texts[at], [*texts[:at], *texts[at + 1 :]]).score) for at in scored)
    return total / len(scored)


@lru_cache(maxsize=1)
def _bleu() -> BLEU:
    return BLEU(tokenize="none", effective_order=True)  # the texts are words of any script already, with spaces between


def _rounded(measures: _Alike) -> dict[str, float]:
    return {name: round(value, 3) for name, value in measures._asdict().items()}


def _reasons(teacher: _Alike, gold: _Alike | None) -> list[str]:
    """What is too much alike: than the gold by a margin, or without gold than texts of people are."""
    bars = LIMITS if gold is None else _Alike(0, 0, gold[2] - 0.2, gold[3] * 1.5, gold[4] + 20, gold[5] + 0.1)

    def beside(shown: str) -> str:
        return f"gold {shown}" if gold else f"people's seldom pass {shown}"

    base = gold or bars
    found = []
    if teacher.distinct_3 < bars.distinct_3:
        found.append(f"distinct-3 {teacher.distinct_3:.2f} ({beside(f'{base.distinct_3:.2f}')})")
    if teacher.compression > bars.compression:
        found.append(f"compression {teacher.compression:.1f} ({beside(f'{base.compression:.1f}')})")
    if teacher.self_bleu > bars.self_bleu:
        found.append(f"self-BLEU {teacher.self_bleu:.0f} ({beside(f'{base.self_bleu:.0f}')})")
    if teacher.identical > bars.identical:
        found.append(f"{teacher.identical:.0%} identical ({beside(f'{base.identical:.0%}')})")
    return found
