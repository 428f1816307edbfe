"""Refuses answers that were cut."""

from __future__ import annotations

from typing_extensions import override

from ..contracts import Check, Finding, Task
from ..types import Example, Reply


class FinishReason(Check):
    """Refuses an answer that was cut at the length limit or by a content filter."""

    @override
    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        if reply.finish_reason == "length":
            return Finding("cut at the length limit: raise task.max_answer_tokens")
        if reply.finish_reason == "content_filter":
            return Finding("cut by the teacher's content filter")
        return None
