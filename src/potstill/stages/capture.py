"""capture: the teacher's log-probabilities of the kept answers, once; then the teacher leaves the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..crossing import aligned_signals, crosses
from ..heads import scores_labels
from ..job import Job
from ..lessons import read_lessons
from ..progress import Progress
from ..pupil import label_teachers, pupil_of
from ..runfolder import RunFolder
from ..teacher_signals import capture, open_store, shape_of
from ..types import Example


def inputs(job: Job) -> Any:
    needs = [loss.kind for loss in job.train.on_cells()]
    if not needs or job.train.signals == "live":
        return None
    if job.labels:
        return ["labels", job.train.precision] if scores_labels(job.teachers) else None
    if crosses(job):
        kept: list[Any] = ["aligned", "replies" if job.reads_replies else job.train.top_k]
    else:
        kept = ["sampled", job.train.draws] if job.samples_signals else ["top_k", job.train.top_k]
    mixed = [] if job.train.mix_by == "weight" else [job.train.mix_by]
    return [needs, *kept, *mixed, job.train.temperature, job.train.precision, job.student.identity()]


def run(job: Job, folder: RunFolder) -> None:
    if inputs(job) is None:
        return
    lessons = list(read_lessons(folder.answers / "kept.jsonl"))
    if job.labels:
        _score_labels(job, folder, [lesson.example for lesson in lessons])
        return
    pupil = pupil_of(job)
    if crosses(job):
        aligned_signals(job, folder, pupil, lessons, pupil.encode(lessons).rows)
        return
    tokenizer, rows = pupil.tokenizer, pupil.encode(lessons).rows
    gold = pupil.gold_rows(lessons) if job.train.mix_by == "gold" else frozenset()
    shape = shape_of(job.train, sampled=job.samples_signals, gold=gold)
    teachers = job.teachers_for(folder)
    store = open_store(teachers, tokenizer, job.signals_path, shape)
    with Progress(folder, "capture", len(rows)) as bar:
        captured = capture(teachers, tokenizer, rows, store, shape, bar)
    kept = {"draws": shape.draws} if shape.draws else {"top_k": shape.top_k}
    folder.event("captured", rows=captured, tokens=store.num_tokens, bytes=store.num_bytes, folder=str(store.folder), **kept)


def _score_labels(job: Job, folder: RunFolder, examples: Sequence[Example]) -> None:
    """For a student with a head of labels: how likely the teachers find each label of each row."""
    teachers = label_teachers(job, folder)
    with Progress(folder, "capture", len(examples) * len(job.teachers)) as bar:
        captured = teachers.capture(examples, bar)
    likeliest = {f"likeliest_at_{t:g}": teachers.likeliest(examples, t) for t in (1.0, job.train.temperature)}
    folder.event("captured", rows=captured.scored, refused=captured.refused, labels=len(job.labels), **likeliest)
    if captured.refused:
        folder.event("note", message=f"{captured.refused:,} prompts are too long for the teacher, or its chat template refuses "
                     "them: their labels are not scored, and the student learns their text alone")  # fmt: skip
