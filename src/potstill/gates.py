"""What must hold before a job's money is spent: a teacher's first answers may teach, and it is right often enough on gold.

gate = SmokeGate(job, answering)            # gate.may_start(number), gate.count(number, reason)
measured = probe(job, answering, desk, gold_rows(rows_of, job.generate.probe_rows))
refuse_weak(measured, job.generate.min_teacher_accuracy)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .answers.answering import Answering, Desk
from .answers.inquiry import Outcome
from .contracts import Check, Finding, Task
from .data.rows import bare_meta
from .errors import JobFailedError
from .job import Job
from .runfolder import Json
from .scoring import spread
from .statistics import mean_score
from .types import Example, Reply, Score

RowsOf = Callable[[str], Iterator[Example]]


class SmokeGate:
    """Lets each teacher's first rows through alone, and the rest once enough of them have passed."""

    def __init__(self, job: Job, answering: Answering, what: str = "") -> None:
        self.rows = job.generate.smoke_rows
        self.share = job.generate.min_kept_share
        self.teachers = answering.teachers
        self.what = what
        self.refused: dict[int, list[str | None]] = {number: [] for number in range(len(answering.teachers))}

    def may_start(self, number: int) -> float:
        return float("inf") if len(self.refused[number]) >= self.rows else self.rows

    def count(self, number: int, reason: str | None) -> None:
        """Raises JobFailedError when the first rows show that the rest would be money thrown away."""
        seen = self.refused[number]
        if len(seen) >= self.rows:
            return
        seen.append(reason)
        passed = seen.count(None)
        if len(seen) == self.rows and passed < self.share * self.rows:
            most, count = Counter(why for why in seen if why is not None).most_common(1)[0]
            raise JobFailedError(
                f"smoke gate: only {passed} of the first {self.rows} answers of {self.teachers[number].label}{self.what} may "
                f"teach, and generate.min_kept_share asks for {self.share:.0%}; most often: {most} ({count}); the rest was not "
                "asked: mend the cause and run again, or set generate.smoke_rows to 0"
            )


def why_useless(answering: Answering, outcome: Outcome) -> str | None:
    """Why an answer by itself cannot teach: none came, or a check refuses it."""
    if outcome.reply.error is not None:
        return f"no answer: {outcome.reply.error}"
    finding = answering.refuse(outcome.example, outcome.reply)
    return None if finding is None else finding.reason


@dataclass(frozen=True)
class Probed:
    """A teacher on rows with gold: its accuracy where it answered, and why it did not elsewhere."""

    score: Score
    errors: Counter[str]

    def as_dict(self) -> Json:
        return {**self.score.as_dict(), "failed": self.errors.total()}


def gold_rows(rows_of: RowsOf, most: int) -> list[Example]:
    """At most so many rows with gold, evenly out of validation, or of train where validation has none; streamed twice."""
    for split in ("validation", "train"):
        total = sum(example.gold is not None for example in rows_of(split))
        if total and most:
            wanted = set(spread(range(total), most))
            known = (example for example in rows_of(split) if example.gold is not None)
            return [example for number, example in enumerate(known) if number in wanted]
    return []


class _Blind(Check):
    """A check that is shown no gold: one that has wrong answers sampled anew would make a guesser always right."""

    check: Check

    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        return self.check.refuse(replace(example, gold=None, meta=bare_meta(example.meta)), reply, task)


def probe(job: Job, answering: Answering, desk: Desk, rows: Sequence[Example]) -> dict[str, Probed]:
    """Has the teachers answer rows whose gold is known; their first rows must pass as those of the rest must.

    Of several samples one a row is measured. Raises JobFailedError as SmokeGate does, and BudgetError.
    """
    checks = tuple(_Blind(check=check) for check in answering.checks)
    single = replace(answering, every_turn=False, checks=checks)
    gate = SmokeGate(job, answering, " to rows with gold")
    number_of = {example.id: number for number, example in enumerate(rows)}
    right: list[dict[int, float | None]] = [{} for _ in answering.teachers]
    errors: list[Counter[str]] = [Counter() for _ in answering.teachers]

    def use(teacher: int, outcome: Outcome) -> None:
        gate.count(teacher, why_useless(single, outcome))
        if outcome.sample > 0:
            return
        number, reply = number_of[outcome.example.id], outcome.reply
        if reply.error is not None:
            errors[teacher][reply.error] += 1
        else:
            right[teacher][number] = job.task.right(reply.text, rows[number])

    if rows:
        single.ask(lambda: rows, desk, use, "probe", gate.may_start)
    return {
        teacher.label: Probed(mean_score([right[place][number] for number in sorted(right[place])]), errors[place])
        for place, teacher in enumerate(answering.teachers)
    }


def refuse_weak(measured: Mapping[str, Probed], least: float | None) -> None:
    """Raises JobFailedError where a teacher's whole interval lies below `least`, or it could not be measured."""
    for label, one in measured.items():
        score = one.score
        if least is None:
            continue
        if score.n == 0 and one.errors:
            reason = one.errors.most_common(1)[0][0]
            raise JobFailedError(
                f"generate.min_teacher_accuracy is {least:.1%}, and none of {one.errors.total()} rows with gold was answered by "
                f"{label} (most often: {reason}); nothing more was asked: mend the cause and run again"
            )
        if score.n == 0:
            raise JobFailedError(
                f"generate.min_teacher_accuracy is {least:.1%}, and there is no row with gold to measure {label} on; give some "
                "train or validation rows gold and generate.probe_rows above 0, or leave min_teacher_accuracy out"
            )
        if score.high is not None and score.high < least:
            raise JobFailedError(
                f"the teacher {label} is right in {score.value:.1%} [{score.low:.1%}, {score.high:.1%}] of {score.n} rows with "
                f"gold that it answered, and generate.min_teacher_accuracy asks for {least:.1%}; nothing more was spent: choose "
                "a better teacher, a better system prompt, or lower generate.min_teacher_accuracy"
            )
