from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from potstill.errors import JobFailedError
from potstill.job import Job
from potstill.progress import Progress
from potstill.runfolder import RunFolder, read_json, read_rows, write_rows
from potstill.stages import evaluate
from potstill.types import Example, Message

TASK = '''
from potstill.contracts import Task


class Light(Task):
    """Says which colour the light has."""

    max_answer_tokens: int = 3

    def read(self, text):
        return text.strip().lower() or None

    def right(self, text, example):
        return None if example.gold is None else float(self.read(text) == example.gold)
'''
COLOURS = ("red", "green", "blue")


def make_run(tmp_path: Path, student: Path, teacher: Any, rows: int = 6, **more: Any) -> tuple[Job, RunFolder]:
    (tmp_path / "light.py").write_text(TASK)
    (tmp_path / "train.jsonl").write_text("{}")
    job = Job(
        folder=tmp_path,
        name="r",
        task="./light.py",
        data="train.jsonl",
        teacher=teacher,
        student=str(student),
        evaluate={"latency_rows": 2, "bootstrap_samples": 100},
        train={"losses": ["cross_entropy"]},
        generate={"min_kept_share": 0.6},
        **more,
    )
    folder = RunFolder(job.run_path)
    examples = [Example(f"e{i}", (Message("user", f"light {i} {COLOURS[i % 3]}"),), COLOURS[i % 3]) for i in range(rows)]
    write_rows(folder.data / "test.jsonl", (example.as_dict() for example in examples))
    shutil.copytree(student, folder.model)
    return job, folder


SCRIPTED = {"kind": "scripted", "replies": {"red": "red", "green": "green"}}


def test_a_scripted_teacher_and_three_students_are_scored_on_the_same_rows_and_resumed(
    tmp_path: Path, student_folder: Path, teacher_folder: Path
) -> None:
    job, folder = make_run(tmp_path, student_folder, SCRIPTED)
    shutil.copytree(teacher_folder, folder.control)
    evaluate.run(job, folder)
    scores = read_json(folder.evaluation / "scores.json")

    assert list(scores["systems"]) == ["teacher", "baseline", "control", "student"]
    teacher = scores["systems"]["teacher"]
    assert teacher["accuracy"]["value"] == pytest.approx(4 / 6)
    assert teacher["accuracy"]["n"] == 6
    assert (teacher["parameters"], teacher["memory_bytes"]) == (None, None)
    assert any("2 of 6 rows got no answer and count as wrong" in note for note in teacher["notes"])
    student = scores["systems"]["student"]
    assert student["parameters"] > 1000
    assert student["size_bytes"] > 4 * student["parameters"]
    assert 0 < student["latency_p50_s"] <= student["latency_p95_s"]
    assert student["throughput_per_s"] > 0
    assert set(scores["comparisons"]) >= {"student_minus_teacher", "student_minus_baseline", "student_minus_control", "retention"}
    assert scores["verdict"].endswith(".")
    for system in scores["systems"]:
        rows = list(read_rows(folder.evaluation / f"{system}.jsonl"))
        assert [row["id"] for row in rows] == [f"e{i}" for i in range(6)]

    stamps = {path: path.stat().st_mtime_ns for path in folder.evaluation.iterdir() if path.name != "scores.json"}
    shutil.rmtree(folder.control)
    shutil.copytree(student_folder, folder.control)  # the same weights as the student: nothing is generated again
    folder.event("note", message="control: cross entropy on 3 rows of gold text")
    evaluate.run(job, folder)
    scores = read_json(folder.evaluation / "scores.json")
    assert scores["comparisons"]["control_is_student"]
    assert "its own control" in scores["verdict"]
    assert "cross entropy on 3 rows of gold text" in scores["systems"]["control"]["notes"]
    assert (folder.evaluation / "control.jsonl").read_text() == (folder.evaluation / "student.jsonl").read_text()
    changed = {path.name for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"control.jsonl", "control.json"}


def test_a_local_teacher_answers_with_its_adapted_weights_and_unwanted_systems_are_left_out(
    tmp_path: Path, student_folder: Path, teacher_folder: Path
) -> None:
    job, folder = make_run(tmp_path, student_folder, {"kind": "huggingface", "model": str(teacher_folder), "adapt": {}}, rows=3)
    job = job.model_copy(update={"evaluate": job.evaluate.model_copy(update={"baseline": False})})
    before = evaluate.systems(job, folder)
    assert [(system.name, system.model) for system in before] == [
        ("teacher", str(teacher_folder)),
        ("student", str(folder.model)),
    ]
    shutil.copytree(teacher_folder, folder.teacher)
    after = evaluate.systems(job, folder)[0]
    assert (after.model, after.label, after.answering) == (str(folder.teacher), "teacher", None)


def test_a_prompt_that_does_not_fit_counts_as_wrong_and_is_noted(tmp_path: Path, student_folder: Path) -> None:
    job, folder = make_run(tmp_path, student_folder, SCRIPTED, rows=3)
    with (folder.data / "test.jsonl").open("a") as file:
        long = Example("long", (Message("user", "light " * 2000),), "red")
        file.write(json.dumps(long.as_dict()) + "\n")
    examples = [Example.from_dict(row) for row in read_rows(folder.data / "test.jsonl")]
    with Progress(folder, "evaluate", 4) as bar:
        answers = evaluate._generate(job.task, evaluate.systems(job, folder)[-1], examples, bar).answers
    long_one = next(answer for answer in answers if answer.id == "long")
    assert len(answers) == 4
    assert long_one.right == 0.0
    assert "tokens and the model takes 512" in str(long_one.error)


def test_a_model_that_cannot_be_measured_is_noted_and_the_rest_goes_on(tmp_path: Path, student_folder: Path) -> None:
    job, folder = make_run(tmp_path, student_folder, SCRIPTED, rows=2)
    examples = [Example.from_dict(row) for row in read_rows(folder.data / "test.jsonl")]
    found = evaluate._measure(job, evaluate.System("student", "x", str(tmp_path)), examples)
    assert found["measured"] == {}
    assert "no tokenizer could be loaded" in found["notes"][0]


def test_without_test_rows_nothing_is_claimed(tmp_path: Path, student_folder: Path) -> None:
    job, folder = make_run(tmp_path, student_folder, SCRIPTED, rows=0)
    with pytest.raises(JobFailedError, match="there is no test row"):
        evaluate.run(job, folder)


def test_a_teacher_behind_an_endpoint_has_the_latency_of_its_replies_and_is_asked_once(
    tmp_path: Path, student_folder: Path
) -> None:
    with ChatServer(answer=lambda question: question.split()[-1], delay_s=0.05) as server:
        teacher = {"kind": "openai_api", "base_url": server.url, "model": "deepseek-ai/DeepSeek-V3"}
        job, folder = make_run(tmp_path, student_folder, teacher)
        examples = [Example.from_dict(row) for row in read_rows(folder.data / "test.jsonl")]
        system = evaluate.systems(job, folder)[0]
        evaluate.answer_and_measure(job, folder, system, examples)
        (folder.evaluation / "teacher.json").unlink()
        first = sum(server.asked.values())
        evaluate.answer_and_measure(job, folder, system, examples)
        assert sum(server.asked.values()) == first == 6
    scores = evaluate.scores_of(job, folder, [system], examples)["systems"]["teacher"]
    assert scores["accuracy"]["value"] == 1.0
    assert scores["accuracy"]["low"] < 0.7
    assert scores["latency_p50_s"] >= 0.05
    assert scores["parameters"] == 671_000_000_000
    assert scores["throughput_per_s"] is None
    assert any("answers were in the journal already" in note for note in scores["notes"])


def test_a_teacher_that_cannot_be_reached_stops_the_stage_and_is_not_called_wrong(tmp_path: Path, student_folder: Path) -> None:
    job, folder = make_run(tmp_path, student_folder, {"kind": "scripted", "replies": {"red": "red"}})
    with pytest.raises(JobFailedError, match=r"the teacher answered 2 of 6 test rows, .* asks for 60%"):
        evaluate.run(job, folder)
    assert not (folder.evaluation / "scores.json").exists()


def test_the_parameters_of_an_endpoint_come_from_the_catalog(tmp_path: Path, student_folder: Path) -> None:
    job, _ = make_run(tmp_path, student_folder, SCRIPTED, rows=1)

    class Named(type(job.teacher)):  # type: ignore[misc]
        model: str = "deepseek-ai/DeepSeek-V3"

    assert evaluate._catalog_parameters(job, Named(kind="scripted")) == 671_000_000_000
    assert evaluate._catalog_parameters(job, job.teacher) is None


def test_a_combiner_that_goes_by_the_gold_may_not_see_it_on_test_rows(tmp_path: Path, student_folder: Path) -> None:
    """With the gold in sight, two teachers of which one is right by chance would score like a good one."""
    teachers = [{"kind": "scripted", "name": colour, "default": colour} for colour in COLOURS]
    job, folder = make_run(tmp_path, student_folder, teachers, combine="best_of")
    evaluate.run(job, folder)
    assert read_json(folder.evaluation / "scores.json")["systems"]["teacher"]["accuracy"]["value"] == pytest.approx(2 / 6)
