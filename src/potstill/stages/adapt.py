"""adapt: trains the teacher on gold rows first, where the job asks for it, with the student's own training code."""

from __future__ import annotations

from typing import Any

from ..errors import DataError
from ..job import Job
from ..lessons import encode_lessons, gold_lessons, longest_row, make_quiz, read_examples
from ..plugins import load_plugin
from ..recipe import StudentSettings, TrainSettings
from ..rendering import load_tokenizer
from ..runfolder import RunFolder
from ..student import context_of
from ..training import Training, train


def inputs(job: Job) -> Any:
    adapt = job.teacher.adapt
    if adapt is None:
        return None
    return {"teacher": dict(job.teacher.identity()), "task": job.task.model_dump(mode="json"), **adapt.model_dump(mode="json")}


def run(job: Job, folder: RunFolder) -> None:
    adapt = job.teacher.adapt
    place = job.teacher.local_model()
    if adapt is None or place is None:
        return
    gold_file = folder.data / ("adapt.jsonl" if adapt.data else "train.jsonl")
    lessons = list(gold_lessons(read_examples(gold_file)))
    if not lessons:
        raise DataError(f"teacher.adapt needs rows with gold answers, and {gold_file} has none; name some in teacher.adapt.data")
    own = job.teacher.loading()
    tokenizer = load_tokenizer(place, **own)
    max_length = longest_row(None, context_of(place, **own))
    validation = list(read_examples(folder.data / "validation.jsonl"))
    rows = encode_lessons(lessons, job.task, tokenizer, max_length).rows
    held_out = encode_lessons(gold_lessons(validation), job.task, tokenizer, max_length).rows
    settings = TrainSettings(**adapt.model_dump(include={"epochs", "learning_rate", "batch_size"}), seed=job.train.seed)
    loss = load_plugin("losses", "cross_entropy")
    quiz = make_quiz(job.task, validation, settings.validation_rows)
    train(
        Training(
            "teacher", StudentSettings(model=place, **own), settings, (loss,), rows, held_out, folder, folder.teacher, score=quiz
        )
    )
