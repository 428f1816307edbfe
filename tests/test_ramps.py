"""Weights and temperature of a step: straight lines that depend on the step alone, exact in value and gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_llama
from processes import killed_and_resumed
from test_teacher_signals import local
from test_training import encoded, largest_gap, training, weights

from potstill.batches import make_batches
from potstill.errors import JobError
from potstill.job import Job
from potstill.objective import Objective
from potstill.plugins import load_plugin
from potstill.ramps import Ramps, ramps_at
from potstill.recipe import TrainSettings
from potstill.rendering import load_tokenizer
from potstill.runfolder import read_rows
from potstill.student import load_model
from potstill.teacher_signals import LiveSignals, MixedSignals, SignalShape, live_signals
from potstill.training import train
from potstill.transfer import TeacherInsides

WHOLE = SignalShape(1, 4.0, 512, whole=True)


def losses(*chosen: Any) -> tuple[Any, ...]:
    return tuple(load_plugin("losses", one) for one in chosen)


RAMPED = losses({"kind": "cross_entropy", "weight": 0.2, "final_weight": 1.0}, {"kind": "forward_kl", "weight": 0.8})


def test_values_go_in_a_straight_line_and_stay_at_their_end() -> None:
    settings = TrainSettings(temperature=4.0, final_temperature=1.0)
    assert [ramps_at(step, 5, settings, RAMPED) for step in (0, 2, 4)] == [
        Ramps((0.2, 0.8), 4.0), Ramps((pytest.approx(0.6), 0.8), 2.5), Ramps((1.0, 0.8), 1.0),
    ]  # fmt: skip
    half = TrainSettings(temperature=4.0, final_temperature=1.0, ramp_share=0.5)
    assert [ramps_at(step, 5, half, RAMPED).temperature for step in range(5)] == [4.0, 2.5, 1.0, 1.0, 1.0]
    assert ramps_at(0, 1, settings, RAMPED) == Ramps((0.2, 0.8), 4.0)
    assert ramps_at(3, 5, TrainSettings(temperature=2.0), losses("forward_kl")) == Ramps((1.0,), 2.0)


def test_a_steps_value_and_gradient_are_those_of_that_weight_and_temperature(student_folder: Path, teacher_folder: Path) -> None:
    """T^2 in both: a run that is at T = 2.5 equals a job whose temperature is 2.5."""
    rows = encoded(student_folder, 6)
    (batch,) = make_batches(rows, range(6), token_budget=10_000, packing=True, pad_id=0)
    live, insides = load_model(str(teacher_folder)), TeacherInsides(load_model(str(teacher_folder)))
    found = []
    for shares, temperature, ramps in (
        ((0.3, 0.7, 0.5), 2.5, None), ((1.0, 1.0, 9.0), 4.0, Ramps((0.3, 0.7, 0.5), 2.5)),
    ):  # fmt: skip
        kinds = zip(("cross_entropy", "forward_kl", "relation"), shares, strict=True)
        objective = Objective(
            load_model(str(student_folder)), 320, losses(*({"kind": kind, "weight": w} for kind, w in kinds)), temperature,
            insides.model,
        )  # fmt: skip
        if ramps is not None:
            objective.take(ramps)
        total, _ = objective(batch, objective.ask(batch, rows, LiveSignals(live, 320, WHOLE), insides))
        total.backward()
        found.append((total.detach(), [p.grad for p in objective.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other)


def test_a_mixture_of_live_teachers_is_softened_anew_at_each_step(
    student_folder: Path, teacher_folder: Path, phi3_folder: Path
) -> None:
    rows, tokenizer = encoded(student_folder, 6), load_tokenizer(str(student_folder))
    batch = make_batches(rows, range(6), token_budget=10_000, packing=True, pad_id=0)[0]
    teachers = [local(teacher_folder), local(phi3_folder)]
    ramped = live_signals(teachers, tokenizer, SignalShape(8, 4.0, 512))
    assert isinstance(ramped, MixedSignals)
    ramped.soften(1.5)
    fixed = live_signals(teachers, tokenizer, SignalShape(8, 1.5, 512))
    for one, other in zip(ramped.cells(batch, rows), fixed.cells(batch, rows), strict=True):
        torch.testing.assert_close(one, other)


def ramped_run(student: Path, teacher: Path, out: Path, **changes: Any) -> None:
    settings = {"epochs": 10, "checkpoint_every": 4, "temperature": 4.0, "final_temperature": 1.0, "ramp_share": 0.8, **changes}
    live = LiveSignals(load_model(str(teacher)), 320, WHOLE)
    train(replace(training(student, out, **settings), losses=RAMPED, signals=live))


def test_a_run_killed_and_resumed_equals_the_unbroken_one_and_its_steps_tell_what_they_used(
    student_folder: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    code = "from pathlib import Path; from test_ramps import ramped_run\nramped_run(*map(Path, sys.argv[1:]))"
    events = tmp_path / "killed" / "run" / "events.jsonl"
    killed_and_resumed(tmp_path, code, events, [9], student_folder, teacher_folder, tmp_path / "killed")
    assert any("resumed" in event.get("message", "") for event in read_rows(events))
    ramped_run(student_folder, teacher_folder, tmp_path / "unbroken")
    assert largest_gap(weights(tmp_path / "killed"), weights(tmp_path / "unbroken")) < 1e-6
    steps = [e for e in read_rows(tmp_path / "unbroken" / "run" / "events.jsonl") if e["event"] == "step"]
    assert (steps[0]["temperature"], steps[0]["weights"]) == (4.0, [0.2, 0.8])
    assert steps[15]["temperature"] == pytest.approx(4.0 - 3.0 * 15 / (0.8 * 29))
    assert (steps[-1]["temperature"], steps[-1]["weights"]) == (1.0, [1.0, 0.8])
    ramped_run(student_folder, teacher_folder, tmp_path / "level", final_temperature=None)
    assert largest_gap(weights(tmp_path / "level"), weights(tmp_path / "unbroken")) > 1e-5


def test_ramps_are_part_of_what_a_checkpoint_was_made_with(student_folder: Path, tmp_path: Path) -> None:
    base = training(student_folder, tmp_path)
    other = replace(base, losses=losses({"kind": "cross_entropy", "final_weight": 0.5}))
    warm = training(student_folder, tmp_path, final_temperature=2.0)
    assert len({one.identity(1e-3) for one in (base, other, warm)}) == 3


def job(folder: Path, **train: Any) -> Job:
    (folder / "train.jsonl").touch()
    teacher = {"kind": "huggingface", "model": str(save_llama(folder / "teacher"))}
    return Job(
        folder=folder,
        name="run",
        task="conversation",
        data="train.jsonl",
        student="starter-student",
        teacher=teacher,
        train=train,
    )


def test_a_final_temperature_without_a_live_teacher_is_refused_when_the_job_is_loaded(tmp_path: Path) -> None:
    for signals in ("auto", "top_k", "sampled"):
        with pytest.raises(JobError, match=r"final_temperature is 1, and kept signals are of one temperature; set .* to live"):
            job(tmp_path, temperature=4, final_temperature=1, signals=signals)
    with pytest.raises(JobError, match=r"no loss of this job has a temperature; leave it out"):
        job(tmp_path, final_temperature=1, losses=["cross_entropy"], signals="live")
    assert job(tmp_path, temperature=4, final_temperature=1, signals="live").train.final_temperature == 1
    kept = job(tmp_path, losses=["cross_entropy", {"kind": "forward_kl", "weight": 1, "final_weight": 0}])
    assert kept.train.losses[1].final_weight == 0
