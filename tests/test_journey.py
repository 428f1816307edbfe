"""Whole jobs from a file to a report: the starter pack, an adapted teacher, LoRA, live signals, and a second run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import save_llama

from potstill.errors import JobFailedError
from potstill.job import Job, load_job
from potstill.pipeline import JOURNEY, plan_job, run_job
from potstill.runfolder import count_rows, read_json, read_rows, write_rows
from potstill.starter import rows

NUMBERS = (
    "parameters",
    "accuracy",
    "latency_p50_s",
    "latency_p95_s",
    "memory_bytes",
    "size_bytes",
    "throughput_per_s",
    "tokens_per_s",
)


def write_data(folder: Path, task: str, sizes: dict[str, int]) -> None:
    for split, count in sizes.items():
        write_rows(folder / f"{split}.jsonl", rows(task, split, count))


def job_file(folder: Path, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "name": "journey",
        "task": "nli",
        "data": {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl", "max_gold_rows": 8},
        "generate": {"min_kept_share": 0.0},
        "train": {"epochs": 1, "batch_size": 8, "validations": 1, "validation_rows": 4},
        "evaluate": {"latency_rows": 2, "bootstrap_samples": 100},
        **changes,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def events(job: Job, name: str) -> list[dict[str, Any]]:
    return [event for event in read_rows(job.run_path / "events.jsonl") if event["event"] == name]


def test_the_starter_pack_goes_from_a_job_file_to_a_report_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    write_data(tmp_path, "nli", {"train": 24, "validation": 6, "test": 8})
    job = load_job(job_file(tmp_path, teacher="starter-teacher", student="starter-student"))
    folder = run_job(job)
    report = json.loads((folder.path / "report.json").read_text())
    assert set(report["systems"]) >= {"teacher", "baseline", "control", "student"}
    for name in ("teacher", "baseline", "control", "student"):
        system = report["systems"][name]
        assert all(number in system for number in NUMBERS), (name, system)
        assert system["accuracy"]["n"] == 8
        assert 0 <= system["accuracy"]["low"] <= system["accuracy"]["value"] <= system["accuracy"]["high"] <= 1
        assert system["latency_p95_s"] >= system["latency_p50_s"] > 0
        assert isinstance(system["parameters"], int)
        assert system["size_bytes"] > 2 * system["parameters"] * 0.9
        assert count_rows(folder.evaluation / f"{name}.jsonl") == 8
    people = report["performance_comparison"]["student"]
    assert set(people) >= {"parameters", "memory_usage", "inference_time", "accuracy", "throughput"}
    assert report["systems"]["student"]["parameters"] * 4 <= report["systems"]["teacher"]["parameters"]
    page = (folder.path / "report.html").read_text()
    assert report["verdict"].split(";")[0].split("(")[0].strip()[:20] in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (folder.exports / "safetensors" / "model.safetensors").is_file()
    before = (folder.path / "report.json").read_bytes()
    run_job(load_job(tmp_path / "job.yaml"))
    assert [event["stage"] for event in events(job, "stage_skipped")] == [stage for stage, _ in JOURNEY]
    assert (folder.path / "report.json").read_bytes() == before


def test_a_changed_setting_redoes_only_what_it_decides(tmp_path: Path, teacher_folder: Path, student_folder: Path) -> None:
    write_data(tmp_path, "nli", {"train": 12, "validation": 4, "test": 4})
    path = job_file(tmp_path, teacher=str(teacher_folder), student=str(student_folder), validation={"checks": ["empty"]})
    run_job(load_job(path))
    plan = {stage.stage: stage.done for stage in plan_job(load_job(path, ["train.epochs=2"]))}
    assert [stage for stage, done in plan.items() if done] == ["prepare", "adapt", "invent", "generate", "validate", "capture"]
    assert all(stage.done for stage in plan_job(load_job(path)))


def test_what_was_deleted_or_replaced_is_made_again(tmp_path: Path, teacher_folder: Path, student_folder: Path) -> None:
    write_data(tmp_path, "nli", {"train": 12, "validation": 4, "test": 4})
    student = tmp_path / "student"
    shutil.copytree(student_folder, student)
    path = job_file(tmp_path, teacher=str(teacher_folder), student="./student", validation={"checks": ["empty"]})
    folder = run_job(load_job(path))
    shutil.rmtree(load_job(path).signals_path)
    run_job(load_job(path, ["train.learning_rate=1e-4"]))
    shutil.rmtree(folder.answers)
    shutil.rmtree(folder.data)
    assert not plan_job(load_job(path, ["train.learning_rate=1e-4"]))[0].done
    run_job(load_job(path, ["train.learning_rate=1e-4"]))
    assert all(stage.done for stage in plan_job(load_job(path, ["train.learning_rate=1e-4"])))
    shutil.copyfile(save_llama(tmp_path / "other", seed=9) / "model.safetensors", student / "model.safetensors")
    plan = {stage.stage: stage.done for stage in plan_job(load_job(path, ["train.learning_rate=1e-4"]))}
    assert plan["validate"]
    assert not plan["train"]


@pytest.mark.parametrize("signals", ["sampled", "top_k", "live"])
def test_an_adapted_teacher_and_a_lora_student_make_the_journey(
    tmp_path: Path, teacher_folder: Path, student_folder: Path, signals: str
) -> None:
    write_data(tmp_path, "nli", {"train": 16, "validation": 4, "test": 4})
    path = job_file(
        tmp_path,
        evaluate={"latency_rows": 2, "bootstrap_samples": 100, "baseline": False},
        teacher={"model": str(teacher_folder), "adapt": {"data": ["train.jsonl"], "epochs": 2, "batch_size": 8}},
        student={"model": str(student_folder), "adaptation": "lora", "lora": {"rank": 4, "alpha": 8}},
        validation={"checks": ["empty"]},
        train={"epochs": 1, "batch_size": 8, "validations": 1, "signals": signals, "temperature": 2.0},
    )
    job = load_job(path)
    folder = run_job(job)
    roles = [event["role"] for event in events(job, "trained")]
    assert roles == ["teacher", "student", "control"]
    assert (folder.teacher / "model.safetensors").is_file()
    scores = read_json(folder.path / "report.json")["systems"]
    assert scores["teacher"]["accuracy"]["n"] == 4
    kept = list(read_rows(folder.answers / "kept.jsonl"))
    assert sum(row["target_source"] == "gold" for row in kept) == 8


def test_a_changed_run_that_fails_shows_no_report_of_the_old_settings(
    tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    write_data(tmp_path, "nli", {"train": 12, "validation": 4, "test": 4})
    few = {"latency_rows": 2, "bootstrap_samples": 100, "baseline": False, "control": False}
    checks = {"checks": ["empty"]}
    path = job_file(tmp_path, teacher=str(teacher_folder), student=str(student_folder), validation=checks, evaluate=few)
    folder = run_job(load_job(path))
    assert (folder.path / "report.json").is_file()
    assert all(stage.done for stage in plan_job(load_job(path)))
    with pytest.raises(JobFailedError, match="diverged"):
        run_job(load_job(path, ["train.learning_rate=1e30", "train.epochs=4"]))
    assert not (folder.path / "report.json").exists()
    assert not (folder.path / "report.html").exists()
