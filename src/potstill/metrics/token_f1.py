"""token_f1: how many words an answer shares with the gold."""

from __future__ import annotations

from ..contracts import Metric, Scored, Task
from ..text.overlap import accepted_answers, token_f1
from ..text.reading import unwrapped


class TokenF1(Metric):
    """Mean F1 of the words shared with the best of meta.answers, or the gold, as SQuAD counts them, 0 to 1."""

    def per_row(self, row: Scored, task: Task) -> float | None:
        del task  # the same for every task
        answers = accepted_answers(row.example)
        return token_f1(unwrapped(row.text), answers) if answers else None
