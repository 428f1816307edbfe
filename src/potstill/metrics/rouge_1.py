"""rouge_1: the words that are shared with the best reference."""

from __future__ import annotations

from ..contracts import Metric, Scored, Task
from ..text.overlap import references, rouge_n
from ..text.texts import without_thinking


class Rouge1(Metric):
    """Mean ROUGE-1 F1 with the best of the gold and meta.references, 0 to 1, for words of any script."""

    def per_row(self, row: Scored, task: Task) -> float | None:
        del task  # the same for every task
        known = references(row.example)
        return rouge_n(without_thinking(row.text), known, 1) if known else None
