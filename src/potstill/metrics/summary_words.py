"""summary_words: how long the answers are."""

from __future__ import annotations

from ..contracts import Metric, Scored, Task
from ..text.texts import count_words


class SummaryWords(Metric):
    """Mean number of words in an answer to a row with gold: a length, which is better neither for being more nor less."""

    def per_row(self, row: Scored, task: Task) -> float | None:
        return None if row.example.gold is None else float(count_words(task.read(row.text) or ""))
