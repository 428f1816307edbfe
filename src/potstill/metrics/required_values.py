"""required_values: how many of the values a reply must state it does state."""

from __future__ import annotations

from ..contracts import Metric, Scored, Task
from ..text.overlap import listed_values
from ..text.texts import states, without_thinking


class RequiredValues(Metric):
    """Mean share of meta.required_values that a reply states, 0 to 1; rows without any do not count."""

    def per_row(self, row: Scored, task: Task) -> float | None:
        del task  # the same for every task
        values = listed_values(row.example.meta.get("required_values"))
        reply = without_thinking(row.text)
        return sum(states(reply, value) for value in values) / len(values) if values else None
