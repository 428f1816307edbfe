"""How rows are answered: who is asked, how often, and how one answer is made of several.

    answering.ask(examples, desk, use)                        # every teacher's share, outcomes in any order
    for case, choice in answering.choices(examples, desk): ...    # in the order of the rows, out of the journal

Generate and evaluate answer through here, so that a teacher is judged on test rows as it taught on train rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from ..contracts import Candidate, Case, Check, Choice, Combiner, Finding, Room, Task, Teacher
from ..data.rows import bare_meta
from ..journal import Journal, Payer
from ..types import Example, Reply, Request
from .asking import ask, replay
from .budget import Purse
from .feed import Asking, Inquiry, once
from .inquiry import Outcome, Persistence, Question, inquire

ROWS_AT_ONCE = 256

Examples = Callable[[], Iterable[Example]]
UseOutcome = Callable[[int, Outcome], None]


@dataclass(frozen=True)
class Desk:
    """Where a run's asking is written down: its journal, its money, its id there, and the replies that failed this time."""

    journal: Journal
    purse: Purse
    run: str
    failures: dict[int, dict[str, Reply]] = field(default_factory=dict)

    def ask(self, teacher: Teacher, requests: Sequence[Request], purpose: str = "judge") -> list[Reply]:
        """Each request's reply in order, such as a judge's, through the journal and within the budget."""
        failures: dict[str, Reply] = {}
        payer = Payer(self.run, purpose, teacher.label)
        ask([Asking(teacher, map(once, requests), lambda _: None, payer, failures=failures)], self.journal, self.purse)
        return [reply for _, reply in replay(teacher, map(once, requests), self.journal, failures)]


@dataclass(frozen=True)
class Answering:
    """The part of a job that decides answers. `every_turn` says for which rows each of the assistant's turns is asked.

    `blind`: what is made of several answers is made without a look at the gold. On test rows a combiner that keeps what the
    gold proves right would be an oracle, and the teachers would seem better than anyone who asks them will find them.
    """

    task: Task
    teachers: tuple[Teacher, ...]
    combiner: Combiner | None = None
    samples: int = 1
    checks: tuple[Check, ...] = ()
    persistence: Persistence = field(default_factory=Persistence)
    every_turn: bool = False
    blind: bool = False

    @property
    def is_single(self) -> bool:
        """Whether every row gets one answer, so that there is nothing to choose."""
        return len(self.teachers) == 1 and self.samples == 1

    def refuse(self, example: Example, reply: Reply) -> Finding | None:
        """Why one reply by itself cannot teach; checks that compare answers come later."""
        for check in self.checks:
            finding = check.refuse(example, reply, self.task)
            if finding is not None:
                return finding
        unusable = self.task.unusable(reply.text)
        return None if unusable is None else Finding(unusable, again=True)

    def inquiries(self, number: int, examples: Iterable[Example]) -> Iterator[Inquiry[Outcome]]:
        """What teacher `number` is asked, sample by sample, in the order of the rows."""
        teacher = self.teachers[number]
        for example in examples:
            if number in self._asked(example):
                for sample in range(self.samples):
                    question = Question(example, sample, self.task, teacher, self.persistence, self.refuse)
                    yield inquire(question, every_turn=self.every_turn)

    def num_asked(self, example: Example) -> int:
        """How many answers a row gets."""
        return len(self._asked(example)) * self.samples

    def ask(
        self, examples: Examples, desk: Desk, use: UseOutcome, purpose: str, may_start: Callable[[int], float] | None = None
    ) -> None:
        """Has every row answered by every teacher that is asked about it; `examples` is called once for each teacher."""

        def asking(number: int, teacher: Teacher) -> Asking[Outcome]:
            return Asking(
                teacher,
                self.inquiries(number, examples()),
                lambda outcome: use(number, outcome),
                Payer(desk.run, purpose, teacher.label),
                (lambda: may_start(number)) if may_start else lambda: float("inf"),
                failures=desk.failures.setdefault(number, {}),
            )

        ask([asking(number, teacher) for number, teacher in enumerate(self.teachers)], desk.journal, desk.purse)

    def choices(self, examples: Iterable[Example], desk: Desk, data: Path) -> Iterator[tuple[Case, Choice]]:
        """Each row with its answers and what is made of them; a row that nobody answered gets a choice of nothing."""
        room = self.room(desk, data)
        rows = iter(examples)
        while part := list(islice(rows, ROWS_AT_ONCE)):
            cases = self._cases(part, desk)
            if self.combiner is None or self.is_single:
                yield from ((case, Choice(case.candidates)) for case in cases)
            else:
                yield from zip(cases, self.combiner.choose(cases, room), strict=True)

    def room(self, desk: Desk, data: Path) -> Room:
        return Room(self.task, data, self.teachers, desk.ask)

    def _asked(self, example: Example) -> Sequence[int]:
        if self.combiner is None:
            return range(len(self.teachers))
        return self.combiner.asks(example, self.teachers, self.task)

    def _cases(self, examples: Sequence[Example], desk: Desk) -> list[Case]:
        found: list[list[Candidate]] = [[] for _ in examples]
        for number, teacher in enumerate(self.teachers):
            asked = [row for row, example in enumerate(examples) if number in self._asked(example) for _ in range(self.samples)]
            inquiries = self.inquiries(number, examples)
            outcomes = replay(teacher, inquiries, desk.journal, desk.failures.get(number))
            for row, outcome in zip(asked, outcomes, strict=True):
                found[row].append(self._candidate(number, outcome))
        shown = [replace(one, gold=None, meta=bare_meta(one.meta)) for one in examples] if self.blind else examples
        return [Case(example, tuple(candidates)) for example, candidates in zip(shown, found, strict=True)]

    def _candidate(self, number: int, outcome: Outcome) -> Candidate:
        """The outcome as combiners see it; an answer that a check refuses says nothing to them, so it never wins a vote."""
        reply = outcome.reply
        refused = reply.error is not None or (not self.is_single and self.refuse(outcome.example, reply) is not None)
        answer = None if refused else self.task.read(reply.text)
        return Candidate(number, outcome.sample, reply, answer, outcome.said)
