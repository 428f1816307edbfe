"""macro_f1: every label counts the same, however rare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import PrivateAttr

from ..contracts import Metric, Scored, Task


class _Pair(NamedTuple):
    """What a row's gold says and what the answer says."""

    gold: str
    given: str | None


class MacroF1(Metric):
    """Mean F1 over the labels that occur in the gold, 0 to 1; an answer that cannot be read belongs to no label."""

    _pairs: dict[tuple[int, str, str], _Pair] = PrivateAttr(default_factory=dict)  # the bootstrap asks 2,000 times
    _tasks: dict[int, Task] = PrivateAttr(default_factory=dict)  # held, so that an id stays one task's

    def value(self, rows: Sequence[Scored], task: Task) -> float | None:
        self._tasks[id(task)] = task
        pairs = Counter(self._pair(row.example.gold, row.text, task) for row in rows if row.example.gold is not None)
        golds, given, hits = Counter[str](), Counter[str | None](), Counter[str]()
        for pair, count in pairs.items():
            golds[pair.gold] += count
            given[pair.given] += count
            hits[pair.gold] += count if pair.gold == pair.given else 0
        if not golds:
            return None
        return sum(2 * hits[label] / (count + given[label]) for label, count in golds.items()) / len(golds)

    def _pair(self, gold: str, text: str, task: Task) -> _Pair:
        key = (id(task), gold, text)
        if key not in self._pairs:
            self._pairs[key] = _Pair(task.read(gold) or gold, task.read(text))
        return self._pairs[key]
