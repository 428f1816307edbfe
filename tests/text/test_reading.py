"""Answers read out of what models wrap around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.text.reading import free_text, json_values, label_key, read_label, reasoned, unwrapped

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


@pytest.mark.parametrize(
    "text",
    ["Answer: " * 20_000, "\n{" * 50_000, "<answer>" * 20_000, "[" * 100_000, '{"a":' * 50_000, "```json\n" * 2000, "9" * 10_000],
)
def test_hostile_texts_are_read_quickly(text: str) -> None:
    unwrapped(text)
    read_label(text, LABELS)


@pytest.mark.parametrize(
    ("text", "answer", "rationale"),
    [
        ("He swims, so he is wet.\nAnswer: entailment", "entailment", "He swims, so he is wet."),
        ("He swims.\n\n**Final Answer:** entailment\n", "entailment", "He swims."),
        ("He swims.\n### Final answer\nentailment", "entailment", "He swims."),
        ("He swims.\nAnswer:\n\n**entailment**\n\nI hope that helps!", "entailment", "He swims."),
        ("1. He swims.\n2. Final answer: entailment", "entailment", "1. He swims."),
        ("He swims. Answer: entailment", "entailment", "He swims."),
        ("He swims.\nSo the answer is entailment.", "entailment", "He swims."),
        ("Answer: entailment\nHe swims.", "entailment", "He swims."),
        ("Answer: neutral? No.\nHe swims.\nAnswer: entailment", "entailment", "Answer: neutral? No.\nHe swims."),
        ("<think>He swims.</think>\nAnswer: entailment", "entailment", "He swims."),
        ("<rationale>He swims.</rationale>\n<answer>entailment</answer>", "entailment", "He swims."),
        ("<answer>entailment</answer> He swims.", "entailment", "He swims."),
        ("Reasoning: He swims.\nLabel: entailment", "entailment", "He swims."),
        ('{"rationale": "He swims.", "answer": "entailment"}', "entailment", "He swims."),
        ('```json\n{"reasoning": ["He swims.", "So wet."], "label": "entailment"}\n```', "entailment", "He swims.\nSo wet."),
        ('Sure:\n{"rationale": "He swims.", "answer": "entailment"}\nBye', "entailment", "He swims."),
        ('He swims.\n```json\n{"answer": "entailment"}\n```', "entailment", "He swims."),
        ('{"a": 1} He swims.\nAnswer: entailment', "entailment", '{"a": 1} He swims.'),
    ],
)
def test_reasoning_and_the_final_answer_are_told_apart(text: str, answer: str, rationale: str) -> None:
    found = reasoned(text)
    assert unwrapped(text) == answer
    assert (unwrapped(found.answer or ""), found.rationale) == (answer, rationale)


@pytest.mark.parametrize("text", ["entailment", "He swims, so it is entailed.", "The answer is not easy.\nHe swims.", "", "{}"])
def test_where_no_answer_is_marked_nothing_is_taken_for_reasoning(text: str) -> None:
    assert reasoned(text) == ("", None)


def test_gsm8ks_hashes_mark_a_number_and_are_a_heading_elsewhere() -> None:
    assert reasoned("2 + 2 = 4\n#### 4", hashes=True) == ("2 + 2 = 4", "4")
    assert reasoned("2 + 2 = 4", hashes=True) == ("2 + 2 = 4", None)
    assert reasoned("#### Paris") == ("", None)


def test_a_mark_that_names_no_label_is_no_answer_though_the_reasoning_names_one() -> None:
    assert read_label("It is about a refund.\nAnswer: I cannot say", LABELS) is None
    assert read_label("The word refund stands there.\nAnswer: card arrival", LABELS) == "card_arrival"
    assert read_label("Answer: refund or card_arrival", LABELS) is None


def test_free_text_keeps_its_punctuation_and_loses_its_wrapping() -> None:
    assert free_text('```json\n{"summary": "Ana is ill.\\nShe rests."}\n```') == "Ana is ill. She rests."
    assert free_text('"Emma" is a novel.') == '"Emma" is a novel.'
    assert free_text("```\nAna is ill.\n```") == free_text('"Ana is ill."') == free_text(" Ana\nis ill. ") == "Ana is ill."


def test_json_values_are_found_among_stray_words() -> None:
    assert list(json_values('See [1]: {"a": [2]} and [3')) == [[1], {"a": [2]}]
    assert list(json_values("none")) == []


@given(st.text(alphabet=st.sampled_from("Answer:is the#*\n<>/{}[]\"'`,. \\") | st.characters(), max_size=120))
def test_no_text_breaks_the_splitting(text: str) -> None:
    found = reasoned(text, hashes=True)
    assert found.rationale == found.rationale.strip()
    unwrapped(text)
    free_text(text)
    list(json_values(text))
