from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.errors import JobFailedError, ModelError
from potstill.job import Job
from potstill.runfolder import RunFolder, read_json, read_rows, write_rows
from potstill.stages import generate, validate
from potstill.types import Example, Message, Reply

TASK = '''
from potstill.contracts import Task

class Labels(Task):
    """yes or no."""

    def read(self, text):
        return text if text in ("yes", "no") else None

    def right(self, text, example):
        return None if example.gold is None else float(text == example.gold)
'''
REPLIES = {"cut": "yes", "blank": "   ", "odd": "maybe", "yes": "yes", "no": "no"}


def _job(folder: Path, **fields: Any) -> Job:
    (folder / "labels.py").write_text(TASK)
    (folder / "student").mkdir(exist_ok=True)
    teacher = {"kind": "scripted", "replies": REPLIES}
    train = {"losses": ["cross_entropy"]}
    return Job(
        folder=folder,
        name="run",
        task="./labels.py",
        data="train.jsonl",
        teacher=teacher,
        student="./student",
        train=train,
        **fields,
    )


def _answered(job: Job, train: list[tuple[str, str | None]], validation: list[tuple[str, str | None]] = ()) -> RunFolder:  # type: ignore[assignment]
    folder = RunFolder(job.run_path)
    for split, rows in {"train": train, "validation": validation}.items():
        examples = [Example(f"{split}-{n}", (Message("user", q),), gold) for n, (q, gold) in enumerate(rows)]
        write_rows(folder.data / f"{split}.jsonl", (example.as_dict() for example in examples))
    generate.run(job, folder)
    return folder


def test_each_row_is_accepted_or_rejected_with_its_reason(tmp_path: Path) -> None:
    job = _job(tmp_path, generate={"min_kept_share": 0.3})
    rows = [("yes?", None), ("odd?", None), ("blank?", None), ("gold row", "no"), ("what?", None), ("bad gold", "perhaps")]
    folder = _answered(job, rows, [("yes?", None), ("odd?", None), ("b", "no")])
    validate.run(job, folder)
    kept = list(read_rows(folder.answers / "kept.jsonl"))
    assert [(row["id"], row["target"], row["target_source"]) for row in kept] == [
        ("train-0", "yes", "teacher"),
        ("train-3", "no", "gold"),
    ]
    rejected = {row["id"]: row for row in read_rows(folder.answers / "rejected.jsonl")}
    assert {name: row["reason"] for name, row in rejected.items()} == {
        "train-1": "no ./labels.py answer in the text",
        "train-2": "blank answer",
        "train-4": "no answer: the script has no reply to this message",
        "train-5": "no ./labels.py answer in the text",
        "validation-1": "no ./labels.py answer in the text",
    }
    assert rejected["train-1"] == {**rejected["train-1"], "split": "train", "attempts": 3, "cost_usd": 0.0, "text": "maybe"}
    lessons = list(read_rows(folder.answers / "validation.jsonl"))
    assert [(row["id"], row["target"], row["target_source"]) for row in lessons] == [("validation-0", "yes", "teacher")]


def test_the_card_counts_every_row_and_a_missing_answer_is_a_failure(tmp_path: Path) -> None:
    job = _job(tmp_path, generate={"min_kept_share": 0.3})
    folder = _answered(job, [("yes?", None), ("what?", None), ("gold row", "no"), ("odd?", None)])
    validate.run(job, folder)
    card = read_json(folder.answers / "card.json")
    assert (card["input"], card["accepted"], card["rejected"], card["pending"], card["success_ratio"]) == (4, 2, 2, 0, 0.5)
    assert card["accepted_from"] == {"teacher": 1, "gold": 1}
    assert sum(card["reasons"].values()) == card["rejected"]
    assert (card["cost_usd"], card["prompt_tokens"], card["completion_tokens"]) == (0.0, 4, 4)
    assert card["teacher_accuracy_on_gold"]["n"] == 0, "the script answers no row with gold, and no answer is no wrong answer"
    assert card["probe_rows_without_answer"] == {"scripted": 1}
    assert card["checks"]["readable"] == {
        "before": 3,
        "after": 2,
        "refused": 1,
        "reasons": {"no ./labels.py answer in the text": 1},
    }


def test_the_teacher_is_scored_on_gold_where_it_answered(tmp_path: Path) -> None:
    job = _job(tmp_path, generate={"when_gold": "teacher"})
    folder = _answered(job, [("yes 1", "yes"), ("yes 2", "no"), ("no 3", "no"), ("no 4", "no")])
    validate.run(job, folder)
    score = read_json(folder.answers / "card.json")["teacher_accuracy_on_gold"]
    assert (score["value"], score["n"]) == (0.75, 4)
    assert score["low"] < 0.75 < score["high"]


def test_too_few_survivors_stop_the_job_with_counts_and_file(tmp_path: Path) -> None:
    job = _job(tmp_path, generate={"min_kept_share": 0.6})
    folder = _answered(job, [("yes?", None), ("odd?", None), ("blank?", None)])
    folder.mark_stage("generate", "x", 1.0)
    with pytest.raises(JobFailedError, match=r"1 of 3 answers \(33.3%\).*60.0%.*rejected.jsonl") as caught:
        validate.run(job, folder)
    assert caught.value.exit_code == 2
    assert len(list(read_rows(folder.answers / "rejected.jsonl"))) == 2
    assert not folder.stage_is_done("generate", "x")


def test_a_cut_answer_does_not_teach(tmp_path: Path) -> None:
    job = _job(tmp_path, generate={"min_kept_share": 0.5})
    folder = _answered(job, [("cut?", None), ("yes?", None)])
    rows = list(read_rows(folder.answers / "answers.jsonl"))
    rows[0]["finish_reason"] = "length"
    write_rows(folder.answers / "answers.jsonl", rows)
    validate.run(job, folder)
    assert "cut at the length limit" in next(read_rows(folder.answers / "rejected.jsonl"))["reason"]


def test_without_any_check_a_missing_answer_is_still_refused(tmp_path: Path) -> None:
    job = _job(tmp_path, generate={"min_kept_share": 0.5}, validation={"checks": []})
    folder = _answered(job, [("what?", None), ("odd?", None)])
    validate.run(job, folder)
    assert [row["id"] for row in read_rows(folder.answers / "kept.jsonl")] == ["train-1"]


def test_a_row_that_was_never_asked_is_pending(tmp_path: Path) -> None:
    job = _job(tmp_path, generate={"min_kept_share": 0.5})
    folder = _answered(job, [("yes?", None), ("no?", None)])
    rows = list(read_rows(folder.answers / "answers.jsonl"))
    never = {**rows[0], **Reply("", "error", attempts=0, error="pending: never asked").as_dict()}
    write_rows(folder.answers / "answers.jsonl", [never, rows[1]])
    validate.run(job, folder)
    card = read_json(folder.answers / "card.json")
    assert (card["accepted"], card["rejected"], card["pending"]) == (1, 0, 1)


def test_answers_of_other_data_are_refused(tmp_path: Path) -> None:
    job = _job(tmp_path)
    folder = _answered(job, [("yes?", None), ("no?", None)])
    rows = list(read_rows(folder.data / "train.jsonl"))
    write_rows(folder.data / "train.jsonl", reversed(rows))
    with pytest.raises(ModelError, match="does not belong"):
        validate.run(job, folder)


def test_inputs_change_with_the_checks(tmp_path: Path) -> None:
    assert validate.inputs(_job(tmp_path)) != validate.inputs(_job(tmp_path, validation={"checks": ["empty"]}))
