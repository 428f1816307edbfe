"""Where a chooser among labels goes wrong: precision, recall and F1 of each class, and what is taken for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .contracts import Task
from .scoring import Answer
from .statistics import wilson
from .types import Example

Json = dict[str, Any]
CHOICE = "macro_f1"
"""A task that is measured by this metric chooses among labels."""


def class_scores(task: Task, examples: Sequence[Example], answers: Sequence[Answer]) -> Json | None:
    """{"labels": [...], "classes": [{label, n, given, precision, recall, f1}, ...], "taken": [[gold, given, count], ...]}.

    The commonest labels come first. `taken` counts pairs of places in `labels`, right ones too; a place beyond the last label is
    an answer that is none of them. Precision and recall are Scores with Wilson's 95% interval; None where a task does not choose
    among labels, or no row has gold.
    """
    if CHOICE not in task.metrics:
        return None
    pairs = Counter(
        (gold, task.read(answer.text) if answer.error is None else None)
        for example, answer in zip(examples, answers, strict=True)
        if (gold := _gold(task, example)) is not None
    )
    golds, given = Counter[str](), Counter[str | None]()
    for (gold, said), count in pairs.items():
        golds[gold] += count
        given[said] += count
    if not golds:
        return None
    labels = [label for label, _ in sorted(golds.items(), key=lambda item: (-item[1], item[0]))]
    place = {label: number for number, label in enumerate(labels)}
    taken = Counter[tuple[int, int]]()
    for (gold, said), count in pairs.items():
        taken[place[gold], place.get(said or "", len(labels))] += count
    classes = [_class(label, pairs[label, label], golds[label], given[label]) for label in labels]
    return {"labels": labels, "classes": classes, "taken": [[*pair, count] for pair, count in sorted(taken.items())]}


def _gold(task: Task, example: Example) -> str | None:
    gold = example.gold if example.gold is not None else example.meta.get("label")
    return (task.read(gold) or gold) if isinstance(gold, str) else None


def _class(label: str, hits: int, n: int, given: int) -> Json:
    return {
        "label": label, "n": n, "given": given, "f1": 2 * hits / (n + given),
        "precision": _share(hits, given), "recall": _share(hits, n),
    }  # fmt: skip


def _share(hits: int, n: int) -> Json:
    """A share with its interval; None where it is one of nothing."""
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    ends = wilson(hits, n)
    return {"value": hits / n, "low": ends.low, "high": ends.high, "n": n}
