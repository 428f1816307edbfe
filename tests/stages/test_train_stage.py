"""train: weighed lessons of several aims reach the student and the control as they stand in kept.jsonl."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_llama
from torch.nn import functional

from potstill.errors import JobError
from potstill.job import Job
from potstill.lessons import encode_lessons, read_lessons
from potstill.rendering import load_tokenizer
from potstill.runfolder import RunFolder, read_rows, write_rows
from potstill.stages import capture, train
from potstill.student import load_model
from potstill.types import Example, Lesson, Message

TASK = {"kind": "nli", "chain_of_thought": {"student_learns": "multitask", "rationale_weight": 2.0}}


def made_run(job: Job) -> RunFolder:
    folder = RunFolder(job.run_path)
    rows = [Example(str(n), (Message("user", f"{'A man walks. ' * (n % 3)} Row {n}?"),)) for n in range(6)]
    said = [f"{'He moves, so yes. ' * (n % 2 + 1)}\nAnswer: {('entailment', 'neutral')[n % 2]}" for n in range(6)]
    lessons = [
        Lesson(example, one.text, "teacher", one.aim, one.weight)
        for example, text in zip(rows, said, strict=True)
        for one in job.task.taught(example, text)
    ]
    write_rows(folder.answers / "kept.jsonl", (lesson.as_dict() for lesson in lessons))
    write_rows(folder.answers / "validation.jsonl", (lesson.as_dict() for lesson in lessons[:4]))
    write_rows(folder.data / "validation.jsonl", (example.as_dict() for example in rows[:2]))
    return folder


def test_student_and_control_start_from_the_weighed_mean_of_all_lessons(
    teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    losses = [{"kind": "cross_entropy", "weight": 0.5}, {"kind": "forward_kl", "weight": 0.5}]
    settings = {"losses": losses, "batch_size": 12, "epochs": 1, "validations": 1, "micro_batch_tokens": 128}
    job = Job(
        folder=tmp_path,
        name="run",
        task=TASK,
        data="train.jsonl",
        teacher={"kind": "huggingface", "model": str(teacher_folder)},
        student=str(student_folder),
        train=settings,
    )
    folder = made_run(job)
    capture.run(job, folder)
    train.run(job, folder)
    rows = encode_lessons(read_lessons(folder.answers / "kept.jsonl"), job.task, load_tokenizer(str(student_folder)), 512).rows
    assert len(rows) == 12
    assert len({row.weight for row in rows}) == 3, "answers weigh 1, rationales by their length"
    model = load_model(str(student_folder))
    total = count = 0.0
    for row in rows:
        ids = torch.from_numpy(np.concatenate([row.prompt, row.answer]).astype(np.int64))[None]
        with torch.no_grad():
            logits = model(ids).logits[0, len(row.prompt) - 1 : -1]
        total += row.weight * float(functional.cross_entropy(logits, ids[0, len(row.prompt) :], reduction="sum"))
        count += row.weight * len(row.answer)
    steps = {event["role"]: event["loss"] for event in read_rows(folder.path / "events.jsonl") if event["event"] == "step"}
    assert steps["control"] == pytest.approx(total / count, abs=1e-4)
    assert steps["student"] != pytest.approx(total / count, abs=1e-2)
    assert (folder.model / "config.json").is_file()
    assert (folder.control / "config.json").is_file()


def test_losses_on_layers_keep_the_teacher_in_memory_and_what_is_kept_of_it_on_the_disk(
    teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    """With captured log-probabilities, with live ones, and with text alone; the control never sees the teacher."""
    for name, losses, signals in (
        ("captured", ["cross_entropy", "forward_kl", "hidden_mse"], "top_k"),
        ("live", ["cross_entropy", "forward_kl", "hidden_mse"], "live"),
        ("text", ["cross_entropy", "attention_kl"], "top_k"),
    ):
        job = Job(
            folder=tmp_path,
            name=name,
            task=TASK,
            data="train.jsonl",
            teacher={"kind": "huggingface", "model": str(teacher_folder)},
            student=str(student_folder),
            train={"losses": losses, "signals": signals, "top_k": 65536, "batch_size": 12, "epochs": 2, "validations": 1},
        )  # all words are kept, as all count where the teacher stays
        folder = made_run(job)
        capture.run(job, folder)
        told = folder.path / "events.jsonl"
        was_captured = told.is_file() and '"event": "captured"' in told.read_text()
        assert was_captured == (name == "captured")
        train.run(job, folder)
        assert (folder.control / "config.json").is_file()
    models = [load_model(str(tmp_path / "runs" / name / "model")) for name in ("captured", "live")]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        # Kept log-probabilities are rounded to 0.1%, which turns the first step of AdamW round where a gradient is next to 0.
        assert float((one - other).detach().abs().mean()) < 5e-6


def test_a_teacher_of_other_tokens_shows_no_layers(student_folder: Path, tmp_path: Path) -> None:
    job = Job(
        folder=tmp_path,
        name="run",
        task=TASK,
        data="train.jsonl",
        teacher={"kind": "huggingface", "model": str(save_llama(tmp_path / "other", vocab_size=300))},
        student=str(student_folder),
        train={"losses": ["cross_entropy", "hidden_mse"]},
    )
    with pytest.raises(JobError, match="teacher and student have different vocabularies"):
        train.run(job, made_run(job))


def test_own_answers_teach_the_student_after_the_cold_start_and_never_the_control(
    teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    job = Job(
        folder=tmp_path,
        name="run",
        task=TASK,
        data="train.jsonl",
        teacher={"kind": "huggingface", "model": str(teacher_folder)},
        student=str(student_folder),
        train={
            "losses": ["cross_entropy", "jensen_shannon", "hidden_mse"], "on_policy": {"share": 0.5, "max_answer_tokens": 9},
            "batch_size": 4, "epochs": 4, "validations": 1,
        },
    )  # fmt: skip
    folder = made_run(job)
    capture.run(job, folder)
    train.run(job, folder)
    steps = [event for event in read_rows(folder.path / "events.jsonl") if event["event"] == "step"]
    own = [event.get("own_samples", 0) for event in steps if event["role"] == "student"]
    assert own[:6] == [0] * 6
    assert sum(own[6:]) > 6
    sampled = [event for event in steps if "own_samples" in event]
    assert all(1 <= event["own_tokens"] <= 9 and 0 <= event["own_truncated"] <= 1 for event in sampled)
    assert not any("own_samples" in event for event in steps if event["role"] == "control")
    assert not any(event["event"] == "captured" for event in read_rows(folder.path / "events.jsonl"))
    assert (folder.control / "config.json").is_file()


def test_gold_rows_are_mixed_by_gold_once_and_found_again_in_training(
    teacher_folder: Path, phi3_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    teachers = [{"kind": "huggingface", "model": str(one), "name": one.name} for one in (teacher_folder, phi3_folder)]
    found = {}
    for mix_by in ("weight", "gold"):
        job = Job(
            folder=tmp_path, name=mix_by, task="nli", data="train.jsonl", teacher=teachers, student=str(student_folder),
            train={"mix_by": mix_by, "batch_size": 6, "epochs": 2, "validations": 1}, evaluate={"control": False},
        )  # fmt: skip
        folder = made_run(job)
        lessons = list(read_lessons(folder.answers / "kept.jsonl"))
        gold = [replace(one, target_source="gold") if number % 2 else one for number, one in enumerate(lessons)]
        write_rows(folder.answers / "kept.jsonl", (one.as_dict() for one in gold))
        capture.run(job, folder)
        before = {place: place.stat().st_size for place in job.signals_path.rglob("rows.data")}
        train.run(job, folder)
        assert {place: place.stat().st_size for place in job.signals_path.rglob("rows.data")} == before
        found[mix_by] = load_model(str(folder.model))
    gaps = [
        float((one - other).detach().abs().max()) for one, other in zip(*(m.parameters() for m in found.values()), strict=True)
    ]
    assert max(gaps) > 1e-5
