"""classification: one label, spelled as people and models spell it."""

from __future__ import annotations

import pytest

from potstill.errors import JobError
from potstill.plugins import load_plugin
from potstill.tasks.classification import Classification
from potstill.types import Example, Message

ASKED = (Message("user", "Where is my card?"),)
LABELS = ("card_arrival", "card_linking", "Refund_not_showing_up")


@pytest.mark.parametrize(
    "text", ["card_arrival", "Card Arrival", "card-arrival.", '{"intent": "card_arrival"}', "Label: card_arrival"]
)
@pytest.mark.parametrize("labels", [None, LABELS])
def test_spelling_does_not_count(text: str, labels: tuple[str, ...] | None) -> None:
    task = Classification(labels=labels)
    assert task.right(text, Example("1", ASKED, "card_arrival")) == 1.0
    assert task.right(text, Example("1", ASKED, "card_linking")) == 0.0
    assert task.read(text) == "card_arrival"


def test_with_labels_one_is_found_in_a_sentence_and_without_them_only_one_line_counts() -> None:
    assert Classification(labels=LABELS).read("This is refund not showing up.") == "Refund_not_showing_up"
    assert Classification(labels=LABELS).read("greeting") is None
    assert Classification().read("card_arrival\nas the customer waits") is None
    assert Classification().read(" ") is None


def test_labels_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(JobError, match="'a b' and 'A_B' differ only in case"):
        load_plugin("tasks", {"kind": "classification", "labels": ["a b", "A_B"]})
    with pytest.raises(JobError, match="has no letters"):
        load_plugin("tasks", {"kind": "classification", "labels": ["_"]})


def test_a_row_without_gold_cannot_be_judged() -> None:
    assert Classification().right("x", Example("1", ASKED)) is None


def test_a_chain_of_thought_ends_in_one_label() -> None:
    text = "A refund is meant, or card linking?\nNo: the card is under way.\n\nFinal answer: **Card arrival**"
    assert Classification().read(text) == Classification(labels=LABELS).read(text) == "card_arrival"


def test_a_student_is_taught_the_label_as_the_job_spells_it_or_else_as_the_teacher_does() -> None:
    text = "It is late.\nAnswer: Card arrival"
    free = load_plugin("tasks", {"kind": "classification", "chain_of_thought": True})
    named = load_plugin("tasks", {"kind": "classification", "chain_of_thought": True, "labels": LABELS})
    assert [one.text for one in free.taught(Example("1", ASKED), text)] == ["Card arrival"]
    assert [one.text for one in named.taught(Example("1", ASKED), text)] == ["card_arrival"]
    assert (free.labels_asked(), named.labels_asked()) == ((), LABELS)
