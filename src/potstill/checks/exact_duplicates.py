"""Refuses rows that an earlier row repeats word for word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from typing_extensions import override

from ..contracts import Answered, Check, Finding, Room, Watch
from ..data.rows import digest, normalised, prompt_key


class ExactDuplicates(Check):
    """Refuses a row that repeats an earlier one; case, width and white space do not count, the system message does.

    By default a row is its prompt and its answer, so that several answers to one prompt stay. Memory: about 100 bytes a row.
    """

    compare: Literal["both", "prompt", "answer"] = Field(default="both", description="what must be the same")

    @override
    def watch(self, room: Room) -> Watch:
        return _Watch(self, room)


class _Watch(Watch):
    """Remembers 16 bytes of each row."""

    check: ExactDuplicates

    def __init__(self, check: ExactDuplicates, room: Room) -> None:
        super().__init__(check, room)
        self.seen: set[bytes] = set()

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        return [self._look(one) for one in answers]

    def _look(self, one: Answered) -> Finding | None:
        answer = one.example.gold if one.reply is None else one.reply.text
        prompt = "" if self.check.compare == "answer" else prompt_key(one.example.messages)
        if self.check.compare == "answer" and answer is None:
            return None
        key = digest(prompt, "" if answer is None or self.check.compare == "prompt" else normalised(answer))
        if key in self.seen:
            return Finding(f"the same {_NAMES[self.check.compare]} as an earlier row")
        self.seen.add(key)
        return None


_NAMES = {"both": "prompt and answer", "prompt": "prompt", "answer": "answer"}
