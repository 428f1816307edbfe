"""summary_words: how long the answers are."""

from __future__ import annotations

from ..contracts import Metric, Scored, Task
from ..texts import count_words


class SummaryWords(Metric):
    """Mean number of words in an answer as the task reads it: a length, of which neither more nor less is better."""

    def per_row(self, row: Scored, task: Task) -> float | None:
        return float(count_words(task.read(row.text) or ""))
