"""`potstill init [FOLDER]`: the least job file, with comments, and a little data to start from."""

from __future__ import annotations

from pathlib import Path

from ..errors import JobError, did_you_mean
from ..runfolder import write_rows
from ..starter import TASKS, rows
from ..terminal import hint, say

SAMPLE_ROWS = {"train.jsonl": ("train", 40), "test.jsonl": ("test", 20)}

JOB = """\
# A distillation job. `potstill check job.yaml` checks it, `potstill plan job.yaml` prints every default,
# `potstill run job.yaml` runs it and continues it. docs/job.md explains every key.
name: {task}-student            # names the run folder: runs/{task}-student
task: {task}                    # `potstill list tasks`

data:                           # JSONL, JSON, CSV or Parquet: `messages`, or `prompt` and `completion`
  train: train.jsonl            # rows without a gold answer are answered by the teacher
  test: test.jsonl              # only for the report; left out, a tenth of train is held out

# The teacher: a name of the catalog (deepseek-v3, gpt-4o, ...), a folder, a hub id, or any server that speaks OpenAI's API:
#   teacher: {{kind: openai_api, base_url: "https://api.example.com/v1", model: my-model, api_key: "env:MY_API_KEY"}}
teacher: starter-teacher

# The student: a folder, a hub id or a name of the catalog (phi-4-mini, ...).
student: starter-student

# train: {{epochs: 3, learning_rate: 1.0e-3}}
"""


def init(folder: Path, task: str) -> None:
    """Writes job.yaml, train.jsonl and test.jsonl; never over a file that is there."""
    if task not in TASKS:
        raise JobError(f"unknown task {task!r}: {did_you_mean(task, TASKS)}")
    for name in ("job.yaml", *SAMPLE_ROWS):
        if (folder / name).exists():
            raise JobError(f"{folder / name} exists already; potstill init writes over nothing, name another folder")
    for name, (split, count) in SAMPLE_ROWS.items():
        write_rows(folder / name, rows(task, split, count))
    job_file = folder / "job.yaml"
    job_file.write_text(JOB.format(task=task), encoding="utf-8")
    say(str(job_file))
    hint(f"next: potstill check {job_file}")
