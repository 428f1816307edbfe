"""The verdict: one plain sentence that a person may repeat, and that does not say more than was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .numbers import count_in_words, interval, percent, points

SMALL_N = 100
SHOWN_BETTER, SHOWN_WORSE, NOT_SHOWN = "better", "worse", "not shown"

Scores = Mapping[str, Any]


def verdict(systems: Mapping[str, Scores], comparisons: Mapping[str, Any]) -> str:
    """One sentence from the `systems` and `comparisons` of evaluation/scores.json."""
    student = systems.get("student")
    if student is None:
        return "There is no student to judge: it was not evaluated."
    accuracy = student["accuracy"]
    if accuracy["value"] is None:
        return f"Nothing can be said of the student's accuracy: {accuracy['why'] or 'it was not measured'}."
    parts = [
        f"{_subject(student, systems.get('teacher'))} {_kept(accuracy, systems.get('teacher'), comparisons.get('retention'))}"
    ]
    parts += [_against("control", comparisons), _against("baseline", comparisons), _weak_teacher(comparisons)]
    parts.append(_sample_size(accuracy["n"], comparisons))
    return "; ".join(part for part in parts if part) + "."


def direction(gap: Scores | None) -> str:
    """Whether an interval of a difference shows better, worse or neither."""
    if gap is None or gap["low"] is None or gap["high"] is None:
        return NOT_SHOWN
    return SHOWN_BETTER if gap["low"] > 0 else SHOWN_WORSE if gap["high"] < 0 else NOT_SHOWN


def size_against(parameters: int | None, teacher_parameters: int | None) -> str:
    """
    >>> [size_against(10, n) for n in (41, 10, 5, None)]
    ['4.1 times smaller', 'as large as the teacher', '2 times larger', '']
    """
    if not parameters or not teacher_parameters:
        return ""
    if parameters == teacher_parameters:
        return "as large as the teacher"
    times = teacher_parameters / parameters
    return f"{_times(times)} times smaller" if times > 1 else f"{_times(1 / times)} times larger"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2g}" if ratio >= 10 else f"{round(ratio, 1):g}"


def _subject(student: Scores, teacher: Scores | None) -> str:
    size = size_against(student.get("parameters"), teacher.get("parameters") if teacher else None)
    known = student.get("parameters")
    told = [f"{count_in_words(known)} parameters"] if known else []
    told += [size] if size else []
    return f"The student ({', '.join(told)})" if told else "The student"


def _kept(accuracy: Scores, teacher: Scores | None, kept: Scores | None) -> str:
    own = f"is right on {percent(accuracy['value'])}{_spaced(interval(accuracy))} of the test rows"
    if teacher is None or teacher["accuracy"]["value"] is None:
        return f"{own}, and there is no teacher's score to hold it against"
    if kept is None or kept["value"] is None:
        return f"{own}; {kept['why'] if kept and kept['why'] else 'what it keeps of the teacher is unknown'}"
    fine = kept["value"] >= 0.99  # near 100% a whole percent would hide the loss
    value = percent(kept["value"]) if fine else f"{kept['value'] * 100:.0f}%"
    ends = interval(kept, digits=1 if fine else 0)
    whose = f"of the teacher's {percent(teacher['accuracy']['value'])} accuracy"
    if kept["low"] is None:
        return f"keeps {value} {whose} (no interval: {kept['why']})"
    return f"reaches {value} {ends} {whose}, more than it" if kept["low"] > 1 else f"keeps {value} {ends} {whose}"


def _against(other: str, comparisons: Mapping[str, Any]) -> str:
    if other == "control" and comparisons.get("control_is_student"):
        return "it learned plain text alone, so it is its own control"
    gap = comparisons.get(f"student_minus_{other}")
    if gap is None or gap["value"] is None:
        return f"no {other} to compare with"
    whom = "the control trained on plain text" if other == "control" else "the untouched baseline"
    shown = direction(gap)
    if shown == NOT_SHOWN:
        return f"no difference to {whom} could be shown ({points(gap['value'])} points{_spaced(interval(gap))})"
    if shown == SHOWN_WORSE:
        turned = {"low": -gap["high"], "high": -gap["low"]}
        return f"worse than {whom} by {abs(gap['value']) * 100:.1f} points {interval(turned)}"
    return f"better than {whom} by {gap['value'] * 100:.1f} points {interval(gap)}"


def _weak_teacher(comparisons: Mapping[str, Any]) -> str:
    """Keeping most of a teacher that knows no more than the untouched student is worth nothing, and must be told."""
    gap = comparisons.get("teacher_minus_baseline")
    if gap is None or gap["value"] is None or direction(gap) == SHOWN_BETTER:
        return ""
    if direction(gap) == SHOWN_WORSE:
        return f"the teacher itself is worse than the untouched baseline by {abs(gap['value']) * 100:.1f} points"
    return "the teacher itself could not be shown to be better than the untouched baseline"


def _sample_size(n: int, comparisons: Mapping[str, Any]) -> str:
    if n >= SMALL_N:
        return f"n = {n:,}"
    smallest = comparisons.get("detectable_difference")
    told = f", too few to see differences below about {smallest * 100:.0f} points" if smallest else ""
    return f"n = {n:,} only{told}"


def _spaced(text: str) -> str:
    return f" {text}" if text else ""
