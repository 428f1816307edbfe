"""accuracy: the share of right answers."""

from __future__ import annotations

from ..contracts import Metric, Scored, Task


class Accuracy(Metric):
    """The share of rows that the task calls right, 0 to 1; rows without gold do not count."""

    def per_row(self, row: Scored, task: Task) -> float | None:
        return task.right(row.text, row.example) if row.right is None else row.right
