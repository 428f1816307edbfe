"""The table of the parts on which the student does worst."""

from __future__ import annotations

from typing import Any

from potstill.page.weak_spots import weak_spots


def score(value: float | None) -> dict[str, Any]:
    ends = (None, None) if value is None else (value - 0.1, value + 0.1)
    return {"value": value, "low": ends[0], "high": ends[1], "n": 20}


def part(number: int) -> dict[str, Any]:
    systems = {"teacher": score(0.9), "student": score(0.8)}
    return {"field": "kind", "value": str(number), "n": 20, "systems": systems, "student_minus_teacher": score(-0.1)}


def test_ten_of_many_are_shown_with_their_numbers() -> None:
    (table,) = weak_spots([part(number) for number in range(12)])
    assert table.title == "the 10 worst of 12 parts, worst first"
    assert table.columns == ["", "rows", "student", "teacher", "student − teacher, points"]
    assert table.rows[0] == ["kind: 0", "20", "80.0% [70.0, 90.0]", "90.0%", "-10.0 [-20.0, 0.0]"]
    assert len(table.rows) == 10


def test_without_a_teacher_there_is_no_difference() -> None:
    one = {"field": "k", "value": "a", "n": 20, "systems": {"student": score(0.5)}}
    (table,) = weak_spots([one])
    assert table.columns == ["", "rows", "student"]
    assert weak_spots([]) == []
