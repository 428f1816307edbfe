"""Refuses teacher's answers that are wrong by the gold, where a row has gold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator
from typing_extensions import override

from ..contracts import Answered, Check, Finding, Room, Task, Watch
from ..errors import MissingPackageError
from ..statistics import wilson
from ..text.equivalence import Equivalence
from ..text.overlap import listed_values
from ..types import Example, Reply

FREE_TEXT = {"conversation": "required_values", "summarization": "key_facts"}
"""Tasks whose judgement of a text is a convention, unless the row lists facts: a good summary seldom equals another one."""
WRONG = "wrong by the gold answer"
MANY = 20


class AgainstGold(Check):
    """Refuses an answer that the task judges wrong by the row's gold; rows without gold are not looked at.

    A row has an answer and gold where generate.when_gold is "teacher". For math, an answer that the exact reading takes for
    wrong is compared by math-verify too, which may find it equal (1/\\sqrt{2} and \\sqrt{2}/2), never the other way round.
    """

    math_verify: Literal["auto", "always", "never"] = Field(
        default="auto", description="compare mathematics by algebra too; auto: where the package math-verify is installed"
    )
    seconds: float = Field(default=5.0, ge=0.1, le=600, description="processor time that math-verify may take for one answer")
    workers: int | None = Field(default=None, ge=1, description="processes of math-verify; default: one a core, at most 4")
    free_text: bool = Field(
        default=False, description="also refuse replies and summaries that lists of facts do not judge, by likeness to the gold"
    )
    resample: bool = Field(
        default=False, description="ask again for a wrong answer, some times: rejection sampling, for temperatures above 0"
    )

    @field_validator("math_verify")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        if value == "always" and Equivalence.version() is None:
            raise MissingPackageError("math-verify", "math")
        return value

    @override
    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        """As soon as a reply arrives, before algebra: only what is wrong beyond doubt, and only to ask again."""
        if not self.resample or not _is_judged(self, example, task) or (task.kind == "math" and self.compares):
            return None
        return Finding(WRONG, again=True) if task.right(reply.text, example) == 0.0 else None

    @property
    def compares(self) -> bool:
        """Whether math-verify is used for math."""
        return self.math_verify != "never" and Equivalence.version() is not None

    @override
    def watch(self, room: Room) -> Watch:
        return _Watch(self, room)


class _Watch(Watch):
    """Compares the answers of a split with their gold."""

    check: AgainstGold

    def __init__(self, check: AgainstGold, room: Room) -> None:
        super().__init__(check, room)
        self.equivalence = Equivalence(check.workers, check.seconds) if check.compares and room.task.kind == "math" else None
        self.counts: Counter[str] = Counter()

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        task = self.room.task
        right: list[float | None] = []
        for one in answers:
            if one.reply is None or one.source == "gold":
                right.append(None)
                continue
            judged = _is_judged(self.check, one.example, task)
            right.append(task.right(one.reply.text, one.example) if judged else None)
            self.counts["answers"] += 1
        if self.equivalence is not None:
            self._find_equal(answers, right)
        self.counts.update(right=right.count(1.0), wrong=right.count(0.0))
        return [Finding(WRONG, again=self.check.resample) if value == 0.0 else None for value in right]

    def _find_equal(self, answers: Sequence[Answered], right: list[float | None]) -> None:
        """Lets math-verify turn wrong and unclear answers into right ones."""
        assert self.equivalence is not None
        asked = [
            (place, str(gold), one.reply.text)
            for place, one in enumerate(answers)
            if one.reply is not None and one.source != "gold" and right[place] != 1.0 and (gold := _gold(one.example)) is not None
        ]
        found = self.equivalence.equal([(gold, text) for _, gold, text in asked])
        for (place, _, _), equal in zip(asked, found, strict=True):
            if equal:
                right[place] = 1.0
                self.counts["equal_by_math_verify"] += 1

    @override
    def report(self) -> dict[str, Any]:
        judged = self.counts["right"] + self.counts["wrong"]
        said: dict[str, Any] = {
            "judged": judged,
            "right": self.counts["right"],
            "wrong": self.counts["wrong"],
            "not_judged": self.counts["answers"] - judged,
        }
        if self.equivalence is not None:
            self.equivalence.close()
            more = {"equal": self.counts["equal_by_math_verify"], "gave_up_on": self.equivalence.num_hung}
            said["math_verify"] = {"version": Equivalence.version(), **more}
        if judged >= MANY and wilson(self.counts["right"], judged).high < 0.5:
            said["alarm"] = (
                f"the teacher is wrong on {self.counts['wrong']:,} of the {judged:,} rows whose gold is known: read some of "
                "them, since either it cannot do the task, or its answers are not read as they are meant"
            )
        return said


def _is_judged(check: AgainstGold, example: Example, task: Task) -> bool:
    facts = FREE_TEXT.get(task.kind)
    return facts is None or check.free_text or bool(listed_values(example.meta.get(facts)))


def _gold(example: Example) -> str | int | float | None:
    """The gold of a math row, as the task takes it: meta.answer, or else the row's gold."""
    answer = example.meta.get("answer")
    return example.gold if isinstance(answer, bool) or not isinstance(answer, str | int | float) else answer
