"""vote: the answer that most teachers and samples give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ..answers.voting import Compare, compares_texts, elect, is_free_text, none_usable
from ..contracts import Case, Choice, Combiner, Finding, Room, Task, Teacher


class Vote(Combiner):
    """Keeps the answer that most teachers and samples agree on, each counted with its teacher's weight.

    Parsed answers vote: "Yes." and "yes" are one answer, and 0.5 and 1/2. With one teacher and `generate.samples: 5` this is
    self-consistency (Wang et al. 2022). Free texts (conversation, summarization) are never equal; there the text is kept that
    shares most words with all others. Teachers that failed and answers that cannot be read agree with nothing, and lower the
    agreement. Of the winning answer, the text of the job's first teacher that gave it teaches.
    """

    min_agreement: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of all votes asked for that must stand behind the answer, or the row is refused; "
        "default: 0.5, for free texts 0",
    )
    ties: Literal["first", "refuse"] = Field(
        default="first",
        description="answers with as many votes: the one of the job's first teacher is kept, or the row is refused",
    )
    compare: Compare = Field(
        default="auto",
        description="answers: equal as the task reads them; texts: by shared words; auto: texts for free text only",
    )

    def problems(self, teachers: Sequence[Teacher], task: Task) -> list[str]:
        del teachers
        if self.compare == "answers" and is_free_text(task):
            return [
                f"combine/vote: compare is answers, and two texts of the task {task.kind} are hardly ever equal, so nothing "
                "would be agreed on; use compare: texts, which keeps the text that shares most words with all others"
            ]
        return []

    def choose(self, cases: Sequence[Case], room: Room) -> list[Choice]:
        weights = [teacher.weight for teacher in room.teachers]
        return [self._choice(case, room.task, weights) for case in cases]

    def _choice(self, case: Case, task: Task, weights: Sequence[float]) -> Choice:
        found = elect(case, task, weights, self.compare)
        if found is None:
            return none_usable(case, task)
        least = self._least(task)
        if found.agreement is not None and found.agreement < least:
            return Choice(agreement=found.agreement, finding=Finding(f"fewer than {least:.0%} of the answers agree"))
        if found.tied and self.ties == "refuse":
            return Choice(agreement=found.agreement, finding=Finding("as many answers agree with another one"))
        return Choice((found.winner,), found.agreement)

    def _least(self, task: Task) -> float:
        if self.min_agreement is not None:
            return self.min_agreement
        return 0.0 if compares_texts(task, self.compare) else 0.5
