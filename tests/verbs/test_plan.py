"""What a plan says of money: what each model costs, and why something costs nothing or is unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from potstill.verbs.plan import plan

URL = "http://127.0.0.1:9/v1"
HOSTED = {"kind": "openai_api", "base_url": URL, "model": "big"}


def planned(folder: Path, student: Path, capsys: pytest.CaptureFixture[str], as_json: bool = False, **fields: Any) -> str:
    rows = [{"prompt": f"Premise: {n}. Hypothesis: b.", "completion": "neutral" if n < 10 else None} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {"name": "n", "task": "nli", "data": "rows.jsonl", "teacher": "scripted", "student": str(student), **fields}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    plan(folder / "job.yaml", [], as_json)
    return capsys.readouterr().out


def test_a_teacher_that_costs_nothing_is_called_what_it_is(
    tmp_path: Path, student_folder: Path, teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cost      nothing (a scripted teacher)" in planned(tmp_path, student_folder, capsys)
    assert "cost      nothing (a local teacher)" in planned(tmp_path, student_folder, capsys, teacher=str(teacher_folder))
    both = [{"kind": "scripted"}, {"model": str(teacher_folder)}]
    train = {"losses": ["cross_entropy"]}
    assert "nothing (a scripted teacher and a local teacher)" in planned(
        tmp_path, student_folder, capsys, teacher=both, train=train
    )
    free = {**HOSTED, "input_per_million": 0, "output_per_million": 0}
    assert "cost      nothing (the job's price of big is 0)" in planned(tmp_path, student_folder, capsys, teacher=free)


def test_a_model_whose_price_is_unknown_is_named(
    tmp_path: Path, student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cost      unknown (no price is known for big)" in planned(tmp_path, student_folder, capsys, teacher=HOSTED)
    judge = {"validation": {"checks": [{"kind": "judge", "teacher": {**HOSTED, "model": "wise"}}]}}
    out = planned(tmp_path, student_folder, capsys, **judge)
    assert "cost      unknown (no price is known for wise)" in out
    assert "          scripted: 27 answers, nothing" in out
    assert "          wise, judge: 244 answers, unknown" in out


def test_a_small_price_and_the_budget_are_told_in_words(
    tmp_path: Path, student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    priced = {**HOSTED, "input_per_million": 0.01, "output_per_million": 0.01}
    out = planned(tmp_path, student_folder, capsys, teacher=priced, budget={"max_cost_usd": 0.005, "max_requests": 7000})
    assert "about $0.00," not in out
    assert "budget    $0.005 or 7,000 requests; the run stops before it goes over" in out


def test_a_model_whose_provider_ends_it_is_a_warning(
    tmp_path: Path, student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "catalog.yaml").write_text(
        f"old: {{endpoint: {{kind: openai_api, base_url: '{URL}', model: big}}, retired: 2020-01-31}}\n"
    )
    out = planned(tmp_path, student_folder, capsys, teacher="old")
    assert "warning  teacher: the catalog says that big has not been served since 2020-01-31" in out
    (warning,) = json.loads(planned(tmp_path, student_folder, capsys, as_json=True, teacher="old"))["warnings"]
    assert warning.startswith("the catalog says that big")
    assert json.loads(planned(tmp_path, student_folder, capsys, as_json=True))["warnings"] == []
