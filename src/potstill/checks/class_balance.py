"""Compares the labels that the teacher gives with those of the gold, and raises an alarm where they collapse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from typing_extensions import override

from ..contracts import Answered, Check, Finding, Room, Task, Watch
from ..runfolder import read_rows
from ..statistics import Floats, wilson
from ..types import Example

LABEL_TASKS = ("nli", "classification")
MAX_LABELS = 10_000
SHOWN = 20
SAMPLES = 1000
RARE = 3
"""A label has gone where even the upper end of its share is this many times below the lower end of the gold's."""
REST = "all others"


class ClassBalance(Check):
    """Compares the teacher's share of each label with the gold's, and raises an alarm on a collapse; refuses nothing.

    Alarms: a label of the gold that the teacher (nearly) never gives, one label for most rows, and a total variation distance
    (the share of answers that would have to change their label) above `max_distance`. All are judged by the ends of 95%
    intervals, so that few rows raise none. Where the answers are to other rows than the gold's, the rows may differ as well.
    """

    max_distance: float = Field(default=0.2, gt=0, le=1, description="total variation distance from the gold that is a collapse")
    max_share: float = Field(
        default=0.5, gt=0, le=1, description="share of one label that is a collapse, where the gold has far less of it"
    )

    @override
    def watch(self, room: Room) -> Watch:
        return _Watch(self, room) if _has_labels(room.task) else Watch(self, room)


class _Watch(Watch):
    """Counts labels."""

    check: ClassBalance

    def __init__(self, check: ClassBalance, room: Room) -> None:
        super().__init__(check, room)
        self.given: Counter[str] = Counter()
        self.num_unreadable = 0

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        for one in answers:
            if one.reply is None or one.source == "gold":
                continue
            label = self.room.task.read(one.reply.text)
            self.num_unreadable += label is None
            _count(self.given, label)
        return [None] * len(answers)

    @override
    def report(self) -> dict[str, Any]:
        gold: Counter[str] = Counter()
        for example in _gold_rows(self.room):
            answer = example.gold if example.gold is not None else example.meta.get("label")
            _count(gold, self.room.task.read(answer) if isinstance(answer, str) else None)
        said: dict[str, Any] = {
            "teacher": _shares(self.given, gold),
            "gold": _shares(gold, gold),
            "rows": {"teacher": self.given.total(), "gold": gold.total(), "unreadable": self.num_unreadable},
        }
        alarms = [*_missing(self.given, gold), *_taken_over(self.given, gold, self.check.max_share)]
        distance = _distance(self.given, gold)
        if distance is not None:
            said["total_variation"] = distance._asdict()
            if distance.value > distance.by_chance and distance.low > self.check.max_distance:
                alarms.append(
                    f"at least {distance.low:.0%} of the answers would have to change their label to be spread as the gold is"
                )
        if alarms:
            said["alarm"] = "; ".join(alarms) + "; the teacher is biased, or these rows are others than the gold's"
        return said


class _Distance(NamedTuple):
    """A total variation distance with its 95% interval; `by_chance` is what 99% of two samples of one source stay below."""

    value: float
    low: float
    high: float
    by_chance: float


def _has_labels(task: Task) -> bool:
    return task.kind in LABEL_TASKS or "labels" in type(task).model_fields


def _gold_rows(room: Room) -> Iterator[Example]:
    for split in ("train", "validation"):
        path = room.data / f"{split}.jsonl"
        if path.is_file():
            yield from (Example.from_dict(row) for row in read_rows(path) if row.get("gold") is not None)


def _count(counts: Counter[str], label: str | None) -> None:
    if label is not None:
        counts[label if label in counts or len(counts) < MAX_LABELS else REST] += 1


def _shares(counts: Mapping[str, int], gold: Counter[str]) -> dict[str, float]:
    """The share of the commonest labels, of the gold where there is any, and of all others together."""
    total = sum(counts.values())
    if not total:
        return {}
    known = gold if gold else Counter(counts)
    shown = [label for label, _ in known.most_common(SHOWN)]
    shares = {label: round(counts.get(label, 0) / total, 4) for label in shown}
    rest = sum(number for label, number in counts.items() if label not in shares)
    return {**shares, **({REST: round(rest / total, 4)} if rest else {})}


def _missing(given: Counter[str], gold: Counter[str]) -> list[str]:
    """Labels of the gold that the teacher never or nearly never gives, said in one phrase."""
    if not given or not gold:
        return []
    num_given, num_gold = given.total(), gold.total()
    gone = [
        label
        for label, number in gold.most_common()
        if wilson(given[label], num_given).high < wilson(number, num_gold).low / RARE
    ]
    if not gone:
        return []
    named = ", ".join(f"{label!r} ({given[label] / num_given:.1%}, gold {gold[label] / num_gold:.1%})" for label in gone[:3])
    more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
    return [f"the teacher hardly ever gives {named}{more}"]


def _taken_over(given: Counter[str], gold: Counter[str], max_share: float) -> list[str]:
    """One label for most rows, and far more often than in the gold; without gold, for nearly all rows."""
    if not given:
        return []
    label, number = given.most_common(1)[0]
    low = wilson(number, given.total()).low
    if not gold:
        bar, beside = max(0.9, max_share), "there is no gold to compare with"
    else:
        known = wilson(gold[label], gold.total())
        bar, beside = max(max_share, 1.5 * known.high), f"gold {gold[label] / gold.total():.0%}"
    return [f"the teacher says {label!r} to {number / given.total():.0%} of the rows ({beside})"] if low >= bar else []


def _distance(given: Counter[str], gold: Counter[str], seed: int = 0) -> _Distance | None:
    """Half the summed differences of the shares. The interval is the basic bootstrap's, since noise alone adds to a distance."""
    num_given, num_gold = given.total(), gold.total()
    if not num_given or not num_gold:
        return None
    labels = sorted({*given, *gold})
    counts = np.array([[given[label], gold[label]] for label in labels], dtype=np.float64)
    shares = counts / counts.sum(axis=0)
    value = float(np.abs(shares[:, 0] - shares[:, 1]).sum() / 2)
    rng = np.random.default_rng(seed)
    pooled = counts.sum(axis=1) / counts.sum()
    same = _drawn(rng, (pooled, num_given), (pooled, num_gold))
    again = _drawn(rng, (shares[:, 0], num_given), (shares[:, 1], num_gold))
    below, above = np.percentile(again, [2.5, 97.5])
    low, high = max(0.0, 2 * value - float(above)), min(1.0, max(value, 2 * value - float(below)))
    return _Distance(round(value, 4), round(low, 4), round(high, 4), round(float(np.percentile(same, 99)), 4))


def _drawn(rng: np.random.Generator, one: tuple[Floats, int], other: tuple[Floats, int]) -> Floats:
    """The distances of SAMPLES pairs of samples, each from its shares and of its size."""
    distances = np.empty(SAMPLES, dtype=np.float64)
    for place in range(SAMPLES):  # one at a time: thousands of labels need no large matrix
        first, second = (rng.multinomial(number, shares) / number for shares, number in (one, other))
        distances[place] = np.abs(first - second).sum() / 2
    return distances
