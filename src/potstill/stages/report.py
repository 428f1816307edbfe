"""Stage report: everything that was found, as report.json for programs and report.html for people.

    evaluation/ data/card.json answers/card.json events.jsonl state.json -> report.json, report.html

A report is made of what there is: what is missing is said, never guessed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contracts import Teacher
from ..job import Job
from ..journal import Journal, Payer, Spend
from ..page.numbers import bytes_in_words, count_in_words, dollars, percent, rate_in_words, seconds_in_words
from ..page.reader import NO_ROWS, Packed, Shown, packed
from ..page.render import render
from ..runfolder import RunFolder, now, read_json, read_rows, write_json
from ..scoring import spread
from ..slices import groups_of
from ..types import Example

Json = dict[str, Any]
FORMAT = 1
ROWS_SHOWN = 20
NO_SCORES: Json = {"systems": {}, "comparisons": {}, "verdict": "Nothing has been evaluated, so nothing is proved.", "rows": 0}
PURPOSES = {"generate": "answers", "probe": "probe on gold", "invent": "invented prompts", "evaluate": "evaluation"}
PACKAGES = ("potstill", "torch", "transformers", "accelerate", "peft", "tokenizers")


def inputs(job: Job) -> Any:
    """The words of the job that stand in the report; all numbers come in by the stages before."""
    return [FORMAT, job.resolved()]


def run(job: Job, folder: RunFolder) -> None:
    """Writes report.json and report.html."""
    report = report_of(job, folder)
    write_json(folder.path / "report.json", report)
    part = folder.path / ".report.html.part"
    part.write_text(render(report, answers_of(folder, list(report["systems"]))), encoding="utf-8")
    part.replace(folder.path / "report.html")


def report_of(job: Job, folder: RunFolder) -> Json:
    """The content of report.json."""
    scores = _json_or(folder.evaluation / "scores.json", NO_SCORES)
    answers_card = _json_or(folder.answers / "card.json", {})
    return {
        "format": FORMAT,
        "name": job.name,
        "description": job.description,
        "task": job.task.kind,
        "task_name": Path(job.task.kind).stem,
        "created_at": now(),
        "verdict": scores["verdict"],
        "systems": scores["systems"],
        "performance_comparison": {name: in_words(system) for name, system in scores["systems"].items()},
        "comparisons": scores["comparisons"],
        "slices": scores.get("slices", []),
        "differences": differences(job, folder, scores["systems"]),
        "curves": training_curves(folder),
        "data_card": _json_or(folder.data / "card.json", {}),
        "answers_card": answers_card,
        "costs": costs(job.teachers, _spent(job, folder), answers_card),
        "stages": {name: stage.get("seconds") for name, stage in folder.state().get("stages", {}).items()},
        "settings": job.resolved(),
        "environment": environment(),
    }


def answers_of(folder: RunFolder, systems: Sequence[str]) -> Packed:
    """Every test row with what each system said, for the reader in the page."""
    if not systems:
        return NO_ROWS
    examples = [Example.from_dict(row) for row in read_rows(folder.data / "test.jsonl")]
    answers = (read_rows(folder.evaluation / f"{name}.jsonl") for name in systems)
    shown = (
        Shown(one.id, [message.as_dict() for message in one.messages], one.gold, dict(zip(systems, said, strict=True)))
        for one, said in zip(examples, zip(*answers, strict=True), strict=True)
    )
    return packed(shown, groups_of(examples), len(examples))


def in_words(system: Mapping[str, Any]) -> Json:
    """A system's numbers as people say them."""
    return {
        "parameters": count_in_words(system.get("parameters")),
        "memory_usage": bytes_in_words(system.get("memory_bytes")),
        "inference_time": seconds_in_words(system.get("latency_p50_s")),
        "accuracy": percent(system["accuracy"]["value"]),
        "throughput": rate_in_words(system.get("throughput_per_s")),
    }


def differences(job: Job, folder: RunFolder, systems: Mapping[str, Any]) -> Json:
    """Counts of rows where one of student and teacher is right and the other is not, and rows to look at.

    Rows that differ in rightness come first, evenly over the file; then rows whose answers read differently.
    """
    if not {"teacher", "student"} <= set(systems):
        return {"n": 0, "teacher_only": 0, "student_only": 0, "rows": []}
    answers = {name: read_rows(folder.evaluation / f"{name}.jsonl") for name in systems}
    by_right: list[Json] = []
    by_text: list[Json] = []
    n = teacher_only = 0
    examples = (Example.from_dict(row) for row in read_rows(folder.data / "test.jsonl"))
    for example, rows in zip(examples, zip(*answers.values(), strict=True), strict=True):
        said = dict(zip(answers, rows, strict=True))
        n += 1
        teacher, student = said["teacher"], said["student"]
        if teacher["right"] != student["right"]:
            teacher_only += teacher["right"] == 1.0
            by_right.append(_shown(example, said))
        elif len(by_text) < ROWS_SHOWN and job.task.read(teacher["text"]) != job.task.read(student["text"]):
            by_text.append(_shown(example, said))
    some = spread(by_right, ROWS_SHOWN)
    shown = [*some, *by_text[: ROWS_SHOWN - len(some)]]
    return {"n": n, "teacher_only": teacher_only, "student_only": len(by_right) - teacher_only, "rows": shown}


def training_curves(folder: RunFolder) -> Json:
    """For each role (student, control, teacher): its points by step, and how it ended.

    A run that was killed or started anew writes steps again: what it repeats takes the place of the older points.
    """
    curves: dict[str, Json] = {}
    for event in read_rows(folder.path / "events.jsonl"):
        if event["event"] not in ("step", "validation", "trained"):
            continue
        curve = curves.setdefault(event["role"], {"step": [], "validation": [], "trained": None})
        if event["event"] == "trained":
            curve["trained"] = {
                key: event.get(key) for key in ("steps", "best_step", "learning_rate", "seconds", "stopped_early")
            }
            continue
        points = curve[event["event"]]
        while points and points[-1]["step"] >= event["step"]:
            points.pop()
        keys = ("step", "loss", "learning_rate", "gradient_norm", "tokens_per_s", "score", "n")
        points.append({key: event[key] for key in keys if key in event})
        if event["event"] == "step":
            curve["steps"] = event.get("steps")
    for curve in curves.values():
        losses = [point["loss"] for point in curve["validation"] if point.get("loss") is not None]
        curve["best_validation_loss"] = min(losses, default=None)
        curve["last_step"] = curve["step"][-1]["step"] if curve["step"] else None
    return curves


def costs(teachers: Sequence[Teacher], spent: Mapping[Payer, Spend], answers_card: Mapping[str, Any]) -> Json:
    """What the run spent on teachers and judges, as the journal has it, in all its starts. Unknown is unknown, never zero.

    `answers_usd` is what the answers that teach cost, whoever paid for them: answers of an earlier run are not paid for again.
    """
    prices = [teacher.price() for teacher in teachers]
    free = all(price.input_per_million == 0 and price.output_per_million == 0 for price in prices)
    parts = {f"{PURPOSES.get(payer.purpose, payer.purpose)}, {payer.teacher}": one.as_dict() for payer, one in spent.items()}
    all_spent = sum(spent.values(), Spend())
    total, estimated = all_spent.as_dict()["cost_usd"], all_spent.estimated
    if free and not total:
        says = "local, no charge" if all(teacher.local_model() for teacher in teachers) else "no charge"
    elif total is None:
        says = "unknown: the price or the tokens of some answers are not known"
    elif estimated:
        says = f"at most {dollars(total)}: what {estimated:,} replies took was not told, and counts as the most it can be"
    else:
        says = dollars(total)
    return {"says": says, "total_usd": total, "parts": parts, "free": free, "answers_usd": answers_card.get("cost_usd")}


def _spent(job: Job, folder: RunFolder) -> dict[Payer, Spend]:
    if not job.journal_path.is_file():
        return {}
    with Journal(job.journal_path) as journal:
        return journal.spent(folder.run_id())


def environment() -> Json:
    """What the numbers were made with; read without loading the packages."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "packages": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "omp": {name: value for name, value in sorted(os.environ.items()) if name.startswith("OMP_")},
    }


def _shown(example: Example, said: Mapping[str, Any]) -> Json:
    answers = {name: {"text": row["text"], "right": row["right"]} for name, row in said.items()}
    return {"id": example.id, "messages": [m.as_dict() for m in example.messages], "gold": example.gold, "answers": answers}


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _json_or(path: Path, default: Json) -> Json:
    found: Json = read_json(path) if path.is_file() else default
    return found
