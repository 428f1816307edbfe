"""compression: how much shorter an answer is than what was asked."""

from __future__ import annotations

from ..contracts import Metric, Scored, Task
from ..text.texts import count_words


class Compression(Metric):
    """Mean share of the last message's words that an answer to a row with gold has, 0.1 for a tenth.

    A length, which is better neither for being more nor less.
    """

    def per_row(self, row: Scored, task: Task) -> float | None:
        asked = count_words(row.example.messages[-1].content)
        if row.example.gold is None or not asked:
            return None
        return count_words(task.read(row.text) or "") / asked
