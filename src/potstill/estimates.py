"""What a job will take before anything is paid: rows, tokens, cost, memory, disk and time, each with how it was found."""

from __future__ import annotations

import json
import math
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .bill import Asked, TeacherBill, bill, total
from .contracts import Task
from .crossing import crosses
from .data.readers import read_file
from .data.rows import ColumnNames, read_row
from .depth import Layers, depth_of, kept_layers, renamed
from .errors import DataError, ModelError
from .job import Job
from .labels import read_of
from .rendering import answer_ids, prompt_ids, read_ids
from .student import load_config
from .types import SPLITS, Example, Raw, Signal

SAMPLED_ROWS = 400
"""Rows of a split that are rendered and counted in tokens; the rest is extrapolated."""
TRAINING_BYTES = 16
"""fp32 weights, gradients and the two moments of AdamW."""
QLORA_BYTES = 1
"""Half a byte for a weight of a layer and 4 for one of the embeddings, which are a tenth or so of a model that needs this."""
CHECKPOINTS_KEPT = 2
MODEL_SHARE_OF_PEAK = 0.25
"""Small models reach about a quarter of a matrix product's speed in training (docs/log.md)."""
TOPK_BYTES = 4
"""A word and a 2-byte log-probability."""
DRAW_BYTES = 0.5
"""Of each draw: about 25 bytes for 50 of a large vocabulary (docs/log.md)."""


@dataclass
class SplitSurvey:
    """One split's files, read once: rows, refusals, and the tokens of a sample."""

    rows: int = 0
    gold: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first_rejection: str | None = None
    problems: list[str] = field(default_factory=list)
    sample: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Tokens:
    """Means of a sample in the student's tokens, and how many of its rows are longer than the student takes."""

    sampled: int
    prompt: float
    answer: float
    too_long: int
    unrendered: int


@dataclass(frozen=True)
class Estimate:
    """What the run will take; None is unknown, never zero. `how` says how the time was estimated."""

    teacher_requests: int
    prompt_tokens: int
    answer_tokens: int
    cost_usd: float | None
    most_usd: float | None
    teachers: list[TeacherBill]
    training_tokens: int
    memory_bytes: int | None
    disk_bytes: int | None
    seconds: float | None
    how: str


def survey(job: Job) -> dict[str, SplitSurvey]:
    """Reads every data file of the job once, streaming; a file that cannot be read is a problem of its split."""
    files = {split: getattr(job.data, split) for split in SPLITS}
    found = {split: _survey(job, names) for split, names in files.items()}
    if job.data.unlabelled:
        found["unlabelled"] = _survey(job, job.data.unlabelled, has_gold=False)
        found["unlabelled"].gold = 0
    return found


def _survey(job: Job, names: tuple[str, ...], *, has_gold: bool = True) -> SplitSurvey:
    columns = ColumnNames(**job.data.columns.model_dump()) if job.data.columns else None
    if columns is not None and not has_gold:
        columns = replace(columns, gold=None)
    found = SplitSurvey()
    for name in names:
        path = job.data_path(name)
        try:
            for raw in read_file(path):
                _count(found, raw, path, columns)
        except DataError as error:
            found.problems.append(str(error))
    return found


def _count(found: SplitSurvey, raw: Raw, path: Path, columns: ColumnNames | None) -> None:
    problem = raw.problem
    if raw.row is not None and problem is None:
        try:
            example = read_row(raw.row, f"{path.name}:{raw.line}", columns)
        except DataError as error:
            problem = str(error)
        else:
            found.rows += 1
            found.gold += example.gold is not None
            if len(found.sample) < SAMPLED_ROWS:
                found.sample.append(example)
    if problem is not None:
        found.rejected[problem.partition(":")[0]] += 1
        found.first_rejection = found.first_rejection or f"{path.name}:{raw.line}: {problem}"


def count_tokens(
    examples: list[Example], task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int, *, reads_only: bool = False
) -> Tokens:
    """Renders a sample as training will; where a row has no gold, half the longest answer stands in. Of a row for a student that
    reads only, its part alone must fit; prompt and answer are those of a teacher."""
    prompts: list[int] = []
    answers: list[int] = []
    too_long = unrendered = 0
    for example in examples:
        messages = task.prompt(example)
        try:
            prompts.append(len(read_ids(tokenizer, messages) if reads_only else prompt_ids(tokenizer, messages)))
        except ModelError:
            unrendered += 1
            continue
        known = example.gold is not None
        if reads_only:
            answers.append(len(tokenizer(example.gold or "")["input_ids"]) if known else task.max_answer_tokens // 2)
            too_long += len(read_ids(tokenizer, read_of(task, example))) > max_length
        else:
            answers.append(len(answer_ids(tokenizer, messages, example.gold or "")) if known else task.max_answer_tokens // 2)
            too_long += prompts[-1] + answers[-1] > max_length
    count = max(1, len(prompts))
    return Tokens(len(prompts), sum(prompts) / count, sum(answers) / count, too_long, unrendered)


def parameters_of(model: str, layers: Layers | None = None) -> int | None:
    """Parameters from the headers of a folder's safetensors files, of some of its layers only where they are given; None where
    there are none on this machine."""
    files = sorted(Path(model).glob("*.safetensors")) if Path(model).is_dir() else []
    shapes = {name: entry["shape"] for file in files for name, entry in _header(file).items() if name != "__metadata__"}
    counted = list(shapes)
    if layers is not None and shapes:
        depth = depth_of(load_config(model))
        counted = list(renamed(shapes, depth, kept_layers(layers, depth)))
    return sum(math.prod(shapes[name]) for name in counted) if shapes else None


def _header(file: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: its length in 8 bytes, little end first, stands before it."""
    with file.open("rb") as stream:
        try:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: dict[str, Any] = json.loads(stream.read(min(length, file.stat().st_size)))
            ends = (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            if file.stat().st_size < 8 + length + max(ends, default=0):
                raise ValueError("the tensors are cut")
        except (struct.error, ValueError):
            raise ModelError(f"{file} is no whole safetensors file; copy or download it again") from None
    return header


def training_rows(job: Job, found: dict[str, SplitSurvey]) -> int:
    """Train rows after the held-out shares and `max_train_rows`; duplicates and leakage are only known after prepare."""
    rows = found["train"].rows
    rows -= sum(int(rows * share) for share in _held_out_shares(job))
    rows += found["unlabelled"].rows if "unlabelled" in found else 0
    return min(rows, job.data.max_train_rows or rows)


def estimate(job: Job, found: dict[str, SplitSurvey], tokens: Tokens | None) -> Estimate:
    """Puts the survey, the sample's tokens and the models' sizes together."""
    rows = training_rows(job, found)
    prompt, answer = (tokens.prompt, tokens.answer) if tokens else (0.0, 0.0)
    size = parameters_of(job.student.model, job.student.layers)
    training_tokens = int(rows * (prompt + answer) * job.train.epochs)
    bills = bill(job, found["train"].sample, rows_asked(job, found), prompt, answer)
    runs = 2 if job.evaluate.control else 1
    seconds = _training_seconds(size, training_tokens * runs)
    return Estimate(
        teacher_requests=sum(one.requests for one in bills),
        prompt_tokens=sum(one.prompt_tokens for one in bills),
        answer_tokens=sum(one.answer_tokens for one in bills),
        cost_usd=total([one.cost_usd for one in bills]),
        most_usd=total([one.most_usd for one in bills]),
        teachers=bills,
        training_tokens=training_tokens,
        memory_bytes=_memory(job, size),
        disk_bytes=_disk(job, size, int(rows * answer)),
        seconds=seconds,
        how=f"training alone: 6 x {size or 0:,} parameters x {training_tokens:,} tokens"
        f"{' x 2 (student and control)' if runs == 2 else ''}, at a quarter of the speed of a matrix product measured now"
        f"{'; sampling the own answers of train.on_policy comes on top' if job.train.on_policy else ''}"
        if seconds is not None
        else "unknown: the student's weights are not on this machine",
    )


def rows_asked(job: Job, found: dict[str, SplitSurvey]) -> Asked:
    """The rows that teachers answer: train rows, the probe's where any row is asked, and test rows unless weights here do."""
    rows = training_rows(job, found)
    gold = min(found["train"].gold, job.data.max_gold_rows if job.data.max_gold_rows is not None else rows, rows)
    asks_all = job.generate.when_gold == "teacher" or getattr(job.task, "turns", "keep_gold") != "keep_gold"
    train = rows if asks_all else rows - gold
    to_measure_on = _gold_of(found, job, "validation") or gold
    probe = min(job.generate.probe_rows, to_measure_on) if train or job.data.invent.num_prompts else 0
    is_single = len(job.teachers) == 1 and job.generate.samples == 1
    test = 0 if is_single and job.teacher.local_model() else _rows_of(found, job, "test")
    return Asked(train, gold if asks_all else 0, probe, test)


def _gold_of(found: dict[str, SplitSurvey], job: Job, split: str) -> int:
    """The held-out rows of a split that have gold, as `_rows_of` counts rows."""
    gold = found[split].gold if found[split].rows else int(found["train"].gold * getattr(job.data, f"{split}_share"))
    return min(gold, _rows_of(found, job, split))


def _rows_of(found: dict[str, SplitSurvey], job: Job, split: str) -> int:
    """The held-out rows of a split: of its own files, or its share of train; at most what the job takes."""
    rows = found[split].rows or int(found["train"].rows * getattr(job.data, f"{split}_share"))
    return min(rows, getattr(job.data, f"max_{split}_rows") or rows)


def _held_out_shares(job: Job) -> Iterator[float]:
    if not job.data.validation:
        yield job.data.validation_share
    if not job.data.test:
        yield job.data.test_share


def _memory(job: Job, size: int | None) -> int | None:
    """Weights, gradients and optimizer of the student; beside them a teacher's that stays. Activations come on top."""
    if size is None:
        return None
    trained = size * {"full": TRAINING_BYTES, "qlora": QLORA_BYTES}.get(job.student.adaptation, 4)
    place = job.teacher.local_model()
    teacher = (parameters_of(place) or 0) * 4 if place else 0
    stays = job.train.signals == "live" or any(loss.needs == Signal.HIDDEN for loss in job.train.losses)
    return trained + teacher if stays else max(trained, teacher)


def _disk(job: Job, size: int | None, target_tokens: int) -> int | None:
    """Checkpoints with the optimizer, model, control, half-precision exports, and captured signals."""
    if size is None:
        return None
    models = size * (TRAINING_BYTES * CHECKPOINTS_KEPT + 4 * (2 if job.evaluate.control else 1) + 2 * len(job.exports))
    if job.labels or not job.train.on_cells() or job.train.signals == "live" or job.reads_replies:
        return models
    of_token = job.train.draws * DRAW_BYTES if job.samples_signals and not crosses(job) else job.train.top_k * TOPK_BYTES
    return models + round(target_tokens * of_token)


def _training_seconds(size: int | None, tokens: int) -> float | None:
    if size is None:
        return None
    return 6 * size * tokens / (_matrix_speed() * MODEL_SHARE_OF_PEAK)


def _matrix_speed() -> float:
    """Floating-point operations a second of a 512 x 512 matrix product on this machine, now."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    one = torch.randn(512, 512, device=device)
    best = math.inf
    for _ in range(12):
        start = time.perf_counter()
        float((one @ one)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * 512**3 / best


def size_text(num_bytes: int | None) -> str:
    """Bytes for people.

    >>> size_text(3 * 2**30), size_text(5 * 2**20), size_text(None)
    ('3.0 GiB', '5 MiB', 'unknown')
    """
    if num_bytes is None:
        return "unknown"
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{max(1, round(num_bytes / 2**20))} MiB"
