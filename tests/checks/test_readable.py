from __future__ import annotations

from potstill.contracts import Task
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply


class Digits(Task):
    """A number."""

    def read(self, text: str) -> str | None:
        return text if text.isdigit() else None

    def right(self, text: str, example: Example) -> float | None:
        return None if example.gold is None else float(text == example.gold)


def test_an_answer_that_the_task_cannot_read_is_refused() -> None:
    check, row, task = load_plugin("checks", "readable"), Example("row", (Message("user", "1 + 1"),)), Digits(kind="digits")
    assert check.refuse(row, Reply("2"), task) is None
    finding = check.refuse(row, Reply("two"), task)
    assert finding is not None
    assert finding.reason == "no digits answer in the text"
    assert finding.again
