"""`potstill check JOB.yaml`: everything about a job, without spending anything or loading weights."""

from __future__ import annotations

from pathlib import Path

from ..checking import check_job
from ..errors import EXIT_OK, EXIT_USER
from ..job import load_job
from ..terminal import hint, say_json, say_mark


def check(job_file: Path, overrides: list[str], as_json: bool) -> int:
    """Prints ok, warning and problem lines; 2 when there is a problem."""
    findings = check_job(load_job(job_file, overrides))
    problems = [found for found in findings if found.level == "problem"]
    if as_json:
        say_json({"ok": not problems, "findings": [found._asdict() for found in findings]})
    else:
        for found in findings:
            say_mark(*found)
        hint(f"{len(problems)} problems" if problems else f"next: potstill plan {job_file}, potstill run {job_file}")
    return EXIT_USER if problems else EXIT_OK
