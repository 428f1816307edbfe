"""Weights that are split over two processes learn what whole ones learn, and are whole again on the disk."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from processes import in_two_processes
from test_passes import tight
from test_training import COUNTS, largest_gap, training, weights

from potstill.errors import JobError, JobFailedError
from potstill.lessons import Quiz
from potstill.plugins import load_plugin
from potstill.recipe import StudentSettings
from potstill.runfolder import read_rows
from potstill.sharding import parted, wants_shards, whole
from potstill.student import load_model
from potstill.training import Training, train
from potstill.types import Example, Message

SPLIT = """
import os
from pathlib import Path
from test_sharding import *
os.environ["ACCELERATE_USE_FSDP"] = "true"
student, where = Path(sys.argv[1]), Path(sys.argv[2])
"""


def job(student: Path, where: Path, **settings: object) -> Training:
    """Seven rows a step in passes of at most 40 positions: one process has more passes than the other."""
    quiz = Quiz(load_plugin("tasks", "qa"), (Example("a", (Message("user", "hello"),), "hi"),))
    return replace(training(student, where, COUNTS, batch_size=7, micro_batch_tokens=40, **settings), score=quiz)


def steps(where: Path) -> list[tuple[int, float, float]]:
    events = read_rows(where / "run" / "events.jsonl")
    return [(e["step"], round(e["loss"], 4), round(e["gradient_norm"], 2)) for e in events if e["event"] == "step"]


def drop_newest(where: Path) -> None:
    shutil.rmtree(sorted((where / "run" / "checkpoints" / "student").glob("step-*"))[-1])


def test_split_weights_learn_as_whole_ones_and_go_on_after_a_break(student_folder: Path, tmp_path: Path) -> None:
    code = """
base = job(student, where, checkpoint_every=2)
train(base)
PartialState().wait_for_everyone()
if PartialState().is_main_process:
    drop_newest(where)
    (where / "split").write_text(str(wants_shards(Accelerator())))
PartialState().wait_for_everyone()
train(base)
"""
    in_two_processes(tmp_path, SPLIT + code, student_folder, tmp_path / "two")
    assert (tmp_path / "two" / "split").read_text() == "True"
    train(job(student_folder, tmp_path / "one", checkpoint_every=2))
    assert largest_gap(weights(tmp_path / "one"), weights(tmp_path / "two")) < 2e-5
    unbroken = steps(tmp_path / "one")
    assert steps(tmp_path / "two")[: len(unbroken)] == unbroken
    assert len(steps(tmp_path / "two")) > len(unbroken)
    drop_newest(tmp_path / "two")
    train(job(student_folder, tmp_path / "two", checkpoint_every=2))  # what two have written, one goes on with
    assert largest_gap(weights(tmp_path / "one"), weights(tmp_path / "two")) < 2e-5
    load_model(str(tmp_path / "two" / "run" / "model"))


def test_adapters_and_activations_made_anew_are_split_too(student_folder: Path, tmp_path: Path) -> None:
    code = "train(lora(student, where))"
    in_two_processes(tmp_path, SPLIT + code, student_folder, tmp_path / "two")
    train(lora(student_folder, tmp_path / "one"))
    assert largest_gap(weights(tmp_path / "one"), weights(tmp_path / "two")) < 2e-5


def lora(student: Path, where: Path) -> Training:
    settings = StudentSettings(model=str(student), adaptation="lora", lora={"rank": 4, "alpha": 8})  # type: ignore[arg-type]
    return replace(job(student, where, gradient_checkpointing=True), student=settings)


def test_memory_that_runs_out_ends_the_run_with_what_to_lower(student_folder: Path, tmp_path: Path) -> None:
    code = """
rank = PartialState().process_index
(where / str(rank)).mkdir(parents=True)
try:
    train(replace(job(student, where), losses=(tight(where / str(rank), 0),)))
except JobFailedError as error:
    (where / str(rank) / "said").write_text(str(error))
"""
    in_two_processes(tmp_path, SPLIT + code, student_folder, tmp_path / "two")
    for rank in ("0", "1"):
        assert "lower train.micro_batch_tokens" in (tmp_path / "two" / rank / "said").read_text()


def test_what_needs_the_model_whole_is_refused(student_folder: Path, tmp_path: Path) -> None:
    code = """
base = job(student, where, on_policy={})
try:
    train(base)
except JobError as error:
    where.mkdir(parents=True, exist_ok=True)
    (where / f"said{PartialState().process_index}").write_text(str(error))
"""
    in_two_processes(tmp_path, SPLIT + code, student_folder, tmp_path / "two")
    assert "launch without FSDP" in (tmp_path / "two" / "said0").read_text()


def test_one_process_splits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not wants_shards(Accelerator())
    tensor = torch.ones(3)
    assert parted(tensor, tensor) is tensor
    assert whole({"a": [tensor, 1]})["a"][0] is tensor


assert None not in (tight, JobError, JobFailedError)  # the code of the processes takes them from here
