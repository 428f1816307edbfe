"""best_of: the best of several answers, by the gold where there is any, else by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ..answers.judging import RUBRIC, VERDICT_TOKENS, JudgeModel, duel_winner, duels, refuse_own_family
from ..answers.voting import compares_texts, elect, is_free_text, none_usable, readable
from ..contracts import Candidate, Case, Choice, Combiner, Finding, Room, Task, Teacher
from ..errors import JobError
from ..text.texts import normalised
from ..types import Request


class BestOf(Combiner):
    """Keeps the best answer of each row: one that the gold proves right, or else the one that a judge prefers.

    Gold comes first: where the row has any, the first answer that is right by the task's own rule is kept, and a row without a
    right answer is refused (rejection sampling: Yuan et al. 2023, arXiv 2308.01825). Rows without gold go to the judge, which
    sees each two different answers in both orders; the answer that wins most of these duels is kept. Where no judge is named,
    or its verdicts decide nothing, `otherwise` says what happens.
    """

    answers_vote: ClassVar[bool] = False
    judge: JudgeModel | None = Field(
        default=None,
        description="a teacher as in `teacher:`, of another family; n different answers are n(n - 1) questions to it",
    )
    rubric: str = Field(default=RUBRIC, min_length=1, description="what makes an answer better, as told to the judge")
    force: bool = Field(default=False, description="let a judge choose among answers of its own family, which it will prefer")
    otherwise: Literal["vote", "refuse"] = Field(
        default="vote", description="no gold and no verdict: keep the answer that most others agree with, or refuse the row"
    )

    def problems(self, teachers: Sequence[Teacher], task: Task) -> list[str]:
        del task
        if self.judge is None:
            return []
        found = [f"combine/best_of, the judge: {problem}" for problem in self.judge.problems()]
        if not found and not self.force:
            try:
                refuse_own_family(self.judge, teachers)
            except JobError as error:
                found.append(f"combine/best_of: {error}")
        return found

    def consults(self, num_rows: int, num_answers: int) -> Sequence[tuple[Teacher, int]]:
        """Each two answers in both orders, where no two are the same."""
        requests = num_rows * num_answers * (num_answers - 1)
        return () if self.judge is None or not requests else ((self.judge, requests),)

    def choose(self, cases: Sequence[Case], room: Room) -> list[Choice]:
        by_gold = [_proved(case, room.task) for case in cases]
        open_cases = [case for case, choice in zip(cases, by_gold, strict=True) if choice is None]
        judged = iter(self._judged(open_cases, room))
        return [next(judged) if choice is None else choice for choice in by_gold]

    def _judged(self, cases: Sequence[Case], room: Room) -> list[Choice]:
        """What the judge prefers; all duels of all rows are asked together."""
        rivals = [_rivals(case, room.task) for case in cases]
        texts = [[_shown(case, one, room.task) for one in some] for case, some in zip(cases, rivals, strict=True)]
        if self.judge is None:
            return [self._undecided(case, room, some) for case, some in zip(cases, rivals, strict=True)]
        if not self.force:
            refuse_own_family(self.judge, room.teachers)
        sampling = self.judge.sampling(VERDICT_TOKENS)
        asked = [duels(case.example, some, sampling, self.rubric) for case, some in zip(cases, texts, strict=True)]
        every: list[Request] = [request for some in asked for request in some]
        replies = iter(room.ask(self.judge, every) if every else ())
        choices = []
        for case, some, said, requests in zip(cases, rivals, texts, asked, strict=True):
            winner = duel_winner(said, [next(replies) for _ in requests])
            choices.append(self._undecided(case, room, some) if winner is None else Choice((some[winner],)))
        return choices

    def _undecided(self, case: Case, room: Room, rivals: Sequence[Candidate]) -> Choice:
        """No judge, or no verdict: answers that are all the same need none."""
        if len(rivals) > 1 and self.otherwise == "refuse":
            return Choice(finding=Finding("no gold and no verdict says which answer is best"))
        found = elect(case, room.task, [teacher.weight for teacher in room.teachers])
        assert found is not None, "every open case has a readable answer"
        return Choice((found.winner,), found.agreement)


def _proved(case: Case, task: Task) -> Choice | None:
    """The choice that needs no judge: nothing can be read, or the gold decides; None where it is open."""
    answers = readable(case, task)
    if not answers:
        return none_usable(case, task)
    verdicts = [task.right(one.reply.text, case.example) for one in answers]
    if all(verdict is None for verdict in verdicts):
        return None
    right = [one for one, verdict in zip(answers, verdicts, strict=True) if verdict == 1.0]
    if not right:
        return Choice(finding=Finding("no answer is right by the gold"))
    return Choice((right[0],), len(right) / len(case.candidates) if len(case.candidates) > 1 else None)


def _rivals(case: Case, task: Task) -> list[Candidate]:
    """The first candidate of each different answer, in order: equal ones are not compared, and need not be paid for."""
    by_text = compares_texts(task, "auto")
    different: dict[str, Candidate] = {}
    for one in readable(case, task):
        different.setdefault(normalised(one.answer or "") if by_text else str(one.answer), one)
    return list(different.values())


def _shown(case: Case, one: Candidate, task: Task) -> str:
    """What the judge sees: the one text that would be learned where that is free text (of a chain of density its last pass),
    else all that the teacher said."""
    lessons = task.taught(case.example, one.reply.text)
    return lessons[0].text if is_free_text(task) and len(lessons) == 1 else one.reply.text
