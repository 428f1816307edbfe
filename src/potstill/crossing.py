"""A job whose teachers and student have different tokens: what the teachers say is laid beside the student's tokens by bytes.

The teachers' own tokenizer and chat template render prompt and answer, and what is kept of them is found by their rows, so that
it serves students of any tokenizer. Teachers behind an API say what came with their replies (`top_logprobs`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from .aligned_signals import AlignedSignals, Said, Voice
from .batches import Row, encode
from .contracts import LayerLoss
from .errors import JobError, JobFailedError, ModelError
from .job import Job
from .lessons import sample_of
from .progress import Progress
from .pupil import Pupil
from .rendering import load_tokenizer, vocabulary_difference
from .reply_logprobs import ReplyLogprobs
from .runfolder import RunFolder, read_rows
from .spelling import Spelled, Spelling
from .student import load_config
from .teacher_signals import capture, open_store, shape_of, vocabulary_problem
from .types import Lesson

UNLIMITED = 2**31


def crosses(job: Job) -> bool:
    """Whether the job's losses on log-probabilities lay two tokenizers beside each other. False where a tokenizer cannot be
    loaded, which is said elsewhere."""
    if job.labels or not job.train.on_cells():
        return False
    if job.reads_replies:
        return True
    place = job.teacher.local_model()
    if place is None:
        return False
    own = {"revision": job.student.revision, "trust_remote_code": job.student.trust_remote_code}
    sides = [(job.student.model, own), (place, dict(job.teacher.loading()))]
    return _differ(*((model, tuple(loading.items()), _stamp(model)) for model, loading in sides))


@functools.lru_cache(maxsize=32)
def _differ(*sides: tuple[str, tuple[tuple[str, Any], ...], int]) -> bool:
    try:
        one, other = (load_tokenizer(model, **dict(loading)) for model, loading, _ in sides)
    except ModelError:
        return False
    return vocabulary_difference(one, other) is not None


def _stamp(model: str) -> int:
    file = Path(model) / "tokenizer.json"
    return file.stat().st_mtime_ns if file.is_file() else 0


def crossing_problem(job: Job, tokenizers: Iterable[PreTrainedTokenizerBase] = ()) -> str | None:
    """What this job asks for that needs equal tokens, or which of the tokenizers does not say what its words spell."""
    if job.train.on_policy is not None:
        return (
            "train.on_policy has the teacher score the student's own tokens, and teacher and student have different ones; take a "
            "teacher that has the student's tokenizer, or leave train.on_policy out"
        )
    layers = [loss.kind for loss in job.train.losses if isinstance(loss, LayerLoss)]
    if layers:
        return (
            f"teacher and student have different tokens, and {', '.join(layers)} compares layers token by token; use losses on "
            "log-probabilities, such as forward_kl, or a teacher that has the student's tokenizer"
        )
    if job.train.signals in ("sampled", "live"):
        return (
            f"train.signals is {job.train.signals}, and teacher and student have different tokens, which are laid beside each "
            "other by bytes, with the teacher's likeliest words alone; set train.signals to top_k or auto"
        )
    if job.train.mix_by != "weight":
        return (
            f"train.mix_by is {job.train.mix_by}, and teachers whose tokens are not the student's are mixed by weight alone; "
            "leave it out"
        )
    try:
        if len(job.teachers) > 1 and not job.reads_replies:
            first = load_tokenizer(str(job.teacher.local_model()), **job.teacher.loading())
            if (problem := vocabulary_problem(job.teachers, first)) is not None:
                return problem
        for tokenizer in tokenizers:
            Spelling(tokenizer)
    except ModelError as error:
        return f"{error}; train on text alone, train.losses: [cross_entropy]"
    return None


def aligned_signals(job: Job, folder: RunFolder, pupil: Pupil, lessons: Sequence[Lesson], rows: Sequence[Row]) -> AlignedSignals:
    """What the teachers say of these rows, the student's; teachers on this machine are asked for what is not kept yet.

    Raises JobError where the job needs equal tokens, ModelError where a tokenizer does not say what its words spell, and
    JobFailedError where nothing can be compared at all.
    """
    if (problem := crossing_problem(job)) is not None:
        raise JobError(problem)
    student = Spelling(pupil.tokenizer)
    with Progress(folder, "capture", len(rows)) as bar:
        voice, said = (_from_replies if job.reads_replies else _from_weights)(job, folder, lessons, student, bar)
        bar.advance(len(rows) - bar.done)
    signals = AlignedSignals(voice, student, rows, said)
    if signals.num_untold == len(rows):
        raise JobFailedError(_nothing_said(job))
    return signals


def untold_note(job: Job, signals: AlignedSignals, num_rows: int) -> str | None:
    """What a person should know of rows without a target."""
    if not signals.num_untold:
        return None
    why = "have no log-probabilities of just their text" if job.reads_replies else "cannot be laid beside the teacher's tokens"
    return f"{signals.num_untold:,} of {num_rows:,} rows {why}: the student learns their text alone"


def _nothing_said(job: Job) -> str:
    if job.reads_replies:
        return (
            "no answer came with log-probabilities of just its text (the server may give none, or the task changes what is "
            "learned): train on text alone, train.losses: [cross_entropy]"
        )
    return (
        "no answer can be laid beside the teacher's tokens (a tokenizer changes every text, or the teacher's chat template "
        "refuses every prompt): train on text alone, train.losses: [cross_entropy]"
    )


def _from_replies(
    job: Job, folder: RunFolder, lessons: Sequence[Lesson], student: Spelling, bar: Progress
) -> tuple[Voice, dict[str, Said]]:
    """What came with the answers; replies that were read before a text was changed say nothing of it."""
    del student, bar
    told = {sample_of(lesson, job.task).name: lesson for lesson in lessons if lesson.told}
    source = ReplyLogprobs(read_rows(folder.answers / "answers.jsonl"), {lesson.told for lesson in told.values()})
    keys, said = source.keys, {}
    for name, lesson in told.items():
        parts = [keys[word] for word in source.tokens.get(lesson.told, ())]
        if parts and b"".join(parts) == lesson.target.encode(errors="replace"):
            ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
            tokens_T = np.array(source.tokens[lesson.told], dtype=np.int64)
            said[name] = Said(lesson.target, lesson.told, tokens_T, Spelled(ends, has_prefix=False))
    return Voice(source, keys), said


def _from_weights(
    job: Job, folder: RunFolder, lessons: Sequence[Lesson], student: Spelling, bar: Progress
) -> tuple[Voice, dict[str, Said]]:
    """What teachers on this machine say; what they have not said yet is captured."""
    teachers = job.teachers_for(folder)
    place, loading = str(teachers[0].local_model()), teachers[0].loading()
    tokenizer = load_tokenizer(place, **loading)
    spelling = Spelling(tokenizer)
    context = getattr(load_config(place, **loading).get_text_config(), "max_position_embeddings", None)
    samples = {sample.name: sample for lesson in lessons if (sample := sample_of(lesson, job.task)).weight > 0}
    asked = (one._replace(messages=one.asked or one.messages, weight=1.0, asked=None) for one in samples.values())
    rows, said = [], {}
    for row in encode(asked, tokenizer, context or UNLIMITED).rows:
        spelled = spelling.spelled(row.answer, samples[row.name].answer)
        if spelled is not None:
            rows.append(row)
            said[row.name] = Said(samples[row.name].answer, row.digest(), row.answer.astype(np.int64), spelled)
    top_k = min(job.train.top_k, len(student.keys) - 1, len(spelling.keys))  # at least one of the student's words is in the tail
    shape = replace(shape_of(job.train, sampled=False), top_k=top_k, targets=True)
    store = open_store(teachers, tokenizer, job.signals_path, shape)
    num_scored = capture(teachers, tokenizer, rows, store, shape, bar)
    if num_scored:
        folder.event("captured", rows=num_scored, tokens=store.num_tokens, bytes=store.num_bytes, folder=str(store.folder),
                     top_k=top_k, aligned=True)  # fmt: skip
    return Voice(store, spelling.keys, spelling.end, top_k), said
