"""What the teachers will cost, before anything is asked: rows, tokens and dollars of each, and the most it can come to.

The most: every answer runs to its limit, and every answer is asked anew as often as the job allows. Answers that are in the
journal already cost nothing; they are not looked up here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .contracts import Task, Teacher
from .job import Job
from .types import Example, Message


@dataclass(frozen=True)
class TeacherBill:
    """One teacher's share; a cost of None is unknown, never zero."""

    label: str
    requests: int
    prompt_tokens: int
    answer_tokens: int
    cost_usd: float | None
    most_usd: float | None


def bill(job: Job, sample: Sequence[Example], asked: int, prompt: float, answer: float) -> list[TeacherBill]:
    """For `asked` rows whose prompts and answers have so many tokens on average, counted on `sample`."""
    task = job.task
    shares = _shares(job, sample)
    longer = _longer(task, sample)
    tries = 1 + job.generate.resamples + job.generate.longer
    asked += job.data.invent.num_prompts
    bills = [
        _bill(teacher, task, round(asked * share) * job.generate.samples, (prompt * longer, answer), tries)
        for teacher, share in zip(job.teachers, shares, strict=True)
    ]
    return [*bills, *_invention(job, prompt), *_judges(job, asked, prompt, answer)]


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


def _judges(job: Job, answers: int, prompt: float, answer: float) -> Iterator[TeacherBill]:
    """What checks ask of other models: they read the prompt, the answer and the gold, and say a word."""
    for check in job.validation.checks:
        for judge, requests in check.asks(answers):
            read, said = int(requests * (prompt + 2 * answer)), requests
            cost = judge.price().cost(read, said)
            yield TeacherBill(f"{judge.label}, {check.kind}", requests, read, said, cost, cost)


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
