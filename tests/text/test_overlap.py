"""Overlap of two texts: bounds, symmetry where there is one, and identical texts of any script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.text.overlap import accepted_answers, listed_values, references, rouge_l, token_f1
from potstill.types import Example, Message

ASKED = (Message("user", "?"),)


def test_rouge_l_of_hand_counted_texts() -> None:
    # the longest common sequence "police the gunman" has 3 words: 3/4 of each text
    assert rouge_l("police kill the gunman", ["police killed the gunman"]) == pytest.approx(0.75)
    assert rouge_l("police", ["something else", "police police"]) == pytest.approx(2 / 3)
    assert rouge_l("anything", []) == 0.0


@pytest.mark.parametrize("text", ["แมวนั่งบนเสื่อ", "猫坐在垫子上", "हिन्दी भाषा", "고양이가 앉았다", "!?", "Ω ξ"])
def test_identical_texts_of_any_script_score_one(text: str) -> None:
    assert rouge_l(text, [text]) == token_f1(text, [text]) == 1.0


def test_texts_of_scripts_without_spaces_overlap_in_part() -> None:
    assert 0.3 < rouge_l("แมวนั่งบนเสื่อ", ["หมานั่งบนเสื่อ"]) < 1.0
    assert 0.3 < token_f1("北京大学", ["北京"]) < 1.0


@given(st.text(max_size=40), st.text(max_size=40))
def test_scores_stay_between_nothing_and_one(one: str, other: str) -> None:
    assert 0.0 <= rouge_l(one, [other]) <= 1.0
    assert 0.0 <= token_f1(one, [other]) <= 1.0
    assert token_f1(one, [other]) == pytest.approx(token_f1(other, [one]))


def test_what_a_row_expects_is_found_in_its_meta_and_gold() -> None:
    row = Example("1", ASKED, "a", {"answers": ["b", 3, None, " "], "references": ["a", "c"]})
    assert accepted_answers(row) == ("b", "3")
    assert references(row) == ("a", "c")
    assert accepted_answers(Example("2", ASKED, "a", {"answers": []})) == ("a",)
    assert accepted_answers(Example("3", ASKED)) == references(Example("3", ASKED)) == ()
    assert listed_values("one") == ("one",)
    assert listed_values({"a": 1}) == listed_values(None) == listed_values(True) == ()
