"""Refuses answers that the task cannot read."""

from __future__ import annotations

from typing_extensions import override

from ..contracts import Check, Finding, Task
from ..types import Example, Reply


class Readable(Check):
    """Refuses an answer in which the task finds none: no label, no number."""

    @override
    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        return Finding(f"no {task.kind} answer in the text", again=True) if task.read(reply.text) is None else None
