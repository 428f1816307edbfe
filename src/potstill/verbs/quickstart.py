"""`potstill quickstart`: the embedded teacher, student and data; from nothing to a report in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import JobError, did_you_mean
from ..job import load_job
from ..pipeline import run_job
from ..runfolder import write_rows
from ..starter import STUDENT, TASKS, TEACHER, rows
from ..terminal import hint, say_outcome

VALIDATION_ROWS = 100
TEST_ROWS = 300
GOLD_SHARE = 0.0
"""Share of the training prompts that keep their gold answer. The corpus knows every answer; a user's prompts do not."""

RECIPE: dict[str, Any] = {"epochs": 2, "batch_size": 8, "learning_rate": 8e-4, "validations": 3}
"""Small steps and a high rate suit a student of 2.6M parameters (docs/log.md, 2026-11-22)."""


def quickstart(task: str, folder: Path, num_rows: int, overrides: list[str], as_json: bool) -> None:
    """Writes data and job file into `folder/task`, runs the job, and prints the verdict and the report's path."""
    if task not in TASKS:
        raise JobError(f"unknown task {task!r}: {did_you_mean(task, TASKS)}")
    home = folder / task
    sizes = {"train": num_rows, "validation": min(VALIDATION_ROWS, num_rows), "test": min(TEST_ROWS, num_rows)}
    for split, count in sizes.items():
        write_rows(home / f"{split}.jsonl", rows(task, split, count))
    job_file = home / "job.yaml"
    job_file.write_text(yaml.safe_dump(_job(task, num_rows), sort_keys=False), encoding="utf-8")
    hint(f"{job_file}: {num_rows} prompts, {TEACHER} -> {STUDENT}; the same command continues when it is stopped")
    say_outcome(run_job(load_job(job_file, overrides)).path, as_json)


def _job(task: str, num_rows: int) -> dict[str, Any]:
    return {
        "name": f"quickstart-{task}",
        "task": task,
        "data": {
            "train": "train.jsonl",
            "validation": "validation.jsonl",
            "test": "test.jsonl",
            "max_gold_rows": int(GOLD_SHARE * num_rows),
        },
        "teacher": TEACHER,
        "student": STUDENT,
        "train": RECIPE,
    }
