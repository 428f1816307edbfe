"""Stage evaluate: teacher, baseline, control and student answer the same held-out rows, and are measured.

    data/test.jsonl, model/, control/ -> evaluation/<system>.jsonl (one line a row), evaluation/<system>.json (measured),
                                         evaluation/scores.json

All are asked greedily, with prompts rendered as in training. Local models answer here in batches and are then measured
in processes of their own; a teacher behind an API is asked by way of the journal. A system that is done is not run again.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..answers.answering import Answering, Desk
from ..catalog import catalog
from ..classes import class_scores
from ..classifier import has_head_for
from ..contracts import Case, Choice, Task, Teacher
from ..desk import answering_of, desk_of, note_spending
from ..errors import JobFailedError, ModelError, PotstillError
from ..generation import generate
from ..job import Job
from ..journal import Journal, Spend
from ..label_answers import Classifier
from ..measure import MeasureSpec, busy_notes, measure
from ..page.verdict import verdict
from ..progress import Progress
from ..pupil import untouched
from ..rendering import load_tokenizer, prompt_ids
from ..runfolder import RunFolder, file_digest, fingerprint, folder_digest, read_json, read_rows, write_json, write_rows
from ..scoring import Answer, Resampling, accuracy, comparisons, cut_off, judge, metrics, spread
from ..slices import groups_of, slice_scores
from ..statistics import quantile_score
from ..student import load_model
from ..types import Example, Message, Reply, Sampling

Json = dict[str, Any]
VERSION = 5
PURPOSE = "evaluate"
SYSTEMS = ("teacher", "baseline", "control", "student")
NUMBERS = ("parameters", "tokens_per_s", "throughput_per_s", "memory_bytes", "size_bytes", "device", "dtype", "busy")
UNMEASURED: Json = {"latency_s": [], **dict.fromkeys(NUMBERS)}


@dataclass(frozen=True, slots=True)
class System:
    """One of those that are compared: weights on this machine, or teachers that are asked."""

    name: str
    label: str
    model: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    answering: Answering | None = None
    labels: tuple[str, ...] = ()
    """What a student with a head of labels chooses from; an untouched one gets a head drawn from `seed`."""
    seed: int = 0

    def identity(self) -> Any:
        if self.answering is not None:
            teachers = [[dict(one.identity()), one.weight, str(one.sampling(1))] for one in self.answering.teachers]
            combiner = self.answering.combiner
            return [teachers, combiner.model_dump(mode="json") if combiner else None, self.answering.samples]
        assert self.model is not None
        weights = [folder_digest(Path(self.model)) if Path(self.model).is_dir() else self.model, self.revision]
        return [*weights, self.labels, self.seed] if self.labels else weights

    def prompt(self, task: Task, example: Example) -> tuple[Message, ...]:
        """A teacher gets what it gets when it teaches; all others get what the student is trained on."""
        return task.teacher_prompt(example) if self.name == "teacher" else task.prompt(example)

    @property
    def classifier(self) -> Classifier:
        assert self.model is not None
        return Classifier(self.model, self.labels, self.revision, self.trust_remote_code, self.seed)

    def max_tokens(self, task: Task) -> int:
        return task.max_teacher_tokens if self.name == "teacher" else task.max_student_tokens


def inputs(job: Job) -> Any:
    """What of the job decides the scores; data, student and control come in by the stages before."""
    parts = [job.task, job.evaluate, job.teacher]
    student = [job.student.model, job.student.layers] if job.student.layers else [job.student.model]
    return [VERSION, *student, *(part.model_dump(mode="json") for part in parts)]


def run(job: Job, folder: RunFolder) -> None:
    """Answers, measures and scores every system; raises JobFailedError when there is no row to test on."""
    examples = [Example.from_dict(row) for row in read_rows(folder.data / "test.jsonl")]
    if not examples:
        raise JobFailedError("there is no test row, so nothing can be proved; name a test file in data.test, or give more rows")
    chosen = systems(job, folder)
    for system in chosen:
        answer_and_measure(job, folder, system, examples)
    scores = scores_of(job, folder, chosen, examples)
    write_json(folder.evaluation / "scores.json", scores)
    for name, system_scores in scores["systems"].items():
        folder.event("evaluated", system=name, accuracy=system_scores["accuracy"])
    folder.event("note", message=scores["verdict"])


def systems(job: Job, folder: RunFolder) -> list[System]:
    """Teacher, baseline, control and student, as far as the job wants them and the run folder has them."""
    teacher = job.teacher_for(folder)
    place = teacher.local_model()
    trust = job.student.trust_remote_code
    answering = _asked_as_it_teaches(job, folder)
    if place is None or not answering.is_single:
        label = " + ".join(_short(getattr(one, "model", one.kind)) for one in job.teachers)
        found = [System("teacher", label, answering=answering)]
    else:
        own_code = getattr(teacher, "trust_remote_code", False)
        label = _short(getattr(job.teacher, "model", job.teacher.kind))
        found = [System("teacher", label, place, getattr(teacher, "revision", None), own_code)]
    student = job.student.model.rstrip("/").rpartition("/")[2]
    head: Json = {"labels": job.labels, "seed": job.train.seed}
    if job.evaluate.baseline:
        start = untouched(job, folder)
        found.append(System("baseline", student, start.model, start.revision, trust, **head))
    if job.evaluate.control and (folder.control / "config.json").is_file():
        found.append(System("control", student, str(folder.control), None, trust, **head))
    return [*found, System("student", student, str(folder.model), None, trust, **head)]


def _short(model: Any) -> str:
    return str(model).rstrip("/").rpartition("/")[2]


def _asked_as_it_teaches(job: Job, folder: RunFolder) -> Answering:
    """The job's answering on test rows: one answer to the row's last turn, and no second try at a useless one."""
    usual = answering_of(job, folder)
    teachers = usual.teachers
    if usual.is_single:
        teachers = (teachers[0].model_copy(update={"temperature": 0.0}),)
    persistence = replace(usual.persistence, resamples=0)
    return replace(usual, teachers=teachers, checks=(), persistence=persistence, every_turn=False, blind=True)


def scores_of(job: Job, folder: RunFolder, chosen: Sequence[System], examples: Sequence[Example]) -> Json:
    """evaluation/scores.json: systems, comparisons, verdict."""
    how = Resampling(job.evaluate.bootstrap_samples, job.evaluate.seed)
    answers = {system.name: read_answers(folder, system.name) for system in chosen}
    found: Json = {}
    for system in chosen:
        record = read_json(_record(folder, system.name))
        rows = answers[system.name]
        measured = {**UNMEASURED, **record["measured"]}
        latency = measured.pop("latency_s")
        p50, p95 = (quantile_score(latency, share, how.samples, how.seed).as_dict() for share in (0.5, 0.95))
        found[system.name] = {
            "label": system.label,
            "accuracy": accuracy(rows, how).as_dict(),
            "metrics": metrics(job.task, examples, rows, how),
            "classes": class_scores(job.task, examples, rows),
            "latency_p50_s": p50["value"],
            "latency_p95_s": p95["value"],
            "latency": {"p50": p50, "p95": p95},
            **measured,
            "notes": [*record["notes"], *cut_off(rows), *_origin(job, folder, system.name)],
            "spent": record.get("spent"),
        }
    compared = comparisons(answers, how)
    marks = {system.name: read_json(_record(folder, system.name))["fingerprint"] for system in chosen}
    if "control" in marks and marks["control"] == marks.get("student"):
        compared["control_is_student"] = True
    slices = slice_scores(groups_of(examples), answers, how)
    told = verdict(found, compared)
    return {"systems": found, "comparisons": compared, "verdict": told, "slices": slices, "rows": len(examples)}


def _origin(job: Job, folder: RunFolder, system: str) -> list[str]:
    """Notes on what was trained here: an adapted teacher, and the control, as the train stage said last."""
    if system == "teacher" and job.teacher.adapt is not None and folder.teacher.is_dir():
        return ["trained on gold rows before it taught (teacher.adapt)"]
    if system == "baseline" and job.labels and not has_head_for(job.student.model, job.labels, job.student.revision):
        return [f"untouched, its head of {len(job.labels)} labels drawn at random (seed {job.train.seed}): it can only guess"]
    if system == "baseline" and job.student.layers:
        return [f"the start of the training: some layers of {job.student.model} (student.layers), untrained without the others"]
    if system != "control":
        return []
    events = read_rows(folder.path / "events.jsonl")
    told = [str(e["message"]) for e in events if e["event"] == "note" and str(e["message"]).startswith("control: cross entropy")]
    return [told[-1].removeprefix("control: ")] if told else []


def answer_and_measure(job: Job, folder: RunFolder, system: System, examples: Sequence[Example]) -> None:
    """Leaves <system>.jsonl and <system>.json; each half is skipped when it is there for the same model, rows and task."""
    name = system.name
    task = job.task.model_dump(mode="json")
    mark = fingerprint(VERSION, system.identity(), task, file_digest(folder.data / "test.jsonl"), job.evaluate.latency_rows)
    record = read_json(_record(folder, name)) if _record(folder, name).is_file() else {}
    if record.get("fingerprint") == mark and "measured" in record and _answers_file(folder, name).is_file():
        return
    twin = next((other for other in SYSTEMS if other != name and _has(folder, other, mark)), None)
    if twin is not None:  # the same weights: a student that learned plain text alone is its own control
        shutil.copyfile(_answers_file(folder, twin), _answers_file(folder, name))
        write_json(_record(folder, name), read_json(_record(folder, twin)))
        return
    if record.get("fingerprint") != mark or not _answers_file(folder, name).is_file():
        with Progress(folder, f"evaluate {name}", len(examples)) as bar:
            if system.answering is not None:
                record = _ask(job, folder, system, examples, bar)
            else:
                found = _generate(job.task, system, examples, bar)
                write_rows(_answers_file(folder, name), (answer.as_dict() for answer in found.answers))
                record = {"throughput_per_s": found.rows_per_s}
        record = {"fingerprint": mark, **record}
        write_json(_record(folder, name), record)
    if "measured" not in record:
        answered = {answer.id for answer in read_answers(folder, name) if answer.error is None}
        usable = [example for example in examples if example.id in answered]
        measured = _measure(job, system, usable)
        measured["measured"]["throughput_per_s"] = record.pop("throughput_per_s")
        write_json(_record(folder, name), {**record, **measured})


def _has(folder: RunFolder, system: str, mark: str) -> bool:
    """Whether another system with the same weights, rows and task is answered and measured."""
    if not _record(folder, system).is_file() or not _answers_file(folder, system).is_file():
        return False
    record = read_json(_record(folder, system))
    return record.get("fingerprint") == mark and "measured" in record


class _Generated(NamedTuple):
    """All rows' answers in their order, and how many rows a second came in batches."""

    answers: list[Answer]
    rows_per_s: float | None


def _generate(task: Task, system: System, examples: Sequence[Example], bar: Progress) -> _Generated:
    """Every row's answer by a local model; a row that cannot be rendered or is too long is a failure."""
    assert system.model is not None
    if system.labels:
        return _Generated(*system.classifier.answers(task, examples, bar.advance))
    tokenizer = load_tokenizer(system.model, revision=system.revision, trust_remote_code=system.trust_remote_code)
    model = load_model(system.model, revision=system.revision, trust_remote_code=system.trust_remote_code)
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    answers: dict[str, Answer] = {}
    asked: list[Example] = []
    prompts: list[list[int]] = []
    for example in examples:
        try:
            prompt = prompt_ids(tokenizer, system.prompt(task, example))
            if longest is not None and len(prompt) >= longest:
                raise ModelError(f"the prompt has {len(prompt):,} tokens and the model takes {longest:,}")
        except ModelError as error:
            bar.advance(1)
            answers[example.id] = judge(task, example, "", "error", str(error))
            continue
        asked.append(example)
        prompts.append(prompt)
    start = time.perf_counter()
    for done, row in enumerate(generate(model, tokenizer, prompts, Sampling(max_tokens=system.max_tokens(task))), 1):
        bar.advance(1, note=f"{done / (time.perf_counter() - start):.1f} rows/s")
        answers[asked[row.index].id] = judge(task, asked[row.index], row.text, row.finish_reason)
    seconds = time.perf_counter() - start
    del model  # the next system, and the measuring process, need the memory
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return _Generated([answers[example.id] for example in examples], len(asked) / seconds if asked else None)


def _ask(job: Job, folder: RunFolder, system: System, examples: Sequence[Example], bar: Progress) -> Json:
    """Asks teachers, as they are asked for train rows, greedily where there is one answer a row.

    Latency is that of a single teacher's replies; size and parameters are the catalog's.
    """
    assert system.answering is not None
    answering = system.answering
    with Journal(job.journal_path) as journal:
        desk = desk_of(job, folder, journal)
        before = _spent(desk)
        start = time.perf_counter()
        try:
            answering.ask(lambda: examples, desk, lambda _, __: bar.advance(1), PURPOSE)
            seconds = time.perf_counter() - start
            spent = _spent(desk)
            got = [_answer_of(choice, case) for case, choice in answering.choices(examples, desk, folder.data)]
        finally:
            note_spending(folder, desk)
    rows = (judge(job.task, e, r.text, r.finish_reason, r.error).as_dict() for e, r in zip(examples, got, strict=True))
    write_rows(_answers_file(folder, "teacher"), rows)
    _refuse_too_few(got, job.generate.min_kept_share)
    asked = spent.answers + spent.failures - before.answers - before.failures
    single = answering.teachers[0] if answering.is_single else None
    parameters = _catalog_parameters(job, single) if single else None
    notes = ["memory and size: unknown, the teacher runs on another machine"] if single else [f"{system.label}, asked together"]
    notes += [] if parameters or not single else ["parameters: unknown, not in the catalog"]
    notes += [] if asked == len(examples) else ["throughput: not measured, some answers were in the journal already"]
    measured = {
        "parameters": parameters,
        "latency_s": [r.latency_s for r in got if r.error is None and r.latency_s is not None] if single else [],
        "throughput_per_s": asked / seconds if asked == len(examples) else None,
    }
    return {"measured": measured, "notes": notes, "spent": spent.as_dict()}


def _answer_of(choice: Choice, case: Case) -> Reply:
    """What the teachers say to a row together; a row on which they cannot agree is a row without an answer."""
    if choice.chosen:
        return choice.chosen[0].reply
    errors = [candidate.reply.error for candidate in case.candidates if candidate.reply.error is not None]
    reason = choice.finding.reason if choice.finding else errors[0] if errors else "no answer came"
    return Reply("", "error", error=reason)


def _spent(desk: Desk) -> Spend:
    parts = desk.journal.spent(desk.run).items()
    return sum((spend for payer, spend in parts if payer.purpose == PURPOSE), Spend())


def _refuse_too_few(got: Sequence[Reply], least: float) -> None:
    """A teacher that could not be reached is not a teacher that is wrong; those few rows that got no answer are."""
    failed = [reply.error for reply in got if reply.error is not None]
    if len(got) - len(failed) < least * len(got):
        raise JobFailedError(
            f"the teacher answered {len(got) - len(failed):,} of {len(got):,} test rows, and generate.min_kept_share asks for "
            f"{least:.0%}, so it cannot be compared (the first failure: {failed[0]}); run again when it answers: what has "
            "arrived is in the journal and is not paid for twice"
        )


def _measure(job: Job, system: System, examples: Sequence[Example]) -> Json:
    """What the measuring process found, or a note with why it found nothing."""
    assert system.model is not None
    if not examples:
        return {"measured": {}, "notes": ["nothing was measured: no row was answered"]}
    try:
        timed = spread(examples, job.evaluate.latency_rows)
        if system.labels:
            prompts = system.classifier.texts(job.task, timed)
        else:
            tokenizer = load_tokenizer(system.model, revision=system.revision, trust_remote_code=system.trust_remote_code)
            prompts = [prompt_ids(tokenizer, system.prompt(job.task, example)) for example in timed]
        spec = MeasureSpec(
            model=system.model,
            prompts=prompts,
            max_tokens=system.max_tokens(job.task),
            revision=system.revision,
            trust_remote_code=system.trust_remote_code,
            labels=system.labels,
            seed=system.seed,
        )
        found = measure(spec).as_dict()
        busy = busy_notes()
        return {"measured": {**found, "busy": bool(busy)}, "notes": busy}
    except PotstillError as error:
        return {"measured": {}, "notes": [f"parameters, latency, memory and size: {error}"]}


def _catalog_parameters(job: Job, teacher: Teacher) -> int | None:
    """The publisher's figure for the model behind an endpoint: by its catalog name, or by the name the endpoint uses."""
    model = getattr(teacher, "model", None)
    for name, entry in catalog(job.folder).items():
        if model is not None and model in (name, entry.get("hub_id"), (entry.get("endpoint") or {}).get("model")):
            return entry.get("parameters")
    return None


def _answers_file(folder: RunFolder, system: str) -> Path:
    return folder.evaluation / f"{system}.jsonl"


def _record(folder: RunFolder, system: str) -> Path:
    return folder.evaluation / f"{system}.json"


def read_answers(folder: RunFolder, system: str) -> list[Answer]:
    return [Answer.from_dict(row) for row in read_rows(_answers_file(folder, system))]
