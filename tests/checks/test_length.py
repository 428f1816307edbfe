from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.errors import JobError
from potstill.plugins import load_plugin
from potstill.text.texts import words
from potstill.types import Example, Message, Reply

ROW = Example("row", (Message("system", "Be brief, please."), Message("user", "What is a still? Say it in few words, please.")))


def reason(text: str, **limits: Any) -> str | None:
    finding = load_plugin("checks", {"kind": "length", **limits}).refuse(ROW, Reply(text), None)
    assert finding is None or finding.again
    return finding.reason if finding else None


@pytest.mark.parametrize(
    ("limits", "text", "wanted"),
    [
        ({"min_characters": 3}, "  ab  ", "fewer than 3 characters"),
        ({"max_characters": 3}, "abcd", "more than 3 characters"),
        ({"min_words": 3}, "two words", "fewer than 3 words"),
        ({"max_words": 3}, "one, two, three - four", "more than 3 words"),
        ({"max_words": 3}, "<think>one two three four</think> five six", None),
        ({"max_words": 3}, "我喜欢茶", "more than 3 words"),
        ({"min_ratio": 0.5}, "A pot.", "fewer than 0.5 words for each of the prompt's"),
        ({"max_ratio": 0.5}, "A pot in which a liquid boils", "more than 0.5 words for each of the prompt's"),
        ({"min_words": 2, "max_words": 2, "max_characters": 9}, "two words", None),
    ],
)
def test_an_answer_outside_the_limits_is_refused(limits: dict[str, Any], text: str, wanted: str | None) -> None:
    assert reason(text, **limits) == wanted


def test_a_prompt_without_words_divides_nothing_by_zero() -> None:
    row = Example("row", (Message("user", "?!"),))
    assert load_plugin("checks", {"kind": "length", "max_ratio": 2}).refuse(row, Reply("a b c"), None) is not None


def test_limits_that_make_no_sense_are_refused_when_the_job_is_loaded() -> None:
    with pytest.raises(JobError, match="no limit is given"):
        load_plugin("checks", "length")
    with pytest.raises(JobError, match="min_words 9 is more than max_words 3"):
        load_plugin("checks", {"kind": "length", "min_words": 9, "max_words": 3})


@given(st.text(max_size=80), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=30)
def test_what_passes_lies_within_the_limits(text: str, low: int, high: int) -> None:
    low, high = sorted((low, high))
    passes = reason(text, min_words=low, max_words=high) is None
    if not text.lstrip().startswith("<think>"):
        assert passes == (low <= len(words(text)) <= high)
