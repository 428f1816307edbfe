"""summarization: key facts where a row has them, overlap where it has none."""

from __future__ import annotations

from potstill.tasks.summarization import Summarization
from potstill.types import Example, Message

ASKED = (Message("user", "Summarize."),)


def test_a_summary_is_right_when_it_states_every_key_fact() -> None:
    row = Example("1", ASKED, "Zoe comes on Monday.", {"key_facts": ["Zoe", "Monday"]})
    assert Summarization().right("On monday, Zoe will return.", row) == 1.0
    assert Summarization().right("Zoe will return.", row) == 0.0


def test_without_key_facts_the_best_reference_decides() -> None:
    row = Example("1", ASKED, "one two three four", {"references": ["alpha beta"]})
    assert Summarization().right("alpha beta", row) == 1.0
    assert Summarization().right("one two five six", row) == 1.0
    assert Summarization().right("one five six seven", row) == 0.0
    assert Summarization(min_rouge_l=0.9).right("one two five six", row) == 0.0
    assert Summarization().right("x", Example("1", ASKED)) is None
