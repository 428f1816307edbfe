from __future__ import annotations

from typing import Any

from potstill.page.verdict import direction, verdict


def score(value: float | None, low: float | None, high: float | None, n: int = 1000, why: str | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n, "why": why}


def system(value: float | None, parameters: int | None, n: int = 1000) -> dict[str, Any]:
    if value is None:
        return {"accuracy": score(None, None, None, 0, "no test row has a gold answer"), "parameters": parameters}
    return {"accuracy": score(value, value - 0.02, value + 0.02, n), "parameters": parameters}


SYSTEMS = {"teacher": system(0.845, 7_800_000), "student": system(0.81, 1_900_000)}
KEPT = score(0.96, 0.93, 0.98)
GOOD = {"retention": KEPT, "student_minus_control": score(0.041, 0.019, 0.063), "student_minus_baseline": score(0.6, 0.57, 0.63)}


def test_a_good_student_is_told_with_size_retention_gain_and_n() -> None:
    assert verdict(SYSTEMS, GOOD) == (
        "The student (1.9M parameters, 4.1 times smaller) keeps 96% [93, 98] of the teacher's 84.5% accuracy; better than the "
        "control trained on plain text by 4.1 points [1.9, 6.3]; better than the untouched baseline by 60.0 points [57.0, 63.0]; "
        "n = 1,000."
    )


def test_a_student_that_is_worse_than_the_control_is_told_so() -> None:
    told = verdict(SYSTEMS, {**GOOD, "student_minus_control": score(-0.03, -0.05, -0.01)})
    assert "worse than the control trained on plain text by 3.0 points [1.0, 5.0]" in told


def test_a_student_that_is_worse_than_the_baseline_is_told_so() -> None:
    told = verdict(SYSTEMS, {**GOOD, "student_minus_baseline": score(-0.1, -0.12, -0.08)})
    assert "worse than the untouched baseline by 10.0 points [8.0, 12.0]" in told


def test_an_interval_that_holds_zero_shows_no_difference() -> None:
    told = verdict(SYSTEMS, {**GOOD, "student_minus_control": score(0.004, -0.012, 0.02)})
    assert "no difference to the control trained on plain text could be shown (+0.4 points [-1.2, 2.0])" in told
    assert "better than the control" not in told


def test_an_interval_that_touches_zero_shows_no_difference() -> None:
    assert direction(score(0.1, 0.0, 0.2)) == "not shown"
    assert direction(score(0.1, None, None)) == "not shown"
    assert direction(None) == "not shown"


def test_few_rows_are_told_with_what_they_cannot_show() -> None:
    systems = {"teacher": system(0.845, 7_800_000, 40), "student": system(0.81, 1_900_000, 40)}
    told = verdict(systems, {**GOOD, "detectable_difference": 0.124})
    assert told.endswith("; n = 40 only, too few to see differences below about 12 points.")


def test_near_a_hundred_percent_the_loss_is_not_rounded_away() -> None:
    told = verdict(SYSTEMS, {**GOOD, "retention": score(0.9968, 0.991, 1.0004)})
    assert "keeps 99.7% [99.1, 100.0] of the teacher's" in told


def test_a_student_that_beats_the_teacher_is_said_to_reach_more() -> None:
    told = verdict(SYSTEMS, {**GOOD, "retention": score(1.05, 1.02, 1.08)})
    assert "reaches 105.0% [102.0, 108.0] of the teacher's 84.5% accuracy, more than it" in told


def test_a_teacher_that_is_never_right_leaves_nothing_to_keep() -> None:
    why = "the teacher is right on no row, so there is nothing to keep"
    told = verdict({**SYSTEMS, "teacher": system(0.0, 100)}, {**GOOD, "retention": score(None, None, None, 1000, why)})
    assert "is right on 81.0% [79.0, 83.0] of the test rows; the teacher is right on no row" in told


def test_without_teacher_control_and_baseline_it_says_what_is_missing() -> None:
    told = verdict({"student": system(0.81, None)}, {})
    assert told == (
        "The student is right on 81.0% [79.0, 83.0] of the test rows, and there is no teacher's score to hold it against; "
        "no control to compare with; no baseline to compare with; n = 1,000."
    )


def test_without_gold_or_student_nothing_is_claimed() -> None:
    assert verdict({"student": system(None, 10)}, {}) == (
        "Nothing can be said of the student's accuracy: no test row has a gold answer."
    )
    assert verdict({}, {}) == "There is no student to judge: it was not evaluated."


def test_a_student_larger_than_its_teacher_is_told_so() -> None:
    told = verdict({**SYSTEMS, "teacher": system(0.8, 950_000)}, GOOD)
    assert "2 times larger" in told


def test_a_student_that_learned_plain_text_alone_is_its_own_control() -> None:
    told = verdict(SYSTEMS, {**GOOD, "student_minus_control": score(0.0, -0.01, 0.01), "control_is_student": True})
    assert "it learned plain text alone, so it is its own control" in told
    assert "no difference to the control" not in told


def test_a_teacher_that_knows_no_more_than_the_baseline_is_told() -> None:
    told = verdict(SYSTEMS, {**GOOD, "teacher_minus_baseline": score(-0.025, -0.06, 0.01)})
    assert "the teacher itself could not be shown to be better than the untouched baseline" in told
    told = verdict(SYSTEMS, {**GOOD, "teacher_minus_baseline": score(-0.05, -0.06, -0.01)})
    assert "the teacher itself is worse than the untouched baseline by 5.0 points" in told
    assert "teacher itself" not in verdict(SYSTEMS, {**GOOD, "teacher_minus_baseline": score(0.6, 0.5, 0.7)})
