"""How a job's rows are answered, and whose money it is: what generate, invent, validate and evaluate share."""

from __future__ import annotations

from .answers.answering import Answering, Desk
from .answers.budget import Purse
from .answers.inquiry import Persistence
from .job import Job
from .journal import Journal, Spend
from .runfolder import RunFolder


def answering_of(job: Job, folder: RunFolder) -> Answering:
    """How this job has its rows answered."""
    persistence = Persistence(job.generate.longer, job.generate.resamples)
    every_turn = getattr(job.task, "turns", None) == "regenerate"
    teachers, checks = job.teachers_for(folder), job.validation.checks
    return Answering(job.task, teachers, job.combine, job.generate.samples, checks, persistence, every_turn)


def desk_of(job: Job, folder: RunFolder, journal: Journal) -> Desk:
    """The run's place in the journal, with the money that its earlier starts have left."""
    run = folder.run_id()
    return Desk(journal, Purse(job.budget, sum(journal.spent(run).values(), Spend())), run)


def note_spending(folder: RunFolder, desk: Desk) -> None:
    """What the run has spent by now, out of the journal, into state.json and events.jsonl."""
    spent = desk.journal.spent(desk.run)
    total = sum(spent.values(), Spend()).as_dict()
    if folder.state().get("spend") != total:
        folder.update_state(spend=total)
        parts = [{"purpose": payer.purpose, "teacher": payer.teacher, **one.as_dict()} for payer, one in sorted(spent.items())]
        folder.event("spend", **total, parts=parts)
