"""Lets another model judge the answers by a rubric, and refuses those that it finds wanting."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import Field
from typing_extensions import override

from ..answers.judging import (
    RUBRIC,
    VERDICT_TOKENS,
    JudgeModel,
    Scale,
    gradings,
    read_passed,
    read_score,
    refuse_own_family,
)
from ..contracts import Answered, Check, Finding, Room, Task, Teacher, Watch
from ..errors import JobError
from ..runfolder import read_rows
from ..statistics import mean_score
from ..text.overlap import accepted_answers, references
from ..types import Example, Reply, Request, Score

MANY = 20


class Judge(Check):
    """Refuses an answer that another model finds wanting by a rubric; asks in both orders, and is tested on gold first.

    Where a row has gold the judge sees it beside the answer, once before and once behind it; elsewhere the scale is named in
    both orders. An answer is judged only where both verdicts agree. The judge is first given gold answers, which are right, and
    gold answers of other rows, which are wrong: where it tells them apart less often than `min_calibration`, it is not used.
    """

    teacher: JudgeModel = Field(
        description="the judge: a model as `teacher:` takes it, of another family than the job's teachers"
    )
    rubric: str = Field(default=RUBRIC, min_length=1, description="what a good answer is; stands behind 'by this rule:'")
    scale: Scale = Field(default="pass", description="pass: pass or fail; score: 1 to 5, refused below min_score")
    min_score: float = Field(default=4.0, gt=1, le=5, description="least mean of both scores that may stay, for scale: score")
    reference: bool = Field(default=True, description="show the judge the row's gold, where there is any")
    refuse_undecided: bool = Field(default=False, description="also refuse where the two verdicts differ or cannot be read")
    min_calibration: float = Field(default=0.7, ge=0, le=1, description="least accuracy on the gold; a judge below is not used")
    calibration_rows: int = Field(default=50, ge=0, le=1000, description="rows with gold that test the judge; 4 questions each")
    max_tokens: int = Field(default=VERDICT_TOKENS, ge=1, description="longest verdict, in tokens; more for a reasoning model")
    force: bool = Field(default=False, description="let a model judge its own family, whose answers it prefers")

    @override
    def problems(self, teachers: Sequence[Teacher], task: Task) -> list[str]:
        found = [f"checks/judge: {problem}" for problem in self.teacher.problems()]
        try:
            self._refuse_own_family(teachers)
        except JobError as error:
            found.append(f"checks/judge: {error}")
        return found

    @override
    def asks(self, num_answers: int) -> Sequence[tuple[Teacher, int]]:
        """Both orders of each answer, and the trial on gold."""
        return ((self.teacher, 2 * num_answers + 4 * self.calibration_rows),)

    @override
    def watch(self, room: Room) -> Watch:
        self._refuse_own_family(room.teachers)
        return _Watch(self, room)

    def _refuse_own_family(self, teachers: Sequence[Teacher]) -> None:
        if not self.force:
            refuse_own_family(self.teacher, teachers)


class _Question(NamedTuple):
    """An answer to be judged, with the reference that is shown beside it."""

    example: Example
    text: str
    reference: str | None = None


class _Vote(NamedTuple):
    """What two verdicts say together; `passed` is None, with the reason, where they decide nothing."""

    passed: bool | None
    score: float | None = None
    why: str = ""


@dataclass
class _Trial:
    """How the judge did on gold: `used` says whether it may judge."""

    used: bool
    score: Score
    undecided: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {"used": self.used, "accuracy": self.score.as_dict(), "undecided": self.undecided}


class _Watch(Watch):
    """Asks the judge about each answer, once it has passed its trial."""

    check: Judge

    def __init__(self, check: Judge, room: Room) -> None:
        super().__init__(check, room)
        self.trials: dict[str, _Trial] = {}
        self.counts: Counter[str] = Counter()
        self.agrees: list[float] = []
        self.total_score = 0.0

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        asked = {
            place: self._question(one) for place, one in enumerate(answers) if one.reply is not None and one.source != "gold"
        }
        judged = {place: question for place, question in asked.items() if self._trial(question.reference is not None).used}
        self.counts["not_judged"] += len(asked) - len(judged)
        found: list[Finding | Answered | None] = [None] * len(answers)
        for (place, question), vote in zip(judged.items(), self._votes(list(judged.values())), strict=True):
            self._count(question, vote)
            found[place] = self._finding(vote)
        return found

    def _question(self, one: Answered) -> _Question:
        assert one.reply is not None
        return _Question(one.example, one.reply.text, one.example.gold if self.check.reference else None)

    def _votes(self, questions: Sequence[_Question]) -> list[_Vote]:
        check, requests = self.check, list[Request]()
        sampling = check.teacher.sampling(check.max_tokens)
        for one in questions:
            requests += gradings(one.example, one.text, sampling, check.scale, check.rubric, one.reference)
        replies = iter(self.room.ask(check.teacher, requests) if requests else ())
        return [self._vote(next(replies), next(replies)) for _ in questions]

    def _vote(self, first: Reply, second: Reply) -> _Vote:
        if self.check.scale == "pass":
            passed = {read_passed(first), read_passed(second)}
            score = None
        else:
            scores = [value for value in (read_score(first), read_score(second)) if value is not None]
            score = sum(scores) / 2
            passed = {value >= self.check.min_score for value in scores} if len(scores) == 2 else {None}
        if None in passed:
            return _Vote(None, why="unreadable")
        return _Vote(passed.pop(), score) if len(passed) == 1 else _Vote(None, score, "orders_differ")

    def _count(self, question: _Question, vote: _Vote) -> None:
        self.counts[vote.why or ("passed" if vote.passed else "failed")] += 1
        if vote.score is not None and not vote.why:
            self.total_score += vote.score
        right = self.room.task.right(question.text, question.example)
        if right is not None and vote.passed is not None:
            self.agrees.append(float(vote.passed == (right == 1.0)))

    def _finding(self, vote: _Vote) -> Finding | None:
        if vote.passed is None:
            return Finding("the judge does not decide") if self.check.refuse_undecided else None
        if vote.passed:
            return None
        return Finding(
            "the judge fails it" if self.check.scale == "pass" else f"the judge scores it below {self.check.min_score:g}"
        )

    def _trial(self, beside: bool) -> _Trial:
        """The judge's trial, with the gold beside the answer or without it, held when it is first needed."""
        name = "beside_gold" if beside else "alone"
        if name not in self.trials:
            self.trials[name] = self._held(beside)
        return self.trials[name]

    def _held(self, beside: bool) -> _Trial:
        cases = list(_cases(self.room, self.check.calibration_rows))
        if not cases:
            return _Trial(True, Score(None, None, None, 0, "no row has gold that the task can compare with"))
        votes = self._votes([_Question(row, text, row.gold if beside else None) for row, text, _ in cases])
        known = [float(vote.passed == right) for vote, (_, _, right) in zip(votes, cases, strict=True) if vote.passed is not None]
        score = mean_score(known)
        if score.value is None:
            score = Score(None, None, None, 0, f"none of its verdicts on {len(cases):,} answers could be used")
        return _Trial((score.value or 0.0) >= self.check.min_calibration, score, len(cases) - len(known))

    @override
    def report(self) -> dict[str, Any]:
        voted, undecided = self.counts["passed"] + self.counts["failed"], self.counts["unreadable"] + self.counts["orders_differ"]
        said: dict[str, Any] = {
            "judge": self.check.teacher.label,
            **{name: self.counts[name] for name in ("passed", "failed", "unreadable", "orders_differ", "not_judged")},
            "calibration": {name: trial.as_dict() for name, trial in self.trials.items()},
            "agreement_with_gold": mean_score(self.agrees).as_dict(),
        }
        if self.check.scale == "score" and voted:
            said["mean_score"] = self.total_score / voted
        alarms = [self._why_not_used(trial) for trial in self.trials.values() if not trial.used]
        if voted + undecided >= MANY and undecided > voted:
            alarms.append(
                f"the judge decides nothing about {undecided:,} of {voted + undecided:,} answers: {self.counts['unreadable']:,} "
                f"verdicts cannot be read, {self.counts['orders_differ']:,} change with the order"
            )
        return {**said, "alarm": "; ".join(alarms)} if alarms else said

    def _why_not_used(self, trial: _Trial) -> str:
        who, score = f"the judge {self.check.teacher.label} was not used", trial.score
        if score.value is None or score.low is None or score.high is None:
            return f"{who}: {score.why}"
        return (
            f"{who}: it is right about {score.value:.0%} ({score.low:.0%} to {score.high:.0%}) of {score.n:,} answers known to "
            f"be right or wrong, and min_calibration asks for {self.check.min_calibration:.0%}"
        )


def _cases(room: Room, number: int) -> Iterator[tuple[Example, str, bool]]:
    """Rows with an answer that is right by the task, and with another row's, which is wrong; chosen by hash."""
    rows = [Example.from_dict(row) for row in heapq.nsmallest(number, _gold_rows(room), key=_rank)] if number else []
    for place, row in enumerate(rows):
        task, others = room.task, [*rows[place + 1 :], *rows[:place]]
        told = [*accepted_answers(row), *references(row), str(row.gold)]
        right = next((text for text in told if text != row.gold and task.right(text, row) == 1.0), str(row.gold))
        wrong = next((str(other.gold) for other in others if task.right(str(other.gold), row) == 0.0), None)
        if wrong is not None and task.right(right, row) == 1.0:
            yield row, right, True
            yield row, wrong, False


def _gold_rows(room: Room) -> Iterator[dict[str, Any]]:
    for split in ("train", "validation"):
        path = room.data / f"{split}.jsonl"
        if path.is_file():
            yield from (row for row in read_rows(path) if row.get("gold"))


def _rank(row: dict[str, Any]) -> bytes:
    return hashlib.sha256(f"judge:{row['id']}".encode()).digest()
