"""`potstill run JOB.yaml`: the whole journey, continued where it stopped."""

from __future__ import annotations

from pathlib import Path

from ..job import load_job
from ..pipeline import run_job
from ..terminal import hint, say_outcome


def run(job_file: Path, overrides: list[str], as_json: bool) -> None:
    """Runs the job and prints the verdict and the report's path."""
    job = load_job(job_file, overrides)
    hint(f"{job.name}: {job.run_path}")
    folder = run_job(job)
    say_outcome(folder.path, as_json)
