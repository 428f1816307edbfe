"""Potstill in the words that Azure ML users know: `MLClient.jobs` and `MLClient.models`.

ml_client = MLClient.from_config()
job = ml_client.jobs.create_or_update(distillation_job)    # starts it in a process of its own and returns
ml_client.jobs.stream(job.name)                            # follows it
ml_client.models.evaluate(model_name="phi-4-mini-distilled", test_data="./test.jsonl")
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .catalog import teacher_settings
from .entities import DistillationJob
from .errors import JobFailedError
from .job import Job, load_job, refuse_secrets
from .plugins import load_plugin
from .runfolder import RunFolder, read_rows, write_json
from .systems import evaluate_system, find_system
from .types import Signal
from .workspace import FINAL, JobProcess, Workspace, azure_status, find_workspace

SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class JobStatus:
    """A job as it was when it was asked about; `status` is one of Azure's words."""

    name: str
    status: str
    stage: str | None
    reason: str | None
    description: str
    run_folder: Path

    @property
    def report(self) -> Path | None:
        page = self.run_folder / "report.html"
        return page if page.is_file() else None


class Jobs:
    """Starting, following and stopping the jobs of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def create_or_update(self, job: DistillationJob) -> JobStatus:
        """Checks the job, starts it in a process of its own and returns at once; one that runs already goes on."""
        folder = self._workspace.jobs / job.run_name
        process = JobProcess(folder)
        if not process.alive():
            loaded = self._write(job, folder)
            process.remember(loaded.compute.start(folder / "job.yaml", loaded.run_path))
        return self.get(job.run_name)

    def get(self, name: str) -> JobStatus:
        """A job by name; raises JobError with the known names."""
        folder = self._workspace.job_folder(name)
        run = RunFolder(self._workspace.runs / name)
        state = run.state()
        fields = yaml.safe_load((folder / "job.yaml").read_text(encoding="utf-8"))
        status = azure_status(state, JobProcess(folder))
        return JobStatus(name, status, state.get("stage"), state.get("reason"), fields.get("description", ""), run.path)

    def list(self) -> list[JobStatus]:
        """Every job of the workspace, the latest last."""
        return [self.get(name) for name in self._workspace.job_names()]

    def stream(self, name: str) -> JobStatus:
        """Prints the job's events until it ends; raises JobFailedError when it did not complete."""
        told = 0
        while True:
            status = self.get(name)
            events = list(read_rows(status.run_folder / "events.jsonl"))
            for event in events[told:]:
                print(_told(event))
            told = len(events)
            if status.status in FINAL:
                return self._completed(status)
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def cancel(self, name: str) -> JobStatus:
        """Asks a job to stop at the next safe point; `create_or_update` of the same job continues it."""
        JobProcess(self._workspace.job_folder(name)).cancel()
        return self.get(name)

    def wait(self, name: str) -> JobStatus:
        """Waits for a job, with its progress on stderr; raises JobFailedError when it did not complete."""
        shown = ""
        while (status := self.get(name)).status not in FINAL:
            progress = RunFolder(status.run_folder).state().get("progress") or {}
            count = f", {progress['label']} {progress['done']}/{progress['total']}" if progress else ""
            line = f"potstill: waiting for {name}: {status.status}{count}"
            if line != shown and (sys.stderr.isatty() or status.status not in shown):
                print(line, file=sys.stderr)
                shown = line
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return self._completed(status)

    def _completed(self, status: JobStatus) -> JobStatus:
        if status.status == "Completed":
            return status
        log = status.run_folder / "log.txt"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
        reason = status.reason or (lines[-1] if lines else "it left no message")
        raise JobFailedError(f"job {status.name} ended as {status.status}: {reason}; see {log}")

    def _write(self, job: DistillationJob, folder: Path) -> Job:
        """Writes the job file with what the workspace says about models, and loads it, which checks it."""
        refuse_secrets(job.model_dump())
        self._workspace.write_catalog(folder)
        fields = {**job.job_fields(Path.cwd()), "runs": str(self._workspace.runs)}
        _place_temperature(fields, job.hyperparameters.temperature, folder)
        (folder / "job.yaml").write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
        loaded = load_job(folder / "job.yaml")
        write_json(folder / "distillation.json", {"teacher_model": job.teacher_name, "student_model": job.student_model})
        return loaded


class Models:
    """Scoring the models of a workspace's jobs."""

    def __init__(self, workspace: Workspace, jobs: Jobs) -> None:
        self._workspace = workspace
        self._jobs = jobs

    def evaluate(self, model_name: str, test_data: str, metrics: Sequence[str] | None = None) -> dict[str, Any]:
        """Scores a model on a file with gold answers, through the same prompts and task as in the job.

        `model_name` is "<student>-distilled", "<student>-control", "<student>-baseline" or the teacher's name; the latest
        job with it is taken, and waited for when it still runs. Without `metrics`: accuracy and the task's own.
        `inference_time` is the median of seconds an answer; `intervals` holds each number's 95% interval and n.
        """
        system = find_system(self._workspace, model_name)
        if system.needs_a_finished_job:
            self._jobs.wait(system.job_name)
        return evaluate_system(system, (Path.cwd() / test_data).resolve(), metrics)


class MLClient:
    """One workspace on this machine; no account and no network."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.jobs = Jobs(workspace)
        self.models = Models(workspace, self.jobs)

    @classmethod
    def from_config(cls, path: str | Path | None = None) -> MLClient:
        """The workspace of the config.json in this folder (or `path`) or a parent; else ./potstill-workspace."""
        return cls(find_workspace(Path(path or Path.cwd()).resolve()))


def _place_temperature(fields: dict[str, Any], temperature: float | None, folder: Path) -> None:
    """The brief's one temperature goes where this teacher has one, and the job's description says where."""
    if temperature is None:
        return
    settings = teacher_settings(fields["teacher"], folder)
    if load_plugin("teachers", settings, folder).gives >= Signal.TOPK:
        fields["train"] = {**fields["train"], "temperature": temperature}
        said = (
            f"temperature {temperature} is the distillation temperature (train.temperature): the teacher gives log-probabilities"
        )
    else:
        teacher = fields["teacher"]
        named = {"model": teacher} if isinstance(teacher, str) else dict(teacher)
        fields["teacher"] = {**named, "temperature": temperature}
        said = f"temperature {temperature} is the sampling temperature (teacher.temperature): the teacher gives text only"
    fields["description"] = f"{fields['description']}; {said}" if fields["description"] else said
    print(f"potstill: {said}", file=sys.stderr)


def _told(event: dict[str, Any]) -> str:
    rest = {key: value for key, value in event.items() if key not in {"at", "event"}}
    return f"{event['at']} {event['event']} {json.dumps(rest, ensure_ascii=False) if rest else ''}".rstrip()
