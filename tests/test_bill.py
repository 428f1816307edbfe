"""The bill names everyone who will be asked: teachers, the judges of checks, and the judge of best_of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.bill import QUESTION_TOKENS, Asked, bill, models_asked
from potstill.job import Job
from potstill.types import Example, Message

PRICE = {"input_per_million": 1.0, "output_per_million": 2.0}
TEACHERS = [
    {"kind": "openai_api", "base_url": "http://127.0.0.1:9/v1", "model": "one", "temperature": 0.7, **PRICE},
    {"kind": "openai_api", "base_url": "http://127.0.0.1:9/v1", "model": "two", "temperature": 0.7, **PRICE},
]
JUDGE = {"kind": "openai_api", "base_url": "http://127.0.0.1:9/v1", "model": "wise", **PRICE}
ROWS = [Example(str(n), (Message("user", f"Premise: {n}. Hypothesis: b."),)) for n in range(4)]


def job_of(folder: Path, **fields: Any) -> Job:
    usual = {"name": "n", "task": "nli", "data": "rows.jsonl", "teacher": TEACHERS, "student": str(folder)}
    return Job(folder=folder, **{**usual, **fields})


def test_the_judge_of_best_of_is_on_the_bill_with_every_pair_in_both_orders(tmp_path: Path) -> None:
    job = job_of(tmp_path, combine={"kind": "best_of", "judge": JUDGE}, generate={"samples": 2})
    lines = bill(job, ROWS, Asked(train=10, proved=3, probe=5, test=2), 100.0, 8.0)
    (judge,) = [line for line in lines if line.label.startswith("wise")]
    assert judge.label == "wise, best_of"
    assert judge.requests == (10 - 3 + 2) * 4 * 3, "four answers a row are twelve questions; gold needs no judge"
    assert judge.prompt_tokens == judge.requests * (QUESTION_TOKENS + 100 + 2 * 8)
    longest = job.task.max_teacher_tokens
    assert judge.most_usd == pytest.approx(judge.requests * (QUESTION_TOKENS + 100 + 2 * longest + 2 * 512) / 1e6)
    assert judge.cost_usd is not None
    assert judge.most_usd is not None
    assert 0 < judge.cost_usd < judge.most_usd
    assert sum(line.requests for line in lines if line.label in ("one", "two")) == 2 * 2 * (10 + 5 + 2)


def test_answers_that_gold_or_nobody_compares_cost_no_judge(tmp_path: Path) -> None:
    alone = job_of(tmp_path, teacher=TEACHERS[0], combine={"kind": "best_of", "judge": JUDGE})
    assert [line.label for line in bill(alone, ROWS, Asked(train=10), 100.0, 8.0)] == ["one"]
    voted = job_of(tmp_path, combine={"kind": "best_of"})
    assert [line.label for line in bill(voted, ROWS, Asked(train=10), 100.0, 8.0)] == ["one", "two"]


def test_a_check_is_billed_for_the_answers_that_it_looks_at_and_not_for_probe_or_test_rows(tmp_path: Path) -> None:
    checks = [{"kind": "judge", "teacher": JUDGE, "calibration_rows": 0}]
    job = job_of(tmp_path, teacher=TEACHERS[0], validation={"checks": checks})
    lines = bill(job, ROWS, Asked(train=10, probe=5, test=2), 100.0, 8.0)
    assert [(line.label, line.requests) for line in lines] == [("one", 17), ("wise, judge", 20)]


def test_every_model_that_will_be_asked_is_named_once(tmp_path: Path) -> None:
    checks = [{"kind": "judge", "teacher": {**JUDGE, "model": "strict"}}, {"kind": "judge", "teacher": JUDGE}]
    job = job_of(tmp_path, combine={"kind": "best_of", "judge": JUDGE}, validation={"checks": checks})
    assert [model.label for model in models_asked(job)] == ["one", "two", "wise", "strict"]
    voted = job_of(tmp_path, combine="vote")
    assert [model.label for model in models_asked(voted)] == ["one", "two"]
