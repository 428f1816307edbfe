"""train: the student on the teacher's text and signals, and the control on plain text with the same number of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..batches import Row
from ..crossing import aligned_signals, crosses, untold_note
from ..errors import JobError, JobFailedError
from ..heads import scores_labels
from ..job import Job
from ..labels import SoftLabels, gold_labels
from ..lessons import gold_lessons, read_examples, read_lessons
from ..objective import Signals
from ..plugins import load_plugin
from ..progress import Progress
from ..pupil import Pupil, label_teachers, pupil_of, untouched
from ..runfolder import RunFolder, fingerprint
from ..student import copy_model, load_model
from ..teacher_signals import LiveSignals, StoredSignals, capture, live_signals, open_store, shape_of, vocabulary_problem
from ..training import Training, train
from ..transfer import TeacherInsides
from ..types import Lesson, Signal


def inputs(job: Job) -> Any:
    settings = job.train.model_dump(mode="json", exclude={"micro_batch_tokens", "checkpoint_every"})
    return [settings, job.student.identity(), job.evaluate.control, job.evaluate.control_on]


def run(job: Job, folder: RunFolder) -> None:
    pupil = pupil_of(job)
    lessons = list(read_lessons(folder.answers / "kept.jsonl"))
    encoded = pupil.encode(lessons)
    if not encoded.rows:
        raise JobFailedError(f"no answers are left to learn from; {folder.answers / 'rejected.jsonl'} says why")
    validation = list(read_examples(folder.data / "validation.jsonl"))
    validation_lessons = [*gold_lessons(validation), *read_lessons(folder.answers / "validation.jsonl")]
    held_out = pupil.encode(validation_lessons).rows
    folder.event("encoded", rows=len(encoded.rows), too_long=encoded.num_too_long, refused=encoded.num_refused,
                 max_length=pupil.max_length, target_tokens=sum(len(row.answer) for row in encoded.rows))  # fmt: skip
    if encoded.num_refused:
        folder.event("note", message=f"{encoded.num_refused:,} rows are left out of training: {encoded.why_refused}")
    training = Training(
        role="student",
        student=untouched(job, folder),
        settings=job.train,
        losses=job.train.losses,
        rows=encoded.rows,
        validation=held_out,
        folder=folder,
        out=folder.model,
        score=pupil.quiz(validation, job.train.validation_rows),
        labels=job.labels,
    )
    train(_taught(job, training, pupil, lessons))
    if job.evaluate.control:
        _train_control(job, training, pupil, lessons)


def _train_control(job: Job, training: Training, pupil: Pupil, lessons: Sequence[Lesson]) -> None:
    """The same student, the same number of steps, cross entropy on plain text: what distillation must beat."""
    folder = training.folder
    gold = [lesson for lesson in lessons if lesson.target_source == "gold"]
    on_gold = bool(gold) if job.evaluate.control_on == "auto" else job.evaluate.control_on == "gold"
    if on_gold and not gold:
        raise JobFailedError("evaluate.control_on is gold, and no train row has a gold answer; use auto or teacher")
    text = gold if on_gold else lessons
    rows = pupil.encode(text).rows
    folder.event("note", message=f"control: cross entropy on {len(rows):,} rows of {'gold' if on_gold else 'teacher'} text")
    only_text = all(loss.needs == Signal.TEXT for loss in job.train.losses)
    if only_text and len(text) == len(lessons):
        folder.event("note", message="control: the student learned plain text alone, so it is its own control")
        copy_model(folder.model, folder.control)
        return
    per_epoch = math.ceil(len(training.rows) / job.train.batch_size)
    num_steps = max(1, math.ceil(job.train.epochs * per_epoch))
    loss = load_plugin("losses", "cross_entropy")
    settings = training.settings.model_copy(update={"on_policy": None})
    if settings.curriculum == "confidence":  # gold rows have no signals, and text alone shows no confidence
        settings = settings.model_copy(update={"curriculum": "none"})
    control = replace(training, role="control", losses=(loss,), rows=rows, out=folder.control, num_steps=num_steps)
    train(replace(control, settings=settings))


def _taught(job: Job, training: Training, pupil: Pupil, lessons: Sequence[Lesson]) -> Training:
    """The training with what its losses need of the teachers beside text."""
    folder = training.folder
    if all(loss.needs == Signal.TEXT for loss in job.train.losses):
        return training
    if crosses(job):
        aligned = aligned_signals(job, folder, pupil, lessons, training.rows)
        if (note := untold_note(job, aligned, len(training.rows))) is not None:
            folder.event("note", message=note)
        return _shown(job, replace(training, signals=aligned, told=aligned.digest()), pupil)
    if not job.labels:
        signals = _signals(job, folder, pupil, lessons, training.rows) if job.train.on_cells() else None
        return _shown(job, replace(training, signals=signals), pupil)
    teachers, scored = label_teachers(job, folder), {}
    if scores_labels(job.teachers):
        with Progress(folder, "capture", len(lessons)) as bar:  # nothing to do, unless the scores were deleted since
            teachers.capture([lesson.example for lesson in lessons], bar)
        scored = teachers.softened(job.train.temperature, job.train.mix_by, gold_labels(lessons, job.task))
    signals = pupil.label_signals(lessons, SoftLabels(job.task, job.train.temperature, scored))
    return replace(training, signals=signals, told=signals.digest())


def _shown(job: Job, training: Training, pupil: Pupil) -> Training:
    """The training with the teacher in memory, where losses compare layers with it; live signals are of the same model."""
    if all(loss.needs < Signal.HIDDEN for loss in job.train.losses):
        return training
    (teacher,) = job.teachers_for(training.folder)
    if (problem := vocabulary_problem(teacher, pupil.tokenizer)) is not None:
        raise JobError(problem)
    live = training.signals
    model = live.model if isinstance(live, LiveSignals) else load_model(str(teacher.local_model()), **teacher.loading())
    told = fingerprint(dict(teacher.identity()))
    return replace(training, insides=TeacherInsides(model, job.train.precision), told=told)


def _signals(job: Job, folder: RunFolder, pupil: Pupil, lessons: Sequence[Lesson], rows: Sequence[Row]) -> Signals:
    gold = pupil.gold_rows(lessons) if job.train.mix_by == "gold" else frozenset()
    shape, tokenizer = shape_of(job.train, sampled=job.samples_signals, gold=gold), pupil.tokenizer
    teachers = job.teachers_for(folder)
    if job.train.signals == "live":
        return live_signals(teachers, tokenizer, shape)
    store = open_store(teachers, tokenizer, job.signals_path, shape)
    with Progress(folder, "capture", len(rows)) as bar:  # nothing to do, unless the signals were deleted since
        capture(teachers, tokenizer, rows, store, shape, bar)
    return StoredSignals(store, shape.key)
