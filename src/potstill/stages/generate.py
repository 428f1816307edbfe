"""generate: the teachers' answers, by way of the journal.

    data/{train,invented,validation}.jsonl -> answers/probe.json, answers/{answers,validation_answers}.jsonl,
                                              answers/rejected.jsonl (grows while it runs; validate writes it anew)

Rows with gold keep it (unless the job says `generate.when_gold: teacher`, or the task's `turns` says so); all others are
asked, each answer once and for all. Validation rows keep their gold always, so that validation sees the truth. First the
teachers answer some rows with gold (the probe), then their first rows must pass (the smoke gate, as those of the probe must),
then the rest is asked.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..answers.answering import Answering, Desk
from ..answers.inquiry import Outcome
from ..answers.shares import label_shares
from ..contracts import Case, Choice
from ..desk import answering_of, desk_of, note_spending
from ..errors import JobFailedError, PotstillError
from ..gates import SmokeGate, gold_rows, probe, refuse_weak, why_useless
from ..job import Job
from ..journal import Journal
from ..progress import Progress
from ..runfolder import Json, RunFolder, read_rows, write_json, write_rows
from ..types import Example, Reply

FILES = {"train": "answers.jsonl", "validation": "validation_answers.jsonl"}
SOURCES = {"train": ("train.jsonl", "invented.jsonl"), "validation": ("validation.jsonl",)}
SECONDS_BETWEEN_NOTES = 2.0
PURPOSE = "generate"
CONTRIBUTED = ("asked", "accepted", "rejected", "chosen", "prompt_tokens", "completion_tokens", "cost_usd")


def inputs(job: Job) -> Any:
    sampling = [[dict(one.identity()), one.weight, str(one.sampling(job.task.max_teacher_tokens))] for one in job.teachers]
    names = {"when_gold", "samples", "longer", "resamples", "probe_rows", "min_teacher_accuracy"}
    return {
        "teachers": sampling,
        "combine": job.combine.model_dump(mode="json") if job.combine else None,
        "task": job.task.model_dump(mode="json"),
        "checks": [check.model_dump(mode="json") for check in job.validation.checks],
        **job.generate.model_dump(mode="json", include=names),
    }


def run(job: Job, folder: RunFolder) -> None:
    """Raises JobFailedError when too few rows are answered, and BudgetError when the budget is used up."""
    answering = answering_of(job, folder)
    with Journal(job.journal_path) as journal:
        desk = desk_of(job, folder, journal)
        try:
            _probe(job, folder, answering, desk)
            _ask(job, folder, answering, desk)
            shares = {split: Contributions(answering) for split in FILES}
            for split, name in FILES.items():
                write_rows(folder.answers / name, _lines(job, folder, split, desk, shares[split]))
            write_json(folder.answers / "contributions.json", shares["train"].as_dict())
        finally:
            note_spending(folder, desk)
    _enough_answers(job, folder.answers / FILES["train"])


def examples_of(folder: RunFolder, split: str) -> Iterator[Example]:
    """The split's rows; for train, those that were invented stand behind the user's own."""
    return (Example.from_dict(row) for name in SOURCES[split] for row in read_rows(folder.data / name))


def needs_teacher(job: Job, split: str, example: Example) -> bool:
    if example.gold is None:
        return True
    return split == "train" and (job.generate.when_gold == "teacher" or getattr(job.task, "turns", "keep_gold") != "keep_gold")


def _asked(job: Job, folder: RunFolder, split: str) -> Iterator[Example]:
    """The split's rows that a teacher answers, streamed in their order."""
    return (example for example in examples_of(folder, split) if needs_teacher(job, split, example))


def _probe(job: Job, folder: RunFolder, answering: Answering, desk: Desk) -> None:
    """Measures the teachers on rows with gold before their answers teach anyone; leaves answers/probe.json."""
    is_anyone_asked = any(True for _ in _both(job, folder))
    rows = gold_rows(lambda split: examples_of(folder, split), job.generate.probe_rows) if is_anyone_asked else []
    measured = probe(job, answering, desk, rows)
    scores = {label: one.as_dict() for label, one in measured.items()}
    write_json(folder.answers / "probe.json", scores)
    folder.event("probed", rows=len(rows), accuracy=scores)
    if is_anyone_asked:
        refuse_weak(measured, job.generate.min_teacher_accuracy)


def _ask(job: Job, folder: RunFolder, answering: Answering, desk: Desk) -> None:
    """Has all rows of both splits answered; answers/rejected.jsonl grows on the way."""
    total = sum(answering.num_asked(example) for split in FILES for example in _asked(job, folder, split))
    gate = SmokeGate(job, answering)
    folder.answers.mkdir(parents=True, exist_ok=True)
    failed, noted = 0, time.monotonic()
    with Progress(folder, "generate", total) as bar, (folder.answers / "rejected.jsonl").open("w", encoding="utf-8") as rejected:

        def use(number: int, outcome: Outcome) -> None:
            nonlocal failed, noted
            reason = why_useless(answering, outcome)
            if reason is not None:
                failed += 1
                _write_rejected(rejected, outcome, answering.teachers[number].label, reason)
            gate.count(number, reason)
            bar.advance(1, note=f"{failed} rejected" if failed else "")
            if time.monotonic() - noted > SECONDS_BETWEEN_NOTES:
                noted = time.monotonic()
                rejected.flush()
                folder.event("progress", stage=PURPOSE, done=bar.done, total=total, rejected=failed)
                note_spending(folder, desk)

        try:
            answering.ask(lambda: _both(job, folder), desk, use, PURPOSE, gate.may_start)
        except PotstillError as error:
            error.args = (f"{error} ({bar.done:,} of {total:,} answers have been dealt with)",)
            raise
        finally:
            folder.event("progress", stage=PURPOSE, done=bar.done, total=total, rejected=failed)


def _both(job: Job, folder: RunFolder) -> Iterator[Example]:
    return (example for split in FILES for example in _asked(job, folder, split))


def _write_rejected(file: IO[str], outcome: Outcome, teacher: str, reason: str) -> None:
    reply = outcome.reply
    row = {"id": outcome.example.id, "reason": reason, "attempts": reply.attempts, "cost_usd": reply.cost_usd, "text": reply.text}
    file.write(json.dumps({**row, "teacher": teacher, "sample": outcome.sample}) + "\n")


class Contributions:
    """What each teacher gave to a split: answers asked, those that could teach by themselves, those chosen, and their price."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.counts: list[Json] = [dict.fromkeys(CONTRIBUTED, 0) for _ in answering.teachers]

    def count(self, case: Case, choice: Choice) -> None:
        for candidate in case.candidates:
            reply, counts = candidate.reply, self.counts[candidate.teacher]
            usable = reply.error is None and self.answering.refuse(case.example, reply) is None
            counts["asked"] += 1
            counts["accepted" if usable else "rejected"] += 1
            counts["chosen"] += usable and candidate in choice.chosen
            counts["prompt_tokens"] += reply.prompt_tokens or 0
            counts["completion_tokens"] += reply.completion_tokens or 0
            known = counts["cost_usd"] is not None and reply.cost_usd is not None
            counts["cost_usd"] = counts["cost_usd"] + reply.cost_usd if known else None

    def as_dict(self) -> Json:
        return {teacher.label: counts for teacher, counts in zip(self.answering.teachers, self.counts, strict=True)}


def _lines(job: Job, folder: RunFolder, split: str, desk: Desk, shares: Contributions) -> Iterator[Json]:
    """The split's answers in the order of its rows: gold as it is, the teachers' out of the journal."""
    answering = shares.answering
    chosen = answering.choices(_asked(job, folder, split), desk, folder.data)
    for example in examples_of(folder, split):
        if needs_teacher(job, split, example):
            case, choice = next(chosen)
            shares.count(case, choice)
            yield from answer_rows(case, choice, answering)
        elif split == "train":
            gold = Reply(example.gold or "", attempts=0, cost_usd=0.0)
            yield {"id": example.id, "sample": 0, "target_source": "gold", **gold.as_dict()}


def answer_rows(case: Case, choice: Choice, answering: Answering) -> Iterator[Json]:
    """A row's chosen answers; where none was chosen, its first answer with the reason. The first row holds all the costs.

    Each holds what all of them give to each label together, where the task has a closed set and there is more than one text.
    """
    kept = choice.chosen or case.candidates[:1]
    counted = case.candidates if answering.combiner is None or answering.combiner.answers_vote else choice.chosen
    shares = label_shares(counted, answering.task.labels_asked(), [teacher.weight for teacher in answering.teachers])
    replies = [candidate.reply for candidate in case.candidates]
    for number, candidate in enumerate(kept):
        row: Json = {"id": case.example.id, "sample": candidate.sample, "target_source": "teacher"}
        row |= candidate.reply.as_dict()
        if not answering.is_single:
            row["teacher"] = answering.teachers[candidate.teacher].label
            row["attempts"] = sum(reply.attempts for reply in replies) if number == 0 else 0
            costs = [reply.cost_usd for reply in replies] if number == 0 else [0.0]
            row["cost_usd"] = None if None in costs else sum(cost for cost in costs if cost is not None)
            for name in ("prompt_tokens", "completion_tokens"):
                row[name] = sum(getattr(reply, name) or 0 for reply in replies) if number == 0 else 0
        if shares is not None:
            row["label_probabilities"] = shares
        if choice.agreement is not None:
            row["agreement"] = choice.agreement
        if choice.weights:
            row["weight"] = choice.weights[number]
        if candidate.said:
            row["said"] = list(candidate.said)
        if choice.finding is not None:
            row["refused"] = choice.finding.reason
        yield row


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
