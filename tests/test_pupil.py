"""Whole jobs of students with a head of labels, from data to an export that transformers' own pipeline reads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import make_encoder_tokenizer
from decisions_server import DecisionsServer
from transformers import pipeline
from typer.testing import CliRunner

from potstill.cli import app
from potstill.errors import JobFailedError
from potstill.job import Job
from potstill.label_answers import Classifier
from potstill.pipeline import plan_job, run_job
from potstill.pupil import pupil_of
from potstill.rendering import load_tokenizer, prompt_text
from potstill.runfolder import RunFolder, read_json, read_rows, write_json, write_rows
from potstill.stages import train
from potstill.systems import evaluate_system, find_system
from potstill.types import Example, Message
from potstill.workspace import find_workspace

LABELS = ["fruit", "router", "people"]
WORDS = {"fruit": "apples are left", "router": "the router shows a red light", "people": "a man walks"}


def data(count: int, *, gold: bool = True, start: int = 0) -> list[dict[str, Any]]:
    """Prompts that a word or two decide, with row numbers so that none repeats."""
    found = []
    for number in range(start, start + count):
        label = LABELS[number % 3]
        user = {"role": "user", "content": f"{WORDS[label]} and {number} more"}
        found.append({"messages": [user, *([{"role": "assistant", "content": label}] if gold else [])]})
    return found


SCRIPT = {"kind": "scripted", "replies": {"apples": "fruit", "router": "The answer is router.", "man": "PEOPLE"}}


def made_job(folder: Path, student: Any, **fields: Any) -> Job:
    write_rows(folder / "train.jsonl", data(36, gold=False))
    write_rows(folder / "validation.jsonl", data(6, start=1000))
    write_rows(folder / "test.jsonl", data(12, start=2000))
    usual: dict[str, Any] = {
        "name": "labels",
        "task": {"kind": "classification", "labels": LABELS, "system_prompt": "Say fruit, router or people."},
        "data": {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
        "teacher": SCRIPT,
        "student": student,
        "train": {"epochs": 12, "batch_size": 12, "learning_rate": 5e-3, "validations": 2, "validation_rows": 6},
        "validation": {"checks": ["empty", "readable"]},
        "evaluate": {"latency_rows": 2, "bootstrap_samples": 100, "baseline": False},
    }
    return Job(folder=folder, **{**usual, **fields})


def events(job: Job, name: str) -> list[dict[str, Any]]:
    return [event for event in read_rows(job.run_path / "events.jsonl") if event["event"] == name]


def kept(folder: RunFolder) -> list[dict[str, Any]]:
    return list(read_rows(folder.answers / "kept.jsonl"))


@pytest.mark.parametrize("family", ["bert_folder", "student_folder"])
@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_a_scripted_teachers_labels_are_learned_evaluated_and_exported(
    family: str, adaptation: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = str(request.getfixturevalue(family))
    student = {"model": model, "head": "labels", "adaptation": adaptation, "lora": {"rank": 8, "alpha": 16}}
    job = made_job(tmp_path, student, evaluate={"latency_rows": 2, "bootstrap_samples": 100})
    folder = run_job(job)
    systems = read_json(folder.path / "report.json")["systems"]
    assert systems["teacher"]["accuracy"]["value"] == 1.0
    assert systems["student"]["accuracy"]["value"] >= 0.9
    assert systems["baseline"]["accuracy"]["value"] <= 0.7
    assert any("its head of 3 labels drawn at random (seed 0)" in note for note in systems["baseline"]["notes"])
    for name in ("baseline", "control", "student"):
        assert systems[name]["latency_p50_s"] > 0
        assert systems[name]["throughput_per_s"] > 0
        assert systems[name]["memory_bytes"] is not None
        assert systems[name]["tokens_per_s"] is None
        for row in read_rows(folder.evaluation / f"{name}.jsonl"):
            assert sum(row["label_probabilities"].values()) == pytest.approx(1.0, abs=1e-4)
            assert max(row["label_probabilities"], key=row["label_probabilities"].__getitem__) == row["text"]
    assert "label_probabilities" not in next(iter(read_rows(folder.evaluation / "teacher.jsonl")))
    config = json.loads((folder.exports / "safetensors" / "config.json").read_text())
    assert config["id2label"] == {"0": "fruit", "1": "router", "2": "people"}
    assert config["label2id"] == {"fruit": 0, "router": 1, "people": 2}
    assert all(stage.done for stage in plan_job(job))
    told = [event["message"] for event in events(job, "note")]
    assert any("plain text alone, so it is its own control" in message for message in told)


@pytest.mark.parametrize("family", ["bert_folder", "student_folder"])
def test_the_export_gives_the_same_labels_in_transformers_own_pipeline(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    job = made_job(tmp_path, {"model": str(request.getfixturevalue(family)), "head": "labels"})
    folder = run_job(job)
    exported = str(folder.exports / "safetensors")
    tokenizer = load_tokenizer(exported, reads_only=True)
    classifier = pipeline("text-classification", model=exported, dtype=torch.float32, device="cpu")
    for example, row in zip(read_rows(folder.data / "test.jsonl"), read_rows(folder.evaluation / "student.jsonl"), strict=True):
        (message,) = example["messages"]
        text = message["content"]
        if tokenizer.chat_template:  # a decoder reads its chat template; the pipeline adds none
            text = prompt_text(tokenizer, [Message("user", text)])
        (found,) = classifier(text)
        assert found["label"] == row["text"]
        assert found["score"] == pytest.approx(max(row["label_probabilities"].values()), abs=5e-3)


def test_a_local_teachers_scores_reach_the_student_and_are_captured_once(
    tmp_path: Path, teacher_folder: Path, bert_folder: Path
) -> None:
    """Teacher and student have different tokenizers, so nothing but labels could go from one to the other."""
    job = made_job(tmp_path, str(bert_folder), teacher=str(teacher_folder), validation={"checks": []},
                   data={"train": "gold.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
                   train={"epochs": 1, "batch_size": 12, "validations": 1})  # fmt: skip
    write_rows(tmp_path / "gold.jsonl", data(24))
    assert [loss.kind for loss in job.train.losses] == ["cross_entropy", "forward_kl"]
    run_job(job)
    (captured,) = events(job, "captured")
    assert (captured["rows"], captured["labels"]) == (24, 3)
    assert 1 / 3 < captured["likeliest_at_4"] < captured["likeliest_at_1"] <= 1
    (place,) = job.signals_path.glob("labels-*/scores.jsonl")
    assert len(list(read_rows(place))) == 24
    student = next(event for event in events(job, "step") if event["role"] == "student")
    control = next(event for event in events(job, "step") if event["role"] == "control")
    assert student["loss"] != pytest.approx(control["loss"], abs=1e-3)
    again = Job(folder=tmp_path, **{**job.resolved(), "train": {**job.resolved()["train"], "temperature": 2.0}})
    assert {stage.stage for stage in plan_job(again) if not stage.done} >= {"train", "evaluate"}
    assert "capture" not in {stage.stage for stage in plan_job(again) if not stage.done}, "temperature is no part of the scores"
    shutil.rmtree(job.signals_path)
    run_job(again)
    assert len(list(read_rows(place))) == 24


def test_votes_of_samples_and_teachers_become_soft_labels(tmp_path: Path, bert_folder: Path) -> None:
    other = {**SCRIPT, "name": "other", "replies": {"apples": "people", "router": "router", "man": "people"}, "weight": 3.0}
    job = made_job(tmp_path, str(bert_folder), teacher=[SCRIPT, other])
    folder = run_job(job)
    shares = {row["messages"][0]["content"].split()[0]: row["label_probabilities"] for row in kept(folder)}
    assert shares["the"] == {"fruit": 0.0, "router": 1.0, "people": 0.0}
    assert shares["apples"] == {"fruit": 0.25, "router": 0.0, "people": 0.75}
    assert not events(job, "captured")
    assert {event["role"] for event in events(job, "trained")} == {"student", "control"}


def test_served_probabilities_reach_the_student(tmp_path: Path, bert_folder: Path) -> None:
    with DecisionsServer() as server:
        teacher = {"kind": "openai_decisions", "base_url": server.url, "model": "gpt-6-luna"}
        job = made_job(tmp_path, str(bert_folder), teacher=teacher, generate={"min_kept_share": 0.0, "smoke_rows": 0})
        folder = run_job(job)
    rows = kept(folder)
    assert rows
    for row in rows:
        best = row["label_probabilities"][row["target"]]
        assert best == pytest.approx(0.7)
        assert sum(row["label_probabilities"].values()) == pytest.approx(1.0)
    assert {event["role"] for event in events(job, "trained")} == {"student", "control"}


def test_a_row_that_is_too_long_counts_as_wrong_and_is_left_out_of_training_with_a_word(
    tmp_path: Path, bert_folder: Path
) -> None:
    job = made_job(tmp_path, str(bert_folder), train={"epochs": 1, "batch_size": 12, "validations": 1})
    long = {"messages": [{"role": "user", "content": "apples are left " * 300}, {"role": "assistant", "content": "fruit"}]}
    write_rows(tmp_path / "train.jsonl", [*data(36, gold=False), {"messages": [{"role": "user", "content": "a man " * 300}]}])
    write_rows(tmp_path / "test.jsonl", [*data(5, start=2000), long])
    folder = run_job(job)
    (encoded,) = events(job, "encoded")
    assert (encoded["rows"], encoded["too_long"], encoded["max_length"]) == (36, 1, 256)
    student = read_json(folder.path / "report.json")["systems"]["student"]
    assert student["accuracy"]["n"] == 6
    assert any("tokens and the model takes 256" in note for note in student["notes"])


def test_gold_that_is_no_label_is_left_out_with_a_word_and_alone_it_stops_the_job(tmp_path: Path, bert_folder: Path) -> None:
    short = {"epochs": 1, "batch_size": 12, "validations": 1}
    job = made_job(tmp_path, str(bert_folder), train=short, validation={"checks": ["empty"]})
    strange = {"messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "planets"}]}
    write_rows(tmp_path / "train.jsonl", [*data(12), strange])
    run_job(job)
    (note,) = [event["message"] for event in events(job, "note") if "left out of training" in event["message"]]
    assert "1 rows are left out of training: a gold answer gives none of the task's labels: 'planets'" in note
    write_rows(tmp_path / "train.jsonl", [strange, {"messages": [{"role": "user", "content": "who?"}, strange["messages"][1]]}])
    with pytest.raises(JobFailedError, match="gives none of the task's labels: 'planets'"):
        run_job(job)


def test_the_students_own_text_is_read_alike_in_training_and_evaluation(tmp_path: Path, bert_folder: Path) -> None:
    job = made_job(tmp_path, str(bert_folder))
    example = Example("1", (Message("system", "Ada's shop."), Message("user", "apples are left")))
    asked = pupil_of(job).asked(example)
    assert Classifier(str(bert_folder), job.labels).texts(job.task, [example]) == [asked]
    tokenizer = make_encoder_tokenizer()
    assert tokenizer.decode(asked) == "[CLS]Ada's shop.\n\napples are left[SEP]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Job:
    """A job of a workspace, run to its end."""
    workspace = find_workspace(tmp_path_factory.mktemp("workspace"))
    folder = workspace.jobs / "labels"
    folder.mkdir(parents=True)
    job = made_job(folder, str(bert_folder), runs=str(workspace.runs))
    (folder / "job.yaml").write_text(yaml.safe_dump(job.resolved()))
    write_json(folder / "distillation.json", {"teacher_model": "scripted", "student_model": str(bert_folder)})
    run_job(job)
    return job


def test_a_finished_classifier_is_asked_in_the_terminal_line_by_line(finished: Job) -> None:
    lines = "a man walks and 3 more\n\nthe router shows a red light\n" + "light " * 300 + "\n/exit\n"
    said = CliRunner().invoke(app, ["chat", str(finished.run_path)], input=lines)
    assert said.exit_code == 0, said.output
    words = [line.split() for line in said.stdout.splitlines() if line.strip()]
    assert [line[0] for line in words[-2:]] == ["people", "router"]
    assert all(line[1].endswith("%") for line in words[-2:])
    assert "tokens and the student takes 256" in said.stderr


def test_a_workspaces_classifier_is_scored_on_any_file_by_its_name(finished: Job, tmp_path: Path) -> None:
    workspace = find_workspace(finished.folder.parents[2])
    write_rows(tmp_path / "more.jsonl", data(9, start=5000))
    found = evaluate_system(
        find_system(workspace, "bert-distilled"), tmp_path / "more.jsonl", ["accuracy", "macro_f1", "latency"]
    )
    assert (found["accuracy"], found["macro_f1"], found["n"]) == (1.0, 1.0, 9)
    assert found["latency"] > 0


def test_a_kill_while_labels_are_scored_or_learned_is_made_good_by_the_next_run(
    tmp_path: Path, teacher_folder: Path, bert_folder: Path
) -> None:
    job = made_job(tmp_path, str(bert_folder), teacher=str(teacher_folder), validation={"checks": []},
                   data={"train": "gold.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
                   train={"epochs": 2, "batch_size": 12, "validations": 1})  # fmt: skip
    write_rows(tmp_path / "gold.jsonl", data(150))
    (tmp_path / "job.json").write_text(json.dumps(job.resolved()))
    script = (
        "import json, os, signal, sys; from pathlib import Path\n"
        "from potstill.job import Job; from potstill.pipeline import run_job; from potstill.label_scores import LabelStore\n"
        "add = LabelStore.add\n"
        "def once(self, scores): add(self, scores); os.kill(os.getpid(), signal.SIGKILL)\n"
        "LabelStore.add = once\n"
        "run_job(Job(folder=Path(sys.argv[1]), **json.loads((Path(sys.argv[1]) / 'job.json').read_text())))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    (place,) = job.signals_path.glob("labels-*/scores.jsonl")
    assert len(list(read_rows(place))) == 64
    run_job(job)
    assert [event["rows"] for event in events(job, "captured")] == [150 - 64]
    assert len(list(read_rows(place))) == 150


def test_train_inputs_tell_a_head_of_labels_from_a_text_student(tmp_path: Path, student_folder: Path) -> None:
    one, other = (made_job(tmp_path, {"model": str(student_folder), "head": head}) for head in ("text", "labels"))
    assert train.inputs(one) != train.inputs(other)
