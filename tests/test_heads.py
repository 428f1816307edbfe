"""A student with a head of labels in a job: who gets one, its temperature and losses, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import save_bert

from potstill.checking import check_job, refuse_problems
from potstill.errors import JobError
from potstill.job import Job
from potstill.recipe import default_learning_rate
from potstill.runfolder import write_rows
from potstill.starter import rows

SCRIPTED = {"kind": "scripted", "default": "neutral"}
DECISIONS = {"kind": "openai_decisions", "base_url": "http://127.0.0.1:9/v1", "model": "m"}


def job(folder: Path, student: Any, **fields: Any) -> Job:
    if not (folder / "train.jsonl").exists():
        write_rows(folder / "train.jsonl", rows("nli", "train", 20))
    return Job(
        folder=folder, **{"name": "j", "task": "nli", "data": "train.jsonl", "teacher": SCRIPTED, "student": student, **fields}
    )


def kinds(made: Job) -> list[tuple[str, float]]:
    return [(loss.kind, loss.weight) for loss in made.train.losses]


SOFT = [("cross_entropy", 0.25), ("forward_kl", 0.75)]


def test_an_encoder_gets_a_head_of_labels_by_itself_and_a_language_model_when_told(
    tmp_path: Path, bert_folder: Path, student_folder: Path
) -> None:
    encoder = job(tmp_path, str(bert_folder))
    assert encoder.labels == ("entailment", "neutral", "contradiction")
    assert (encoder.student.head, encoder.train.temperature, kinds(encoder)) == ("labels", 4.0, [("cross_entropy", 1.0)])
    writer = job(tmp_path, str(student_folder))
    assert (writer.student.head, writer.labels, writer.train.temperature) == ("text", (), 1.0)
    decoder = job(tmp_path, {"model": str(student_folder), "head": "labels"})
    assert (decoder.labels, decoder.train.temperature) == (encoder.labels, 4.0)
    assert job(tmp_path, str(bert_folder), train={"temperature": 1.0}).train.temperature == 1.0
    unknown = job(tmp_path, "somebody/never-downloaded")
    assert (unknown.student.head, unknown.labels) == ("auto", ())


def test_a_job_that_was_resolved_says_the_same_again(tmp_path: Path, bert_folder: Path) -> None:
    made = job(tmp_path, str(bert_folder))
    assert Job(folder=tmp_path, **made.resolved()).resolved() == made.resolved()


def test_a_students_identity_has_its_head_only_where_it_is_one_of_labels(tmp_path: Path, student_folder: Path) -> None:
    text, labels = (job(tmp_path, {"model": str(student_folder), "head": head}).student for head in ("text", "labels"))
    assert "head" not in text.identity()
    assert labels.identity()["head"] == "labels"


def test_probabilities_of_labels_make_the_losses_soft(tmp_path: Path, bert_folder: Path, teacher_folder: Path) -> None:
    student = str(bert_folder)
    assert kinds(job(tmp_path, student, teacher=str(teacher_folder))) == SOFT
    assert kinds(job(tmp_path, student, teacher=DECISIONS)) == SOFT
    assert kinds(job(tmp_path, student, teacher={**SCRIPTED, "temperature": 0.7}, generate={"samples": 3})) == SOFT
    two = [{**SCRIPTED, "name": "a"}, {**SCRIPTED, "name": "b"}]
    assert kinds(job(tmp_path, student, teacher=two)) == SOFT
    assert kinds(job(tmp_path, student, teacher=two, combine="best_of")) == [("cross_entropy", 1.0)]
    route = {"kind": "route", "rules": [{"min_words": 9, "teacher": "a"}], "default": "b"}
    assert kinds(job(tmp_path, student, teacher=two, combine=route)) == [("cross_entropy", 1.0)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "qa"}, "the task qa has no closed set of them; take a student that writes text, or another task"),
        ({"task": "classification"}, "the task classification has no closed set of them; name them in task.labels"),
        ({"task": {"kind": "classification", "labels": ["a"]}}, "task.labels holds 'a' alone; name two labels at least"),
        (
            {"task": {"kind": "nli", "chain_of_thought": {"student_learns": "multitask"}}},
            "student_learns is 'multitask'; set it to answer",
        ),
        ({"train": {"signals": "live"}}, "label scores are captured once for all epochs; set train.signals to auto"),
        (
            {"train": {"losses": ["forward_kl"]}},
            "forward_kl needs probabilities of labels, and the teacher scripted gives one text",
        ),
        ({"student": {"head": "words"}}, "'text' or 'labels'"),
    ],
)
def test_what_such_a_student_cannot_do_is_one_sentence(
    tmp_path: Path, bert_folder: Path, changes: dict[str, Any], said: str
) -> None:
    student = {"model": str(bert_folder), **changes.pop("student", {})}
    with pytest.raises(JobError) as raised:
        job(tmp_path, student, **changes)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_reasoning_teachers_may_teach_the_answer_alone(tmp_path: Path, bert_folder: Path) -> None:
    assert job(tmp_path, str(bert_folder), task={"kind": "nli", "chain_of_thought": True}).labels


def test_a_check_shows_the_head_and_has_no_word_on_vocabularies(tmp_path: Path, bert_folder: Path, teacher_folder: Path) -> None:
    found = check_job(job(tmp_path, str(bert_folder), teacher=str(teacher_folder)))
    said = {finding.subject: finding.text for finding in found}
    assert not [finding for finding in found if finding.level == "problem"]
    assert "rows are read as plain text" in said["student tokenizer"]
    assert "BertForSequenceClassification" in said["student"]
    assert "context 256" in said["student"]
    assert "over 3 labels, at temperature 4" in said["losses"]
    assert "vocabularies" not in said
    assert "BertForSequenceClassification" in said["export safetensors"]


def test_an_encoder_that_is_to_write_is_refused_before_anything_is_paid(tmp_path: Path, bert_folder: Path) -> None:
    made = job(tmp_path, {"model": str(bert_folder), "head": "text"})
    with pytest.raises(JobError, match=r"is a BertForMaskedLM, which writes no text; set student\.head to labels"):
        refuse_problems(made)


def test_an_unknown_gold_label_is_told_before_the_run(tmp_path: Path, bert_folder: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [*rows("nli", "train", 20), {"prompt": "A man walks?", "completion": "perhaps"}])
    warnings = [finding.text for finding in check_job(job(tmp_path, str(bert_folder))) if finding.level == "warning"]
    assert any("1 of 21 sampled gold answers are none of task.labels, such as 'perhaps'" in text for text in warnings)


def test_rows_longer_than_the_encoder_takes_are_told_before_the_run(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert")
    made = job(tmp_path, {"model": str(folder), "max_length": 16})
    assert any("longer than 16 tokens and would be left out" in finding.text for finding in check_job(made))


def test_small_classifiers_learn_slower_than_small_writers() -> None:
    assert default_learning_rate(5_000_000, "full", classifies=True) == 3e-4
    assert default_learning_rate(110_000_000, "full", classifies=True) == 5e-5
    assert default_learning_rate(5_000_000, "full") == 1e-3
    assert default_learning_rate(5_000_000, "lora", classifies=True) == 2e-4
