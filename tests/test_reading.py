"""Answers read out of what models wrap around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.reading import label_key, read_label, unwrapped

LABELS = {label: label for label in ("card_arrival", "card_arrival_late", "refund", "no", "lost or stolen card")}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris", "Paris"),
        ("  **Paris**.\n", "Paris"),
        ("```\nParis\n```", "Paris"),
        ('```json\n{"answer": "Paris"}\n```', "Paris"),
        ('Here you are:\n```json\n{"answer": "Paris"}\n``` Good luck!', "Paris"),
        ('```json\n{"answer": "Paris"', '{"answer": "Paris"'),
        ('{"Label": "neutral", "why": "..."}', "neutral"),
        ('{"city": "Paris"}', "Paris"),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 2}'),
        ('["Paris"]', "Paris"),
        ('"Paris"', "Paris"),
        ('{"answer": true}', "true"),
        ('{"answer": 7}', "7"),
        ("The final answer is: Paris!", "Paris"),
        ("So, the answer is Paris", "Paris"),
        ("Label: neutral", "neutral"),
        ("Answer the phone", "Answer the phone"),
        ("<think>Rome?</think>Answer: Paris", "Paris"),
        ("", ""),
    ],
)
def test_the_answer_is_unwrapped(text: str, answer: str) -> None:
    assert unwrapped(text) == answer


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Card Arrival", "card_arrival"),
        ("CARD-ARRIVAL.", "card_arrival"),
        ("cardarrival", "card_arrival"),
        ("Lost_or_stolen card!", "lost or stolen card"),
        ("The intent is card arrival late.", "card_arrival_late"),
        ("I think this is about a refund", "refund"),
        ("refund\nbecause the customer wants the money back", "refund"),
        ("It is not refund but card_arrival", "card_arrival"),
        ("refund or card_arrival", None),
        ("It could be refund or card_arrival. The answer is: refund", "refund"),
        ("refund\ncard_arrival", None),
        ("There is no reason", None),
        ("No.", "no"),
        ("refunded", None),
        ("", None),
        ("I cannot help", None),
    ],
)
def test_a_label_is_read_when_it_is_the_only_one_given(text: str, label: str | None) -> None:
    assert read_label(text, LABELS) == label


def test_labels_keep_the_signs_that_tell_them_apart() -> None:
    assert len({label_key(label) for label in ("c", "c++", "c#")}) == 3


@given(st.text())
def test_no_text_breaks_the_reading(text: str) -> None:
    unwrapped(text)
    assert read_label(text, LABELS) in (None, *LABELS)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "```json\n" * 2000, "9" * 10_000])
def test_hostile_texts_are_read_quickly(text: str) -> None:
    unwrapped(text)
    read_label(text, LABELS)
