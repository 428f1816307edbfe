"""train: the student on the teacher's text and signals, and the control on plain text with the same number of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..batches import Row
from ..errors import JobFailedError
from ..job import Job
from ..lessons import encode_lessons, gold_lessons, longest_row, make_quiz, read_examples, read_lessons
from ..objective import Signals
from ..plugins import load_plugin
from ..progress import Progress
from ..rendering import load_tokenizer
from ..runfolder import RunFolder
from ..student import context_of, copy_model
from ..teacher_signals import SignalShape, StoredSignals, capture, live_signals, open_store
from ..training import Training, train
from ..types import Lesson, Signal


def inputs(job: Job) -> Any:
    settings = job.train.model_dump(mode="json", exclude={"micro_batch_tokens", "checkpoint_every"})
    return [settings, job.student.identity(), job.evaluate.control, job.evaluate.control_on]


def run(job: Job, folder: RunFolder) -> None:
    student = job.student
    tokenizer = load_tokenizer(student.model, revision=student.revision, trust_remote_code=student.trust_remote_code)
    context = context_of(student.model, revision=student.revision, trust_remote_code=student.trust_remote_code)
    max_length = longest_row(student.max_length, context)
    lessons = list(read_lessons(folder.answers / "kept.jsonl"))
    encoded = encode_lessons(lessons, job.task, tokenizer, max_length)
    if not encoded.rows:
        raise JobFailedError(f"no answers are left to learn from; {folder.answers / 'rejected.jsonl'} says why")
    validation = list(read_examples(folder.data / "validation.jsonl"))
    validation_lessons = [*gold_lessons(validation), *read_lessons(folder.answers / "validation.jsonl")]
    held_out = encode_lessons(validation_lessons, job.task, tokenizer, max_length).rows
    folder.event("encoded", rows=len(encoded.rows), too_long=encoded.num_too_long, refused=encoded.num_refused,
                 max_length=max_length, target_tokens=sum(len(row.answer) for row in encoded.rows))  # fmt: skip
    quiz = make_quiz(job.task, validation, job.train.validation_rows)
    training = Training("student", student, job.train, job.train.losses, encoded.rows, held_out, folder, folder.model, score=quiz)
    train(replace(training, signals=_signals(job, folder, tokenizer, encoded.rows)))
    if job.evaluate.control:
        _train_control(job, training, lessons, tokenizer, max_length)


def _train_control(
    job: Job, training: Training, lessons: Sequence[Lesson], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    """The same student, the same number of steps, cross entropy on plain text: what distillation must beat."""
    folder = training.folder
    gold = [lesson for lesson in lessons if lesson.target_source == "gold"]
    on_gold = bool(gold) if job.evaluate.control_on == "auto" else job.evaluate.control_on == "gold"
    if on_gold and not gold:
        raise JobFailedError("evaluate.control_on is gold, and no train row has a gold answer; use auto or teacher")
    text = gold if on_gold else lessons
    rows = encode_lessons(text, job.task, tokenizer, max_length).rows
    folder.event("note", message=f"control: cross entropy on {len(rows):,} rows of {'gold' if on_gold else 'teacher'} text")
    only_text = all(loss.needs == Signal.TEXT for loss in job.train.losses)
    if only_text and len(text) == len(lessons):
        folder.event("note", message="control: the student learned plain text alone, so it is its own control")
        copy_model(folder.model, folder.control)
        return
    per_epoch = math.ceil(len(training.rows) / job.train.batch_size)
    num_steps = max(1, math.ceil(job.train.epochs * per_epoch))
    loss = load_plugin("losses", "cross_entropy")
    train(replace(training, role="control", losses=(loss,), rows=rows, out=folder.control, num_steps=num_steps))


def _signals(job: Job, folder: RunFolder, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> Signals | None:
    if all(loss.needs == Signal.TEXT for loss in job.train.losses):
        return None
    shape = SignalShape(job.train.top_k, job.train.temperature, job.train.micro_batch_tokens, job.train.precision)
    teachers = job.teachers_for(folder)
    if job.train.signals == "live":
        return live_signals(teachers, tokenizer, shape)
    store = open_store(teachers, tokenizer, folder.signals, shape)
    with Progress(folder, "capture", len(rows)) as bar:  # nothing to do, unless the signals were deleted since
        capture(teachers, tokenizer, rows, store, shape, bar)
    return StoredSignals(store)
