"""generate: the teacher's answers, by way of the journal.

Rows with gold keep it (unless the job says `generate.when_gold: teacher`); all others are asked, each answer once and for all.
Validation rows keep their gold always, so that validation sees the truth.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..asking import Asked, ask, recorded
from ..contracts import Teacher
from ..errors import JobFailedError, TeacherError
from ..job import Job
from ..journal import Journal
from ..progress import Progress
from ..runfolder import Json, RunFolder, read_rows, write_rows
from ..types import Example, Reply, Request, Sampling

FILES = {"train": "answers.jsonl", "validation": "validation_answers.jsonl"}
SECONDS_BETWEEN_NOTES = 2.0


def inputs(job: Job) -> Any:
    teacher = job.teacher
    sampling = [teacher.temperature, teacher.top_p, job.task.max_answer_tokens]
    task = job.task.model_dump(mode="json")
    return {"teacher": dict(teacher.identity()), "sampling": sampling, "task": task, "when_gold": job.generate.when_gold}


def run(job: Job, folder: RunFolder) -> None:
    teacher = job.teacher_for(folder)
    with Journal(job.journal_path) as journal:
        failures = _ask(job, folder, teacher, journal)
        for split, name in FILES.items():
            write_rows(
                folder.answers / name,
                _lines(job, folder, split, recorded(teacher, _asked(job, folder, split), journal), failures),
            )
    _enough_answers(job, folder.answers / FILES["train"])


def _examples(folder: RunFolder, split: str) -> Iterator[Example]:
    return (Example.from_dict(row) for row in read_rows(folder.data / f"{split}.jsonl"))


def _needs_teacher(job: Job, split: str, example: Example) -> bool:
    return example.gold is None or (split == "train" and job.generate.when_gold == "teacher")


def _asked(job: Job, folder: RunFolder, split: str) -> Iterator[Request]:
    """The split's requests, streamed in the order of its rows."""
    sampling = Sampling(job.task.max_answer_tokens, job.teacher.temperature, job.teacher.top_p)
    for example in _examples(folder, split):
        if _needs_teacher(job, split, example):
            yield Request(example.id, job.task.prompt(example), sampling)


def _ask(job: Job, folder: RunFolder, teacher: Teacher, journal: Journal) -> dict[Request, Reply]:
    """Has all rows of both splits answered; returns those that failed."""
    failures: dict[Request, Reply] = {}
    total = sum(1 for split in FILES for _ in _asked(job, folder, split))
    requests = (request for split in FILES for request in _asked(job, folder, split))
    ledger = _Ledger(folder, total)
    with Progress(folder, "generate", total) as bar:

        def seen(request: Request, reply: Reply) -> None:
            if reply.error is not None:
                failures[request] = reply
            bar.advance(1, note=f"{len(failures)} failed" if failures else "")
            ledger.note(bar.done)

        try:
            ask(teacher, requests, journal, seen, ledger.spent)
        except TeacherError as error:
            raise TeacherError(f"{error} ({bar.done:,} of {total:,} rows have been dealt with)") from None
        finally:
            ledger.note(bar.done, last=True)
    return failures


def _lines(
    job: Job, folder: RunFolder, split: str, answers: Iterator[tuple[Request, Reply | None]], failures: dict[Request, Reply]
) -> Iterator[Json]:
    """The split's answers in the order of its rows: gold as it is, the teacher's from the journal."""
    for example in _examples(folder, split):
        if _needs_teacher(job, split, example):
            request, reply = next(answers)
            reply = reply or failures.get(request) or Reply("", "error", attempts=0, error="pending: never asked")
            yield {"id": example.id, "sample": request.sample_index, "target_source": "teacher", **reply.as_dict()}
        elif split == "train":
            gold = Reply(example.gold or "", attempts=0)
            yield {"id": example.id, "sample": 0, "target_source": "gold", **gold.as_dict()}


def _enough_answers(job: Job, path: Path) -> None:
    """Stops before anything is trained, with generate left open, so that the next run asks for the missing ones."""
    count, errors = 0, Counter[str]()
    for row in read_rows(path):
        count += 1
        if row["error"] is not None:
            errors[row["error"]] += 1
    missing = errors.total()
    if count and (count - missing) / count < job.generate.min_kept_share:
        raise JobFailedError(
            f"{missing:,} of {count:,} train rows got no answer, most often: {errors.most_common(1)[0][0]}; at least "
            f"{job.generate.min_kept_share:.0%} must have one (generate.min_kept_share); {path} names them; "
            f"run again to ask for these only"
        )


class _Ledger:
    """What asking has cost, this time and in earlier starts of the same run, kept in state.json and events.jsonl."""

    def __init__(self, folder: RunFolder, total: int) -> None:
        self.folder = folder
        self.total = total
        self.spent = Asked()
        self.before: Json = folder.state().get("spend", {})
        self._noted = time.monotonic()

    def note(self, done: int, *, last: bool = False) -> None:
        if not last and time.monotonic() - self._noted < SECONDS_BETWEEN_NOTES:
            return
        self._noted = time.monotonic()
        self.folder.update_state(spend=self._sum())
        counts = {"done": done, "total": self.total, "failed": self.spent.failed, "from_journal": self.spent.from_journal}
        self.folder.event("progress", stage="generate", **counts)
        self.folder.event("spend", stage="generate", **self.spent.as_dict())

    def _sum(self) -> Json:
        names = ("asked", "failed", "prompt_tokens", "completion_tokens")
        spent = self.spent.as_dict()
        costs = (self.before.get("cost_usd", 0.0), self.spent.cost_usd)
        cost = None if None in costs else sum(costs)
        return {**{name: self.before.get(name, 0) + spent[name] for name in names}, "cost_usd": cost}
