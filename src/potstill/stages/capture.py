"""capture: the teacher's log-probabilities of the kept answers, once; then the teacher leaves the memory."""

from __future__ import annotations

from typing import Any

from ..job import Job
from ..lessons import encode_lessons, longest_row, read_lessons
from ..progress import Progress
from ..rendering import load_tokenizer
from ..runfolder import RunFolder
from ..student import context_of
from ..teacher_signals import SignalShape, capture, open_store
from ..types import Signal


def inputs(job: Job) -> Any:
    needs = [loss.kind for loss in job.train.losses if loss.needs > Signal.TEXT]
    if not needs or job.train.signals == "live":
        return None
    return [needs, job.train.top_k, job.train.temperature, job.train.precision, job.student.identity()]


def run(job: Job, folder: RunFolder) -> None:
    if inputs(job) is None:
        return
    student = job.student
    tokenizer = load_tokenizer(student.model, revision=student.revision, trust_remote_code=student.trust_remote_code)
    context = context_of(student.model, revision=student.revision, trust_remote_code=student.trust_remote_code)
    max_length = longest_row(student.max_length, context)
    rows = encode_lessons(read_lessons(folder.answers / "kept.jsonl"), job.task, tokenizer, max_length).rows
    shape = SignalShape(job.train.top_k, job.train.temperature, job.train.micro_batch_tokens, job.train.precision)
    teachers = job.teachers_for(folder)
    store = open_store(teachers, tokenizer, folder.signals, shape)
    with Progress(folder, "capture", len(rows)) as bar:
        captured = capture(teachers, tokenizer, rows, store, shape, bar)
    folder.event("captured", rows=captured, tokens=store.num_tokens, top_k=store.top_k)
