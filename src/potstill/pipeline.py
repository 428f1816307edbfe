"""The journey on one screen: each stage runs when its output is not there yet or its inputs have changed.

prepare -> adapt -> invent -> generate -> validate -> capture -> train -> evaluate -> export -> report
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import yaml

from .answers.budget import BudgetError
from .checking import refuse_problems
from .job import Job
from .runfolder import RunFolder, fingerprint, seconds_since
from .stages import adapt, capture, evaluate, export, generate, invent, prepare, report, train, validate

JOURNEY: tuple[tuple[str, ModuleType], ...] = (
    ("prepare", prepare),
    ("adapt", adapt),
    ("invent", invent),
    ("generate", generate),
    ("validate", validate),
    ("capture", capture),
    ("train", train),
    ("evaluate", evaluate),
    ("export", export),
    ("report", report),
)

LEFT = {
    "prepare": ("data/train.jsonl", "data/validation.jsonl", "data/test.jsonl", "data/card.json"),
    "adapt": ("teacher",),
    "invent": ("data/invented.jsonl",),
    "generate": ("answers/answers.jsonl", "answers/validation_answers.jsonl"),
    "validate": ("answers/kept.jsonl", "answers/card.json"),
    "capture": (),  # what of the signals is missing is captured again when it is needed
    "train": ("model", "control"),
    "evaluate": ("evaluation/scores.json",),
    "export": ("exports",),
    "report": ("report.json", "report.html"),
}
"""What a stage leaves in the run folder: when someone has deleted it, the stage is not done."""

ASKING = ("invent", "generate", "capture")
"""Once these are done the teacher is paid; before them, everything that can be wrong is said."""


class StagePlan(NamedTuple):
    """One stage as `potstill plan` shows it."""

    stage: str
    fingerprint: str
    done: bool


def run_job(job: Job) -> RunFolder:
    """Takes a job to its end, or from where it stopped; raises PotstillError with a sentence for the user."""
    folder = RunFolder(job.run_path)
    with folder.locked():
        _write_job(job, folder)
        folder.update_state(status="running", reason=None, name=job.name)
        try:
            plans = plan_job(job)
            if not all(plan.done for plan in plans if plan.stage in ASKING):
                refuse_problems(job)
            if not all(plan.done for plan in plans):
                _drop_report(folder)
            for (stage, module), plan in zip(JOURNEY, plans, strict=True):
                _run_stage(stage, module, plan, job, folder)
        except KeyboardInterrupt:
            folder.update_state(status="stopped", reason="stopped by the user")
            folder.event("stopped")
            raise
        except BudgetError as error:
            folder.update_state(status="paused", reason=_reason(error))
            folder.event("paused", reason=_reason(error))
            raise
        except BaseException as error:
            folder.update_state(status="failed", reason=_reason(error))
            folder.event("failed", reason=_reason(error))
            raise
        folder.update_state(status="completed", stage=None, progress=None)
        folder.event("completed")
    return folder


def plan_job(job: Job) -> list[StagePlan]:
    """Every stage with its fingerprint: its own inputs and those of the stages before it."""
    folder = RunFolder(job.run_path)
    return list(_plans(job, folder))


def _plans(job: Job, folder: RunFolder) -> Iterator[StagePlan]:
    before = ""
    all_done = True
    for stage, module in JOURNEY:
        before = fingerprint(stage, module.inputs(job), before)
        all_done = all_done and folder.stage_is_done(stage, before)
        yield StagePlan(stage, before, all_done)


def _run_stage(stage: str, module: ModuleType, plan: StagePlan, job: Job, folder: RunFolder) -> None:
    if plan.done:
        folder.event("stage_skipped", stage=stage)
        return
    folder.update_state(stage=stage)
    folder.event("stage_started", stage=stage)
    start = time.perf_counter()
    module.run(job, folder)
    seconds = seconds_since(start)
    left = [name for name in LEFT[stage] if (folder.path / name).exists()]
    folder.mark_stage(stage, plan.fingerprint, seconds, left)
    folder.event("stage_finished", stage=stage, seconds=seconds)


def _drop_report(folder: RunFolder) -> None:
    """A report of other settings must not be read as this run's, should the run fail; the last stage makes it anew."""
    for name in LEFT["report"]:
        (folder.path / name).unlink(missing_ok=True)


def _write_job(job: Job, folder: RunFolder) -> None:
    """The resolved job is the first file of a run; paths in it are whole, so that it runs from anywhere."""
    part = folder.path / ".job.yaml.part"
    part.write_text(yaml.safe_dump(job.resolved(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    part.replace(folder.path / "job.yaml")


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
