"""Refuses answers without text."""

from __future__ import annotations

from typing_extensions import override

from ..contracts import Check, Finding, Task
from ..types import Example, Reply


class Empty(Check):
    """Refuses an answer that is blank or never came."""

    @override
    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        if reply.error is not None:
            return Finding(f"no answer: {reply.error}")
        return None if reply.text.strip() else Finding("blank answer", again=True)
