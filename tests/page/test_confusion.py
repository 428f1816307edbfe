"""Classes as they are drawn in the report."""

from __future__ import annotations

import re
from typing import Any

from potstill.classes import class_scores
from potstill.page.confusion import class_tables, matrices
from potstill.plugins import load_plugin
from potstill.scoring import Answer
from potstill.types import Example, Message


def systems(said: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    task = load_plugin("tasks", "classification")
    found = {}
    for name, pairs in said.items():
        examples = [Example(str(i), (Message("user", "?"),), gold) for i, (gold, _) in enumerate(pairs)]
        answers = [Answer(str(i), text, None, "stop") for i, (_, text) in enumerate(pairs)]
        found[name] = {"classes": class_scores(task, examples, answers)}
    return found


FEW = [("a<b", "a<b")] * 3 + [("a<b", "c"), ("c", "c"), ("c", "who knows?")]
MANY = [(f"label_{i:02}", f"label_{i:02}" if i % 3 else "label_01") for i in range(40) for _ in range(2)]


def test_few_labels_are_drawn_with_every_count_and_escaped() -> None:
    ((name, drawn),) = matrices(systems({"student": FEW}))
    assert name == "student"
    assert "a<b" not in drawn
    assert "a&lt;b" in drawn
    counts = re.findall(r'class="count[^>]*>(\d+)<', drawn)
    assert sorted(counts) == ["1", "1", "1", "3"]
    assert len(re.findall("<rect", drawn)) == 2 * 3  # two labels, and answers that are neither
    assert "a&lt;b taken for c 1 times" in drawn


def test_many_labels_are_told_by_their_weakest_and_by_what_is_mixed_up_most() -> None:
    found = systems({"student": MANY, "teacher": [(gold, gold) for gold, _ in MANY]})
    assert matrices(found) == []
    weakest, mixed = class_tables(found)
    assert weakest.title == "the 15 weakest of 40 classes, weakest first"
    assert weakest.rows[0] == ["label_00", "2", "–", "0% [0.0, 65.8]", "0.000", "1.000"]
    assert mixed.rows[0] == ["label_00", "label_01", "2"]
    assert len(weakest.rows) == len(mixed.rows) + 1 == 15


def test_a_task_without_labels_has_no_tables() -> None:
    assert class_tables({"student": {"classes": None}, "teacher": {}}) == []
    assert matrices({"student": {}}) == []
