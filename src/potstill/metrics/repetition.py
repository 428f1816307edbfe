"""repetition: how often answers turn in circles."""

from __future__ import annotations

from ..contracts import Metric, Scored, Task
from ..text.texts import words

RUN = 4
"""Words; people's answers seldom have the same four words twice."""


class Repetition(Metric):
    """Mean share of an answer's runs of four words that stand in it before, 0 to 1.

    Near 0 for people's texts, near 1 for a model that says one phrase until it is cut. Answers of fewer than eight words have
    none.
    """

    def per_row(self, row: Scored, task: Task) -> float | None:
        del task  # the same for every task
        found = words(row.text)
        if len(found) < 2 * RUN:
            return None
        runs = [tuple(found[i : i + RUN]) for i in range(len(found) - RUN + 1)]
        return 1 - len(set(runs)) / len(runs)
