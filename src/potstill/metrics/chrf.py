"""chrf: shared runs of up to six letters, over the whole test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from ..contracts import Metric, Scored, Task
from ..text.overlap import references
from ..text.texts import without_thinking

LONGEST = 6
BETA = 2
"""A run of the reference that is missing weighs this times one that is too much, squared."""


class Chrf(Metric):
    """Corpus chrF2 (Popovic 2015), 0 to 100, as sacrebleu counts it: letters without their spaces, in any script."""

    def value(self, rows: Sequence[Scored], task: Task) -> float | None:
        del task  # the same for every task
        counts = [_counts(row.text, known) for row in rows if (known := references(row.example))]
        return _score([sum(column) for column in zip(*counts, strict=True)]) if counts else None


@lru_cache(maxsize=65536)
def _counts(text: str, known: tuple[str, ...]) -> tuple[int, ...]:
    """Given, wanted and shared runs of 1, 2, ... letters, with the best of the references. Cached, since the bootstrap asks for
    the same row some 200 times."""
    given = _runs(without_thinking(text))
    return max((_shared(given, _runs(reference)) for reference in known), key=_score)


def _runs(text: str) -> list[Counter[str]]:
    letters = "".join(text.split())
    return [Counter(letters[i : i + n] for i in range(len(letters) - n + 1)) for n in range(1, LONGEST + 1)]


def _shared(given: list[Counter[str]], wanted: list[Counter[str]]) -> tuple[int, ...]:
    found: list[int] = []
    for ours, theirs in zip(given, wanted, strict=True):  # where the reference is too short for a run, none is held against us
        found += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return tuple(found)


def _score(counts: Sequence[int]) -> float:
    """F_beta of the mean precision and the mean recall over the lengths that both have."""
    triples = [counts[i : i + 3] for i in range(0, len(counts), 3)]
    both = [(shared / given, shared / wanted) for given, wanted, shared in triples if given and wanted]
    if not both:
        return 0.0
    precision, recall = (sum(column) / len(both) for column in zip(*both, strict=True))
    total = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / total if total else 0.0
