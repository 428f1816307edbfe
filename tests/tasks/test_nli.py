"""nli: one of three labels, however it is written."""

from __future__ import annotations

import pytest

from potstill.tasks.nli import Nli
from potstill.types import Example, Message

ASKED = (Message("user", "Premise: a. Hypothesis: b."),)


@pytest.mark.parametrize(
    "text",
    [
        "entailment",
        " Entailment.\n",
        '{"label": "ENTAILMENT"}',
        '```json\n{"answer": "entailment"}\n```',
        "The answer is entailment.",
        "The premise entails the hypothesis.",
        "It is not neutral: entailment.",
    ],
)
def test_a_right_label_is_right_in_every_dress(text: str) -> None:
    assert Nli().right(text, Example("1", ASKED, "entailment")) == 1.0
    assert Nli().right(text, Example("1", ASKED, "neutral")) == 0.0


@pytest.mark.parametrize("text", ["", "entailment, neutral or contradiction", "maybe", "not entailment"])
def test_no_label_or_several_is_no_answer(text: str) -> None:
    assert Nli().read(text) is None
    assert Nli().right(text, Example("1", ASKED, "entailment")) == 0.0


def test_a_row_without_gold_cannot_be_judged() -> None:
    assert Nli().right("neutral", Example("1", ASKED)) is None


def test_other_labels_may_be_named() -> None:
    task = Nli(labels=("supports", "refutes", "not enough info"))
    assert task.right("Not_enough_info", Example("1", ASKED, "not enough info")) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "Swimming is a sport, so neutral is out.\nAnswer: entailment",
        "Answer: Entailment\n\nThe hypothesis does not contradict the premise; it is not neutral.",
        '```json\n{"rationale": "It is neither neutral nor a contradiction.", "answer": "ENTAILMENT"}\n```',
        "It may look like a contradiction.\n\nAnswer: neutral\n\nWait.\n\n**Answer**: entailment.",
        "neutral?\ncontradiction?\n### Final answer\nentailment",
    ],
)
def test_the_final_answer_counts_and_not_the_labels_in_the_reasoning(text: str) -> None:
    assert Nli().read(text) == "entailment"


def test_the_closed_set_is_asked_of_teachers_that_give_probabilities() -> None:
    assert Nli().labels_asked() == ("entailment", "neutral", "contradiction")
