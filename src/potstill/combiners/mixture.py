"""mixture: every answer teaches, each as an example of its own."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from pydantic import Field

from ..answers.voting import none_usable, readable
from ..contracts import Candidate, Case, Choice, Combiner, Room
from ..text.texts import normalised


class Mixture(Combiner):
    """Keeps all teachers' answers side by side, as separate examples; those that teach the same are kept once.

    The student then learns the spread of the answers and not one of them. An answer counts as much as the teachers and samples
    that gave it: three answers, of which two are the same, weigh 2/3 and 1/3. Answers that failed or cannot be read are left
    out, and the others share the row's weight.
    """

    weights: Literal["shared", "full"] = Field(
        default="shared", description="shared: a row's answers weigh 1 together, by their teachers' weights; full: 1 each"
    )

    def choose(self, cases: Sequence[Case], room: Room) -> list[Choice]:
        return [self._choice(case, room) for case in cases]

    def _choice(self, case: Case, room: Room) -> Choice:
        groups: dict[tuple[tuple[str, str], ...], list[Candidate]] = {}
        answers = readable(case, room.task)
        usable = [one for one in answers if room.task.unusable(one.reply.text) is None]
        for one in usable or answers[:1]:  # where none is, the first goes on and is refused with the task's own reason
            lessons = room.task.taught(case.example, one.reply.text)
            groups.setdefault(tuple((lesson.aim, normalised(lesson.text)) for lesson in lessons), []).append(one)
        if not groups:
            return none_usable(case, room.task)
        chosen = tuple(same[0] for same in groups.values())
        if self.weights == "full":
            return Choice(chosen)
        votes = [sum(Fraction(repr(float(room.teachers[one.teacher].weight))) for one in same) for same in groups.values()]
        return Choice(chosen, weights=tuple(float(vote / sum(votes)) for vote in votes))
