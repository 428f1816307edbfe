"""From answers to scores: accuracy and metrics of a system with their intervals, and how the student compares."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .contracts import Metric, Scored, Task
from .plugins import load_plugin
from .statistics import detectable_difference, deviation_of_difference, difference, mean_score, resampled_score, retention
from .types import Example, Score

Json = dict[str, Any]
Row = TypeVar("Row")
RESAMPLES_OF_A_CORPUS_METRIC = 200
ROWS_OF_A_CORPUS_METRIC = 200_000
"""A metric of whole sets of rows is computed anew for every resample, so large test files get fewer resamples."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """How often and from which seed the bootstrap draws."""

    samples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What one system said to one test row; `right` is None where the row has no gold. One that chooses among labels has the
    probability of each."""

    id: str
    text: str
    right: float | None
    finish_reason: str
    error: str | None = None
    label_probabilities: Mapping[str, float] | None = None

    def as_dict(self) -> Json:
        row = {"id": self.id, "text": self.text, "right": self.right, "finish_reason": self.finish_reason}
        more = {"error": self.error, "label_probabilities": self.label_probabilities}
        return {**row, **{name: value for name, value in more.items() if value is not None}}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Answer:
        more = row.get("error"), row.get("label_probabilities")
        return cls(row["id"], row["text"], row["right"], row["finish_reason"], *more)


def judge(task: Task, example: Example, text: str, finish_reason: str, error: str | None = None) -> Answer:
    """An answer with whether it is right. A row that got no answer is wrong, never left out (invariant 1)."""
    right = task.right(text, example)
    return Answer(example.id, text, 0.0 if error is not None and right is not None else right, finish_reason, error)


def accuracy(answers: Sequence[Answer], how: Resampling) -> Score:
    """The share of right rows among those that have gold."""
    score = mean_score([answer.right for answer in answers], how.samples, how.seed)
    if score.n == 0:
        return Score(None, None, None, 0, "no test row has a gold answer")
    return score


def metrics(task: Task, examples: Sequence[Example], answers: Sequence[Answer], how: Resampling) -> dict[str, Json]:
    """Each of the task's metrics: {value, low, high, n, why}."""
    rows = [
        Scored(example, answer.text, answer.right)
        for example, answer in zip(examples, answers, strict=True)
        if example.gold is not None
    ]
    return {name: metric_score(load_plugin("metrics", name), rows, task, how).as_dict() for name in task.metrics}


def metric_score(metric: Metric, rows: Sequence[Scored], task: Task, how: Resampling) -> Score:
    """A metric with its interval: of the mean where it has per-row values, by whole resamples where it has none."""
    values = [metric.per_row(row, task) for row in rows]
    if any(value is not None for value in values):
        return mean_score(values, how.samples, how.seed)
    samples = max(40, min(RESAMPLES_OF_A_CORPUS_METRIC, ROWS_OF_A_CORPUS_METRIC // max(1, len(rows))))
    return resampled_score(lambda numbers: metric.value([rows[i] for i in numbers], task), len(rows), samples, how.seed)


def comparisons(answers: Mapping[str, Sequence[Answer]], how: Resampling) -> Json:
    """Student against each other system on the same rows, what it keeps of the teacher, and what n can show at all."""
    right = {name: [answer.right for answer in rows] for name, rows in answers.items()}
    student = right.get("student")
    if student is None:
        return {}
    found: Json = {
        f"student_minus_{other}": difference(student, right[other], how.samples, how.seed).as_dict()
        for other in ("teacher", "baseline", "control")
        if other in right
    }
    if {"teacher", "baseline"} <= set(right):
        found["teacher_minus_baseline"] = difference(right["teacher"], right["baseline"], how.samples, how.seed).as_dict()
    if "teacher" in right:
        found["retention"] = retention(student, right["teacher"], how.samples, how.seed).as_dict()
        n = found["student_minus_teacher"]["n"]
        deviation = deviation_of_difference(student, right["teacher"])
        found["detectable_difference"] = detectable_difference(n, deviation) if deviation else detectable_difference(n)
    return found


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` rows, evenly over the whole.

    >>> spread([0, 1, 2, 3, 4, 5], 3)
    [0, 2, 4]
    """
    return [rows[i * len(rows) // count] for i in range(count)] if len(rows) > count else list(rows)


def cut_off(answers: Sequence[Answer]) -> list[str]:
    """Notes about rows that count but were not answered properly."""
    notes = []
    cut = sum(answer.finish_reason == "length" for answer in answers)
    failed = [answer.error for answer in answers if answer.error is not None]
    if cut:
        notes.append(f"{cut:,} of {len(answers):,} answers were cut off at the longest allowed length")
    if failed:
        first = re.sub(r"\s+", " ", failed[0] or "")[:160]
        notes.append(f"{len(failed):,} of {len(answers):,} rows got no answer and count as wrong (the first: {first})")
    return notes
