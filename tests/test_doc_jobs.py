"""Every job in README and docs is one that the program takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from potstill.job import Job

ROOT = Path(__file__).resolve().parents[1]
LEAST = {"name": "x", "task": "math", "data": "prompts.jsonl", "teacher": "gpt-4o", "student": "phi-4-mini"}


def jobs() -> list[tuple[str, str]]:
    pages = ("README.md", "docs/teacher-data.md", "docs/job.head.md", "docs/objectives.md")
    return [(page, block) for page in pages for block in re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)]


@pytest.mark.parametrize(("page", "block"), jobs())
def test_a_job_in_the_docs_loads(page: str, block: str, tmp_path: Path) -> None:
    job = Job(folder=tmp_path, **{**LEAST, **yaml.safe_load(block)})
    assert job.resolved()["name"], page
