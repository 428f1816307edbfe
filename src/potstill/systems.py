"""One system of a workspace's job, by the name that `MLClient.models.evaluate` takes, scored on any file.

    phi-4-mini-distilled  phi-4-mini-control  phi-4-mini-baseline  deepseek-v3

The rows are read, prompted, answered, measured and scored by the same code as in the job's own stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contracts import Scored
from .data.intake import Source, take_in
from .data.rows import ColumnNames
from .errors import DataError, JobError, did_you_mean
from .job import Job, load_job
from .plugins import load_plugin, plugin_kinds
from .runfolder import RunFolder, file_digest, fingerprint, read_json, read_rows
from .scoring import Answer, Resampling, metric_score
from .stages.evaluate import answer_and_measure, read_answers, scores_of, systems
from .types import Example
from .workspace import Workspace

SUFFIXES = {"distilled": "student", "control": "control", "baseline": "baseline"}
# Azure's and the brief's names to a metric, or to a number that the measuring gives.
METRIC_OF = {"bleu_score": "bleu", "rouge_score": "rouge_l", "rouge": "rouge_l", "f1": "token_f1", "f1_score": "token_f1"}
MEASURED = {
    "inference_time": "latency_p50_s",
    "latency": "latency_p50_s",
    "inference_time_p95": "latency_p95_s",
    "memory_usage": "memory_bytes",
    "model_size": "size_bytes",
    "parameters": "parameters",
    "throughput": "throughput_per_s",
}


@dataclass(frozen=True)
class NamedSystem:
    """A system of the latest job that has it."""

    workspace: Workspace
    job_name: str
    role: str

    @property
    def job_file(self) -> Path:
        return self.workspace.job_folder(self.job_name) / "job.yaml"

    @property
    def needs_a_finished_job(self) -> bool:
        """The baseline is there before anything is trained; a teacher too, unless it is adapted first."""
        return self.role in {"student", "control"} or (
            self.role == "teacher" and load_job(self.job_file).teacher.adapt is not None
        )


def find_system(workspace: Workspace, model_name: str) -> NamedSystem:
    """By name, the latest job first; raises JobError with the names that are known."""
    known: dict[str, NamedSystem] = {}
    for job_name in workspace.job_names():
        said = read_json(workspace.jobs / job_name / "distillation.json")
        for base in (job_name, Path(said["student_model"]).name, said["student_model"]):
            known |= {f"{base}-{suffix}": NamedSystem(workspace, job_name, role) for suffix, role in SUFFIXES.items()}
        known[said["teacher_model"]] = NamedSystem(workspace, job_name, "teacher")
    if model_name not in known:
        rest = did_you_mean(model_name, known) if known else "the workspace has no jobs; jobs.create_or_update makes one"
        raise JobError(f"unknown model_name {model_name!r}: {rest}")
    return known[model_name]


def evaluate_system(system: NamedSystem, test_data: Path, wanted: Sequence[str] | None) -> dict[str, Any]:
    """The metrics by the names they were asked for, "n", "intervals" and "notes"; answers that are there are not made again."""
    job = load_job(system.job_file)
    _check_names(wanted or ())
    chosen = next((one for one in systems(job, RunFolder(job.run_path)) if one.name == system.role), None)
    if chosen is None:
        raise JobError(f"job {job.name} has no {system.role}; it is made when evaluate.{system.role} is true")
    place = fingerprint(file_digest(_existing(test_data)), job.data.model_dump(mode="json")["columns"], job.name)[:12]
    scratch = RunFolder(system.workspace.folder / "evaluations" / f"{test_data.stem}-{place}")
    columns = ColumnNames(**job.data.columns.model_dump()) if job.data.columns else None
    take_in([Source(str(test_data), test_data, "test")], columns, scratch.data, scratch.data / "rejected.jsonl")
    examples = [Example.from_dict(row) for row in read_rows(scratch.data / "test.jsonl")]
    if not any(example.gold is not None for example in examples):
        raise DataError(f"{test_data} has no row with a gold answer, so nothing can be scored")
    with scratch.locked():
        answer_and_measure(job, scratch, chosen, examples)
    scores = scores_of(job, scratch, [chosen], examples)["systems"][chosen.name]
    names = wanted or ("accuracy", *job.task.metrics)
    found = {name: _number(name, scores, job, examples, read_answers(scratch, chosen.name)) for name in names}
    intervals = {name: score for name, score in found.items() if isinstance(score, dict)}
    values = {name: score["value"] if isinstance(score, dict) else score for name, score in found.items()}
    return {**values, "n": len(examples), "intervals": intervals, "notes": scores["notes"]}


def _number(name: str, scores: dict[str, Any], job: Job, examples: Sequence[Example], answers: Sequence[Answer]) -> Any:
    """A score with its interval as a dict, or a measured number."""
    if name == "accuracy":
        return scores["accuracy"]
    if name in MEASURED:
        return scores[MEASURED[name]]
    kind = METRIC_OF.get(name, name)
    if kind in scores["metrics"]:
        return scores["metrics"][kind]
    pairs = zip(examples, answers, strict=True)
    rows = [Scored(example, answer.text, answer.right) for example, answer in pairs if example.gold is not None]
    how = Resampling(job.evaluate.bootstrap_samples, job.evaluate.seed)
    return metric_score(load_plugin("metrics", kind), rows, job.task, how).as_dict()


def _check_names(wanted: Sequence[str]) -> None:
    kinds = [info.kind for info in plugin_kinds("metrics")]
    known = ["accuracy", *MEASURED, *METRIC_OF, *kinds]
    for name in wanted:
        if name not in known:
            raise JobError(f"unknown metric {name!r}: {did_you_mean(name, known)}")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"test_data {path} does not exist")
    return path
