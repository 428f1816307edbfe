"""qa: exact match in SQuAD's form with any accepted answer."""

from __future__ import annotations

import pytest

from potstill.tasks.qa import Qa
from potstill.types import Example, Message

ROW = Example("1", (Message("user", "?"),), "the Eiffel Tower", {"answers": ["the Eiffel Tower", "Eiffel"]})


@pytest.mark.parametrize("text", ["Eiffel tower.", "The answer is the Eiffel Tower", "eiffel", '{"answer": "Eiffel"}'])
def test_any_accepted_answer_is_right(text: str) -> None:
    assert Qa().right(text, ROW) == 1.0


@pytest.mark.parametrize("text", ["", "The tower", "It is the Eiffel Tower"])
def test_other_answers_are_wrong(text: str) -> None:
    assert Qa().right(text, ROW) == 0.0


def test_a_wrong_number_stays_wrong() -> None:
    row = Example("1", ROW.messages, "3.5")
    assert Qa().right("3.5", row) == 1.0
    assert Qa().right("35", row) == 0.0
    assert Qa().right("-3.5", row) == 0.0


def test_a_row_without_gold_cannot_be_judged() -> None:
    assert Qa().right("x", Example("1", ROW.messages)) is None


def test_the_answer_behind_the_reasoning_is_read() -> None:
    for text in (
        "It stands in Paris.\nAnswer: the Eiffel Tower",
        '{"reasoning": "It stands in Paris.", "answer": "Eiffel"}',
        "It stands in Paris.\nTherefore, the answer is the Eiffel Tower.",
    ):
        assert Qa().right(text, ROW) == 1.0
    assert Qa().right("The Eiffel Tower is meant.\nAnswer: the Louvre", ROW) == 0.0
