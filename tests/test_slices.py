"""Parts of the test rows, and which of them the student does worst on."""

from __future__ import annotations

from typing import Any

import pytest

from potstill.scoring import Answer, Resampling
from potstill.slices import LANGUAGE, LENGTH, MOST_VALUES, groups_of, slice_scores
from potstill.types import Example, Message

HOW = Resampling(200, 0)


def example(number: int, text: str = "Where is my parcel?", **meta: Any) -> Example:
    return Example(str(number), (Message("user", text),), "gold", meta)


def answers(right: list[float | None]) -> list[Answer]:
    return [Answer(str(i), "x", value, "stop") for i, value in enumerate(right)]


def test_rows_are_parted_by_plain_fields_of_a_few_values() -> None:
    rows = [
        example(i, kind="a" if i else "b", id=i, list=[1], same="x", sure=i > 3, rare="only" if i == 0 else None)
        for i in range(MOST_VALUES + 1)
    ]
    found = groups_of(rows)
    assert set(found) == {"kind", "sure"}
    assert found["kind"][:2] == ["b", "a"]
    assert found["sure"][3:5] == ["False", "True"]


def test_a_row_without_a_field_is_in_none_of_its_parts() -> None:
    assert groups_of([example(0, kind="a"), example(1, kind="b"), example(2)])["kind"] == ["a", "b", None]


def test_lengths_are_parted_in_quarters() -> None:
    rows = [example(number, "word " * (number + 1)) for number in range(8)]
    assert groups_of(rows)[LENGTH] == ["up to 2"] * 2 + ["3 to 4"] * 2 + ["5 to 6"] * 2 + ["7 to 8"] * 2


def test_quarters_that_are_alike_are_one() -> None:
    rows = [example(number, "one two" if number < 9 else "one two three") for number in range(10)]
    assert groups_of(rows)[LENGTH] == ["up to 2"] * 9 + ["3 to 3"]
    assert LENGTH not in groups_of(rows[:9])


def test_languages_part_rows_by_their_script() -> None:
    rows = [example(0, "荷物はどこですか"), example(1, "Πού είναι το δέμα μου;"), example(2, "12")]
    assert groups_of(rows)[LANGUAGE][:2] == ["ja", "el"]


def test_the_worst_part_comes_first_and_small_ones_are_left_out() -> None:
    values = ["good"] * 40 + ["bad"] * 40 + ["few"] * 5
    student = [1.0] * 40 + [0.0] * 30 + [1.0] * 10 + [0.0] * 5
    found = slice_scores({"kind": values}, {"teacher": answers([1.0] * 85), "student": answers([*student])}, HOW)
    assert [(one["value"], one["n"]) for one in found] == [("bad", 40), ("good", 40)]
    bad = found[0]
    assert bad["systems"]["student"]["value"] == 0.25
    assert bad["student_minus_teacher"]["value"] == pytest.approx(-0.75)
    assert bad["student_minus_teacher"]["low"] < -0.75 < bad["student_minus_teacher"]["high"] < -0.5


def test_without_a_teacher_the_lowest_accuracy_comes_first() -> None:
    found = slice_scores({"k": ["a"] * 20 + ["b"] * 20}, {"student": answers([1.0] * 20 + [1.0, 0.0] * 10)}, HOW)
    assert [one["value"] for one in found] == ["b", "a"]
    assert "student_minus_teacher" not in found[0]


def test_rows_without_gold_count_nowhere() -> None:
    assert slice_scores({"k": ["a"] * 20 + ["b"] * 20}, {"student": answers([None] * 40)}, HOW) == []
