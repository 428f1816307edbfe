"""rouge_l: the longest common sequence of words with the best reference."""

from __future__ import annotations

from ..contracts import Metric, Scored, Task
from ..text.overlap import references, rouge_l
from ..text.texts import without_thinking


class RougeL(Metric):
    """Mean ROUGE-L F1 with the best of the gold and meta.references, 0 to 1, for words of any script."""

    def per_row(self, row: Scored, task: Task) -> float | None:
        del task  # the same for every task
        known = references(row.example)
        return rouge_l(without_thinking(row.text), known) if known else None
