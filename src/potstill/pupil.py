"""A job's student before it is trained: how it takes rows, as texts to write or as labels to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from .batches import Encoded
from .classifier import longest_text
from .contracts import Task
from .depth import Source, cut
from .job import Job
from .label_scores import LabelTeachers
from .labels import LabelQuiz, LabelSignals, SoftLabels, encode_labels, read_of
from .lessons import encode_lessons, longest_row, make_quiz, with_gold
from .recipe import StudentSettings
from .rendering import load_tokenizer, prompt_ids, read_ids
from .runfolder import RunFolder, fingerprint, read_json, write_json
from .student import load_config
from .training import ScoreModel
from .types import Example, Lesson


@dataclass(frozen=True)
class Pupil:
    """The student's tokenizer and longest row; `labels` are empty for one that writes."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    labels: tuple[str, ...] = ()

    def encode(self, lessons: Iterable[Lesson]) -> Encoded:
        """Lessons as rows for training; raises JobFailedError when none fits."""
        if self.labels:
            return encode_labels(lessons, self.task, self.tokenizer, self.max_length).encoded
        return encode_lessons(lessons, self.task, self.tokenizer, self.max_length)

    def gold_rows(self, lessons: Iterable[Lesson]) -> frozenset[str]:
        """The digests of the rows whose answer is gold."""
        return frozenset(row.digest() for row in self.encode(one for one in lessons if one.target_source == "gold").rows)

    def asked(self, example: Example) -> list[int]:
        """Token ids of what it is asked; raises ModelError where its chat template refuses."""
        if self.labels:
            return read_ids(self.tokenizer, read_of(self.task, example))
        return prompt_ids(self.tokenizer, self.task.prompt(example))

    def quiz(self, validation: Iterable[Example], num_rows: int) -> ScoreModel | None:
        """The task's score on the first rows that have gold; None where none has."""
        if not self.labels:
            return make_quiz(self.task, validation, num_rows)
        examples = with_gold(validation, num_rows)
        return LabelQuiz(self.task, examples, self.max_length) if examples else None

    def label_signals(self, lessons: Iterable[Lesson], soft: SoftLabels) -> LabelSignals:
        """What teachers give to the labels of each lesson's row."""
        return LabelSignals(encode_labels(lessons, self.task, self.tokenizer, self.max_length, soft).told)


def pupil_of(job: Job) -> Pupil:
    """Loads the tokenizer and the configuration; raises ModelError."""
    loading: dict[str, Any] = {"revision": job.student.revision, "trust_remote_code": job.student.trust_remote_code}
    tokenizer = load_tokenizer(job.student.model, reads_only=bool(job.labels), **loading)
    config = load_config(job.student.model, **loading)
    if job.labels:
        context = longest_text(config, tokenizer)
    else:
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return Pupil(job.task, tokenizer, longest_row(job.student.max_length, context), job.labels)


def untouched(job: Job, folder: RunFolder) -> StudentSettings:
    """The student as its training starts: the model that the job names, or, cut into the run folder, some of its layers."""
    student = job.student
    if student.layers is None:
        return student
    mark = folder.untouched / "cut.json"
    identity = fingerprint(student.identity())
    if not mark.is_file() or read_json(mark) != identity:
        cut(Source(student.model, student.revision, student.trust_remote_code), student.layers, folder.untouched)
        write_json(mark, identity)
    return student.model_copy(update={"model": str(folder.untouched), "revision": None, "layers": None})


def label_teachers(job: Job, folder: RunFolder) -> LabelTeachers:
    """The job's teachers as scorers of labels."""
    teachers: Sequence[Any] = job.teachers_for(folder)
    return LabelTeachers(teachers, job.task, job.signals_path, job.train.micro_batch_tokens, job.train.precision)
