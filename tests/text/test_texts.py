"""Texts compared across scripts: normalising, words, SQuAD's form and stated values."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.text.texts import UNSPACED, normalised, squad_form, states, without_thinking, words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Cat!", "cat"),
        ("a 1,234.5 kg", "1234.5 kg"),
        ("3.5", "3.5"),
        ("-5", "-5"),
        ("5-6", "56"),
        ("All-India", "allindia"),
        ("“Über” den Fluß", "über den fluss"),
        ("the", "the"),
        ("?!", "?!"),
        ("१२.५", "१२.५"),
    ],
)
def test_the_squad_form_drops_what_does_not_matter_and_keeps_numbers(text: str, wanted: str) -> None:
    assert squad_form(text) == wanted


def test_words_are_found_in_any_script() -> None:
    assert words("It's 5.30 €, naïve_word") == ["it", "s", "5", "30", "naïve", "word"]
    assert words("中文abc 3") == ["中", "文", "abc", "3"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert len(words("สวัสดีครับ")) > 3
    assert words("") == words(" .,! ") == []


def words_letter_by_letter(text: str) -> list[str]:
    """The words of a text by looking at each letter, with nothing remembered."""
    spread = []
    before = ""
    for letter in normalised(text):
        category = unicodedata.category(letter)[0]
        is_unspaced = re.fullmatch(f"[{UNSPACED}]", letter) is not None
        is_word = is_unspaced or re.fullmatch(r"\w", letter) is not None
        if re.fullmatch(f"[{UNSPACED}]", before) and is_word and not is_unspaced:
            spread.append(" ")
        if category == "M":
            spread.append(letter)
        elif category not in "LN":
            spread.append(" ")
        else:
            spread.append(f" {letter}" if is_unspaced else letter)
        before = letter
    return "".join(spread).split()


MIXED = st.text(alphabet=st.one_of(st.characters(), st.sampled_from("aB3 _-'’.,中文テスト가ก็ไม่ျមែ१२िé\u0301ǅßﬁ①²\u200d\x1c𠀀")))


@given(MIXED)
def test_words_are_those_of_a_look_at_each_letter(text: str) -> None:
    assert words(text) == words_letter_by_letter(text)
    assert words(text) == words_letter_by_letter(text), "and again, when every letter has been met"


@pytest.mark.parametrize(
    ("text", "value", "wanted"),
    [
        ("Your code is 1234.", "1234", True),
        ("Your code is 12345.", "1234", False),
        ("It is 12.5 km", "12", False),
        ("It is 12.5 km", "5", False),
        ("It costs 1,200 dollars", "200", False),
        ("At 10:30.", "10", False),
        ("At 10.", "10", True),
        ("Flat 10, please", "10", True),
        ("10th March", "10", False),
        ("the ART  Gallery\nis open", "art gallery", True),
        ("a party", "art", False),
        ("party and art", "art", True),
        ("ไปเชียงใหม่พรุ่งนี้", "เชียงใหม่", True),
        ("我在北京大学", "北京", True),
        ("Ｃａｆé", "café", True),
        ("anything", " ", True),
        ("-5 degrees", "5", True),
    ],
)
def test_a_value_is_stated_as_a_whole_word_or_number(text: str, value: str, wanted: bool) -> None:
    assert states(text, value) is wanted


def test_thinking_is_no_part_of_an_answer_even_when_cut_short() -> None:
    assert without_thinking("<think>\nno\n</think>\n\nyes") == "yes"
    assert without_thinking("<think> so long that") == ""
    assert without_thinking("I <think> so") == "I <think> so"


@given(st.text(), st.text(max_size=4))
def test_no_text_breaks_them(text: str, value: str) -> None:
    words(text)
    assert squad_form(squad_form(text)) is not None
    assert states(text, text)
    if states(text, value):
        assert normalised(value) in normalised(text)
