"""exact_match: the share of answers that equal the gold."""

from __future__ import annotations

from ..contracts import Metric, Scored, Task
from ..text.overlap import accepted_answers
from ..text.reading import unwrapped
from ..text.texts import squad_form


class ExactMatch(Metric):
    """The share of answers equal to one of meta.answers, or the gold, in SQuAD's form, 0 to 1."""

    def per_row(self, row: Scored, task: Task) -> float | None:
        del task  # the same for every task
        answers = accepted_answers(row.example)
        return float(squad_form(unwrapped(row.text)) in {squad_form(answer) for answer in answers}) if answers else None
