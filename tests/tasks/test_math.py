"""math: the final number, exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.tasks.math import Math
from potstill.types import Example, Message

ASKED = (Message("user", "2 + 2?"),)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2 + 2 = 4\n#### 4", "4"),
        ("#### $1,234.00", "1234"),
        ("#### 1234 dollars, and 5 cents", "1234"),
        ("####-7", "-7"),
        ("#### −7", "-7"),
        ("#### 3\nwait\n#### 4", "4"),
        (r"So \boxed{42}.", "42"),
        (r"\boxed{\frac{3}{4}}", "0.75"),
        (r"\boxed{\dfrac{1}{3}}", "1/3"),
        (r"\boxed{1{,}000}", "1000"),
        ("The answer is 1/2.", "0.5"),
        ("The final answer: 12.50", "12.5"),
        ('{"answer": 12}', "12"),
        ("He has 12 apples.\nSo 12 - 5 = 7 are left.", "7"),
        ("It takes 5-3 hours", "3"),
        ("50%", "50"),
        ("#### 12,34", "12.34"),
        ("#### 1.234,5 €", "1234.5"),
        ("#### 1 234 apples", "1234"),
        ("#### 1½", "1.5"),
        ("The answer is 5 + 7 = 12 apples, not 13", "12"),
        ("The area is 25 m².", "25"),
        ("**Answer:** 1/3", "1/3"),
        ('{"rationale": "2 + 2 = 4, or #### 5", "answer": "4 apples"}', "4"),
        ('```json\n{"steps": ["2 + 2 = 4"], "answer": 4}\n```', "4"),
        ("1e3", "1000"),
        (".5", "0.5"),
        ("1/0", None),
        ("none at all", None),
        ("", None),
        ("<think>4?</think>5", "5"),
        ("９", "9"),
        ("9" * 5000, None),
    ],
)
def test_the_final_number_is_read(text: str, number: str | None) -> None:
    assert Math().read(text) == number


def test_equal_numbers_are_right_and_all_others_wrong() -> None:
    row = Example("1", ASKED, "12 - 5 = 7\n#### 7", {"answer": "7"})
    assert Math().right("#### 7.0", row) == 1.0
    assert Math().right("It is 7", Example("1", ASKED, "#### 7")) == 1.0
    assert Math().right("#### 70", row) == Math().right("", row) == 0.0
    assert Math().right("50", Example("1", ASKED, "0.5")) == 0.0
    assert Math().right("50%", Example("1", ASKED, "0.5")) == Math().right("0.5", Example("1", ASKED, "50%")) == 1.0
    assert Math().right("#### 50%", Example("1", ASKED, "...", {"answer": 50})) == 1.0


def test_a_row_without_a_number_to_compare_with_cannot_be_judged() -> None:
    assert Math().right("4", Example("1", ASKED)) is None
    assert Math().right("4", Example("1", ASKED, "no number here")) is None


@given(st.text(alphabet=st.sampled_from("0123456789.,-/#e $%\\{}boxedfrac\n") | st.characters(), max_size=60))
def test_no_text_breaks_the_reading(text: str) -> None:
    found = Math().read(text)
    assert found is None or Math().read(f"#### {found}") == found


@given(st.integers(-(10**12), 10**12), st.integers(0, 4))
def test_a_decimal_is_read_as_the_number_it_is(number: int, places: int) -> None:
    sign, digits = "-" if number < 0 else "", f"{abs(number):0{places + 1}d}"
    text = f"{sign}{digits[: len(digits) - places]}{'.' if places else ''}{digits[len(digits) - places :]}"
    assert Math().read(f"#### {text}") == Math().read(f"The answer is {text}0." if places else f"The answer is {text}.0")


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("2", r"\sqrt{2}", 0.0),
        (r"So it is \boxed{\sqrt{2}}.", r"\sqrt{2}", 1.0),
        ("3x", "3y", 0.0),
        ("The answer is $3x$.", "3x", 1.0),
        ("7 m", "7", 1.0),
        ("12 apples", "She has 5 + 7 = 12 apples.\n#### 12", 1.0),
    ],
)
def test_an_expression_is_not_the_first_number_in_it(text: str, gold: str, right: float) -> None:
    assert Math().right(text, Example("1", (Message("user", "?"),), gold)) == right
