"""What teachers and judges will cost, before anything is asked: rows, tokens and dollars of each, and the most it can come to.

The most: every answer runs to its limit, and every answer is asked anew as often as the job allows. Answers that are in the
journal already cost nothing; they are not looked up here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .answers.budget import Budget
from .answers.judging import VERDICT_TOKENS
from .contracts import Task, Teacher
from .job import Job
from .page.numbers import dollars
from .types import Example, Message

QUESTION_TOKENS = 150
"""What a judge is told beside the material: the marks around it, the rubric and the form of the verdict."""
SAID_TOKENS = 50
"""Two sentences and a verdict."""


@dataclass(frozen=True)
class TeacherBill:
    """One teacher's share; a cost of None is unknown, never zero."""

    label: str
    requests: int
    prompt_tokens: int
    answer_tokens: int
    cost_usd: float | None
    most_usd: float | None


@dataclass(frozen=True)
class Asked:
    """How many rows teachers answer: train rows, of which `proved` have gold that decides between answers, and others."""

    train: int
    proved: int = 0
    probe: int = 0
    test: int = 0


class _Judging(NamedTuple):
    """Who judges, what for, with how many requests, and the longest verdict in tokens."""

    judge: Teacher
    purpose: str
    requests: int
    longest: int


class _Reading(NamedTuple):
    """What a judge reads for one verdict: a prompt and two answers of so many tokens, or of the most that there can be."""

    prompt: float
    answer: float
    longest: int


def bill(job: Job, sample: Sequence[Example], asked: Asked, prompt: float, answer: float) -> list[TeacherBill]:
    """For rows whose prompts and answers have so many tokens on average, counted on `sample`."""
    task = job.task
    shares = _shares(job, sample)
    longer = _longer(task, sample)
    tries = 1 + job.generate.resamples + job.generate.longer
    train = asked.train + job.data.invent.num_prompts
    rows = train + asked.probe + asked.test
    bills = [
        _bill(teacher, task, round(rows * share) * job.generate.samples, (prompt * longer, answer), tries)
        for teacher, share in zip(job.teachers, shares, strict=True)
    ]
    answers = max(1, round(sum(shares) * job.generate.samples))
    judges = [
        *_judges_of_choices(job, train - asked.proved + asked.test, answers),
        *(_judges_of_checks(job, train) if train else ()),
    ]
    reading = _Reading(prompt, answer, task.max_teacher_tokens)
    return [*bills, *_invention(job, prompt), *(_judge(judge, reading) for judge in judges if judge.requests)]


def models_asked(job: Job) -> list[Teacher]:
    """Everyone whom the job will pay, each once: its teachers, and the judges of its combiner and its checks."""
    answers = len(job.teachers) * job.generate.samples
    judges = [*_judges_of_choices(job, 1, answers), *_judges_of_checks(job, 1)]
    found = list(job.teachers)
    for judge in (one.judge for one in judges):
        if judge not in found:
            found.append(judge)
    return found


def unpriced_models(job: Job) -> list[str]:
    """Who of them has no known price, by name."""
    return [model.label for model in models_asked(job) if model.price().cost(1, 1) is None]


def budget_text(budget: Budget) -> str:
    """The caps for people.

    >>> budget_text(Budget(max_cost_usd=40, max_tokens=2000000, max_requests=9000))
    '$40.00, 2,000,000 tokens or 9,000 requests'
    """
    caps = [] if budget.max_cost_usd is None else [dollars(budget.max_cost_usd)]
    counts = (("tokens", budget.max_tokens), ("requests", budget.max_requests))
    caps += [f"{cap:,} {name}" for name, cap in counts if cap is not None]
    return " or ".join(part for part in (", ".join(caps[:-1]), caps[-1]) if part)


def _invention(job: Job, prompt: float) -> Iterator[TeacherBill]:
    """The requests for new prompts: each shows some examples and is answered with as long ones."""
    wish = job.data.invent
    if wish.num_prompts:
        least = math.ceil(wish.num_prompts / wish.prompts_per_request)
        shown, written = int(least * wish.seeds_per_request * prompt), int(wish.num_prompts * prompt)
        price, most = job.teacher.price(), wish.max_requests or 4 * least
        cost = price.cost(shown, written)
        worst = None if cost is None else cost * most / least
        yield TeacherBill(f"{job.teacher.label}, new prompts", least, shown, written, cost, worst)


def _judges_of_choices(job: Job, rows: int, answers: int) -> Iterator[_Judging]:
    """Who compares several answers to a row."""
    if job.combine is not None and answers > 1:
        for judge, requests in job.combine.consults(rows, answers):
            yield _Judging(judge, job.combine.kind, requests, VERDICT_TOKENS)


def _judges_of_checks(job: Job, answers: int) -> Iterator[_Judging]:
    """Who looks at single answers before they teach."""
    for check in (*job.data.checks, *job.validation.checks):
        for judge, requests in check.asks(answers):
            yield _Judging(judge, check.kind, requests, int(getattr(check, "max_tokens", VERDICT_TOKENS)))


def _judge(one: _Judging, reading: _Reading) -> TeacherBill:
    """A judge reads the prompt and two texts, and says what decides; with its limits, as long as each can be."""
    requests, price = one.requests, one.judge.price()
    read = int(requests * (QUESTION_TOKENS + reading.prompt + 2 * reading.answer))
    most_read = int(requests * (QUESTION_TOKENS + reading.prompt + 2 * max(reading.answer, reading.longest)))
    said = requests * min(SAID_TOKENS, one.longest)
    cost, most = price.cost(read, said), price.cost(most_read, requests * one.longest)
    return TeacherBill(f"{one.judge.label}, {one.purpose}", requests, read, said, cost, most)


def _bill(teacher: Teacher, task: Task, requests: int, tokens: tuple[float, float], tries: int) -> TeacherBill:
    more = task.max_teacher_tokens - task.max_answer_tokens
    prompts, answers = int(requests * tokens[0]), int(requests * (tokens[1] + more / 2))
    cost = teacher.price().cost(prompts, answers)
    most = teacher.price().cost(prompts * tries, requests * task.max_teacher_tokens * tries)
    return TeacherBill(teacher.label, requests, prompts, answers, cost, most)


def _shares(job: Job, sample: Sequence[Example]) -> list[float]:
    """The share of the rows that each teacher is asked about."""
    if job.combine is None or not sample:
        return [1.0] * len(job.teachers)
    asked = [set(job.combine.asks(example, job.teachers, job.task)) for example in sample]
    return [sum(number in one for one in asked) / len(sample) for number in range(len(job.teachers))]


def _longer(task: Task, sample: Sequence[Example]) -> float:
    """How many times longer a teacher's prompt is than the student's, where the task asks teachers for more."""
    usual = sum(_letters(task.prompt(example)) for example in sample)
    return sum(_letters(task.teacher_prompt(example)) for example in sample) / usual if usual else 1.0


def _letters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)


def total(costs: Sequence[float | None]) -> float | None:
    """
    >>> total([1.0, 2.0]), total([1.0, None])
    (3.0, None)
    """
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None
