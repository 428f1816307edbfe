"""What a check says of money and of losses on layers, before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from conftest import save_llama

from potstill.checking import Finding, check_job, refuse_problems, retirements
from potstill.errors import JobError
from potstill.job import Job


def job_of(folder: Path, student: Path, **fields: Any) -> Job:
    rows = [{"prompt": f"Premise: {n}. Hypothesis: b.", "completion": "neutral" if n < 10 else None} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    usual = {"name": "n", "task": "nli", "data": "rows.jsonl", "teacher": "scripted", "student": str(student)}
    return Job(folder=folder, **{**usual, **fields})


def said(findings: list[Finding], subject: str, level: str) -> list[str]:
    return [found.text for found in findings if (found.subject, found.level) == (subject, level)]


@pytest.mark.parametrize("place", ["check", "best_of", "teacher"])
def test_a_cap_in_dollars_needs_the_price_of_every_model_that_is_asked(tmp_path: Path, student_folder: Path, place: str) -> None:
    with ChatServer() as server:
        wise = {"kind": "openai_api", "base_url": server.url, "model": "wise"}
        two = {"generate": {"samples": 2}, "teacher": {"kind": "scripted", "temperature": 0.7}}
        fields: dict[str, Any] = {
            "check": {"validation": {"checks": [{"kind": "judge", "teacher": wise}]}},
            "best_of": {"combine": {"kind": "best_of", "judge": wise}, **two},
            "teacher": {"teacher": [{"kind": "scripted"}, wise]},
        }[place]
        job = job_of(tmp_path, student_folder, budget={"max_cost_usd": 5}, **fields)
        (problem,) = said(check_job(job), "teacher", "problem")
        assert problem.startswith("budget.max_cost_usd is set and the price of wise is unknown; give it input_per_million")
        with pytest.raises(JobError, match="the price of wise is unknown"):
            refuse_problems(job)
        by_tokens = job_of(tmp_path, student_folder, budget={"max_tokens": 5000}, **fields)
        assert said(check_job(by_tokens), "teacher", "problem") == []


def test_a_judge_that_nothing_is_left_for_needs_no_price(tmp_path: Path, student_folder: Path) -> None:
    with ChatServer() as server:
        judge = {"kind": "openai_api", "base_url": server.url, "model": "wise"}
        job = job_of(tmp_path, student_folder, budget={"max_cost_usd": 5}, combine={"kind": "best_of", "judge": judge})
        assert said(check_job(job), "teacher", "problem") == [], "one answer a row leaves nothing to compare"


def test_the_budget_is_told_in_words(tmp_path: Path, student_folder: Path) -> None:
    budget = {"max_cost_usd": 40, "max_tokens": 2_000_000, "max_requests": 9000}
    (text,) = said(check_job(job_of(tmp_path, student_folder, budget=budget)), "budget", "ok")
    assert text == "the run stops before it goes over $40.00, 2,000,000 tokens or 9,000 requests"


def test_a_model_whose_provider_ends_it_is_a_warning_and_no_problem(tmp_path: Path, student_folder: Path) -> None:
    with ChatServer() as server:
        hosted = f"endpoint: {{kind: openai_api, base_url: '{server.url}', model: MODEL}}, RETIRED"
        gone = hosted.replace("MODEL", "gone").replace("RETIRED", "retired: 2020-01-31")
        going = hosted.replace("MODEL", "going").replace("RETIRED", "retired: 2999-01-31")
        (tmp_path / "catalog.yaml").write_text(f"gone: {{{gone}}}\ngoing: {{{going}}}\n")
        job = job_of(tmp_path, student_folder, teacher=[{"model": "gone"}, {"model": "going"}])
        assert said(check_job(job), "teacher", "warning") == retirements(job)
        refuse_problems(job)
    assert retirements(job) == [
        "the catalog says that gone has not been served since 2020-01-31; name another model, or correct catalog.yaml",
        "the catalog says that going will not be served from 2999-01-31 on; let the job end before, or name another model",
    ]
    assert retirements(job_of(tmp_path, student_folder)) == []


def layered(folder: Path, student: Path, weights: Path, *losses: Any, **fields: Any) -> Job:
    local = {"kind": "huggingface", "model": str(weights)}
    return job_of(folder, student, **{"teacher": local, "train": {"losses": list(losses)}, **fields})


def test_losses_on_layers_are_told_with_the_layers_that_meet(tmp_path: Path, student_folder: Path, teacher_folder: Path) -> None:
    job = layered(tmp_path, student_folder, teacher_folder, "cross_entropy", "hidden_mse", {"kind": "relation", "layers": "last"})
    findings = check_job(job)
    assert said(findings, "layers of hidden_mse", "ok") == ["the student's 1 from 1, 2 from 2 of the teacher's"]
    assert said(findings, "layers of relation", "ok") == ["the student's 2 from 2 of the teacher's"]
    assert not [text for level, _, text in findings if level == "problem"]


@pytest.mark.parametrize(
    ("loss", "problem"),
    [
        ({"kind": "hidden_mse", "layers": [[1, 7]]}, r"the teacher LlamaModel has layers 0 to 3; each pair is"),
        ({"kind": "hidden_cosine", "layers": "all"}, "LlamaModel has 2 layers and LlamaModel 3; use even, last, or pairs"),
        ({"kind": "relation", "relation_heads": 7}, "relation_heads: 7, which must divide 16 and 32 and 64, the widths"),
    ],
)
def test_layers_that_do_not_fit_are_a_problem_before_anything_is_asked(
    tmp_path: Path, student_folder: Path, loss: dict[str, Any], problem: str
) -> None:
    teacher = save_llama(tmp_path / "deep", hidden=64, layers=3)
    job = layered(tmp_path, student_folder, teacher, "cross_entropy", loss)
    (text,) = said(check_job(job), f"layers of {loss['kind']}", "problem")
    assert problem in text
    with pytest.raises(JobError) as raised:
        refuse_problems(job)
    assert problem in str(raised.value)


def test_layers_of_other_tokens_are_refused_in_the_check(tmp_path: Path, student_folder: Path) -> None:
    teacher = save_llama(tmp_path / "other", vocab_size=300)
    (text,) = said(check_job(layered(tmp_path, student_folder, teacher, "hidden_mse")), "vocabularies", "problem")
    assert "hidden_mse" in text


def test_a_loss_on_layers_needs_one_teacher_whose_weights_are_here(
    tmp_path: Path, student_folder: Path, teacher_folder: Path
) -> None:
    with pytest.raises(JobError, match="hidden_mse needs hidden states, and the teacher scripted gives text only"):
        layered(tmp_path, student_folder, teacher_folder, "hidden_mse", teacher="scripted")
    local = {"kind": "huggingface", "model": str(teacher_folder)}
    with pytest.raises(JobError, match=r"relation compares .* one teacher's, and this job has 2 teachers; name one"):
        layered(tmp_path, student_folder, teacher_folder, "relation", teacher=[local, {**local, "name": "b", "temperature": 0.7}])


def test_own_answers_make_signals_live_and_are_told_with_their_share(
    tmp_path: Path, student_folder: Path, teacher_folder: Path
) -> None:
    local = {"kind": "huggingface", "model": str(teacher_folder)}
    train = {"losses": ["cross_entropy", "jensen_shannon"], "on_policy": {"share": 0.25, "cold_start": 0.4}}
    job = job_of(tmp_path, student_folder, teacher=local, train=train)
    assert job.train.on_policy is not None
    assert (job.train.signals, job.train.on_policy.max_answer_tokens) == ("live", job.task.max_student_tokens)
    again = Job(folder=tmp_path, **job.resolved())
    assert again.train.on_policy == job.train.on_policy
    findings = check_job(job)
    (text,) = said(findings, "losses", "ok")
    assert "after 40% of the steps on own answers of 25% of the rows" in text
    assert not [text for level, _, text in findings if level == "problem"]


def test_a_teacher_of_other_tokens_cannot_score_own_answers(tmp_path: Path, student_folder: Path) -> None:
    local = {"kind": "huggingface", "model": str(save_llama(tmp_path / "other", vocab_size=300))}
    job = job_of(tmp_path, student_folder, teacher=local, train={"losses": ["forward_kl"], "on_policy": {}})
    (text,) = said(check_job(job), "vocabularies", "problem")
    assert "train.on_policy has the teacher score the student's own tokens" in text


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"teacher": "scripted"}, "the teacher 'scripted' has no weights on this machine; take one that has, or leave"),
        ({"train": {"signals": "sampled"}}, "train.signals is sampled, which is kept of given answers"),
        ({"train": {"signals": "top_k"}}, "train.signals is top_k, which is kept of given answers"),
        ({"train": {"losses": ["cross_entropy"]}}, "train.on_policy needs a loss on distributions"),
        ({"student": {"head": "labels"}}, "train.on_policy samples the student's answers, and a student with a head of labels"),
        ({"train": {"on_policy": {"share": 1.5}}}, "less than or equal to 1"),
    ],
)
def test_own_answers_that_cannot_be_scored_are_refused_when_the_job_is_loaded(
    tmp_path: Path, student_folder: Path, teacher_folder: Path, fields: dict[str, Any], problem: str
) -> None:
    local = {"kind": "huggingface", "model": str(teacher_folder)}
    train = {"losses": ["forward_kl"], "on_policy": {}, **fields.get("train", {})}
    student = {"model": str(student_folder), **fields.get("student", {})}
    with pytest.raises(JobError) as raised:
        Job(
            folder=tmp_path,
            name="n",
            task="nli",
            data="rows.jsonl",
            **{"teacher": local, **fields, "train": train, "student": student},
        )
    assert problem in str(raised.value)
