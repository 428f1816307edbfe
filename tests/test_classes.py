"""Precision, recall and F1 of each class, and what is taken for what."""

from __future__ import annotations

import pytest

from potstill.classes import class_scores
from potstill.contracts import Scored
from potstill.metrics.macro_f1 import MacroF1
from potstill.plugins import load_plugin
from potstill.scoring import Answer
from potstill.types import Example, Message

SAID = [("yes", "yes"), ("yes", "Yes."), ("yes", "no"), ("no", "no"), ("no", "maybe"), ("no", "yes\nor no"), ("odd", "no")]


def rows(said: list[tuple[str | None, str]]) -> tuple[list[Example], list[Answer]]:
    examples = [Example(str(i), (Message("user", "?"),), gold) for i, (gold, _) in enumerate(said)]
    return examples, [Answer(str(i), text, None, "stop") for i, (_, text) in enumerate(said)]


def test_classes_have_the_shares_counted_by_hand() -> None:
    task = load_plugin("tasks", "classification")
    found = class_scores(task, *rows([*SAID, (None, "yes")]))
    assert found is not None
    assert found["labels"] == ["no", "yes", "odd"]
    no, yes, odd = found["classes"]
    assert (no["n"], no["given"], no["precision"]["value"], no["recall"]["value"]) == (3, 3, 1 / 3, 1 / 3)
    assert (yes["n"], yes["given"], yes["precision"]["value"], yes["recall"]["value"]) == (3, 2, 1.0, 2 / 3)
    assert yes["f1"] == pytest.approx(0.8)
    assert odd["precision"] == {"value": None, "low": None, "high": None, "n": 0}
    assert (odd["recall"]["value"], odd["recall"]["low"], odd["f1"]) == (0.0, 0.0, 0.0)
    assert no["recall"]["low"] < 1 / 3 < no["recall"]["high"]


def test_every_row_is_taken_for_one_label_or_for_none_of_them() -> None:
    found = class_scores(load_plugin("tasks", "classification"), *rows(SAID))
    assert found is not None
    assert found["taken"] == [[0, 0, 1], [0, 3, 2], [1, 0, 1], [1, 1, 2], [2, 0, 1]]


def test_their_mean_is_macro_f1() -> None:
    task = load_plugin("tasks", "classification")
    examples, answers = rows(SAID)
    found = class_scores(task, examples, answers)
    assert found is not None
    scored = [Scored(example, answer.text, None) for example, answer in zip(examples, answers, strict=True)]
    mean = sum(one["f1"] for one in found["classes"]) / len(found["classes"])
    assert MacroF1().value(scored, task) == pytest.approx(mean)


def test_a_row_that_got_no_answer_names_no_label() -> None:
    examples, _ = rows([("yes", "")])
    found = class_scores(load_plugin("tasks", "classification"), examples, [Answer("0", "yes", 0.0, "error", "no answer came")])
    assert found is not None
    assert found["taken"] == [[0, 1, 1]]


def test_tasks_that_do_not_choose_and_rows_without_gold_have_none() -> None:
    assert class_scores(load_plugin("tasks", "qa"), *rows(SAID)) is None
    assert class_scores(load_plugin("tasks", "nli"), *rows([(None, "neutral")])) is None
