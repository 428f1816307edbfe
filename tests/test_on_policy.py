"""Rows with the student's own answers: which ones, what they cost, and equal results however a run is batched or broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from processes import in_two_processes, killed_and_resumed
from test_training import encoded, largest_gap, training, weights
from torch.nn import functional

from potstill.batches import Row, make_batches
from potstill.feeding import Shuffled
from potstill.on_policy import OnPolicy
from potstill.plugins import load_plugin
from potstill.recipe import OnPolicySettings, StudentSettings
from potstill.refill import Writer
from potstill.rendering import load_tokenizer
from potstill.runfolder import read_rows
from potstill.student import load_model
from potstill.teacher_signals import LiveSignals, SignalShape
from potstill.training import Training, train
from potstill.types import Sampling


def learning(teacher: Path, student: Path, tmp_path: Path, own: dict[str, Any] | None, **settings: Any) -> Training:
    """20 rows by reverse KL with a live teacher."""
    kind = settings.pop("kind", "reverse_kl")
    on_policy = None if own is None else OnPolicySettings(**{"max_answer_tokens": 12, "cold_start": 0, **own})
    base = training(student, tmp_path, on_policy=on_policy, **settings)
    num_words = max(load_tokenizer(str(teacher)).get_vocab().values()) + 1
    shape = SignalShape(64, base.settings.temperature, 512, whole=True)
    signals = LiveSignals(load_model(str(teacher), device="cpu", dtype=torch.float32), num_words, shape)
    losses = tuple(load_plugin("losses", one) for one in (kind if isinstance(kind, list) else [kind]))
    return replace(base, losses=losses, signals=signals)


def steps_of(tmp_path: Path) -> list[dict[str, Any]]:
    return [event for event in read_rows(tmp_path / "run" / "events.jsonl") if event["event"] == "step"]


def feed(student: Path, rows: list[Row], batch_size: int = 8, num_steps: int = 9, **own: Any) -> OnPolicy:
    tokenizer, model = load_tokenizer(str(student)), load_model(str(student), device="cpu", dtype=torch.float32)
    settings = OnPolicySettings(**{"max_answer_tokens": 6, "cold_start": 0, **own})
    writer = Writer(model, tokenizer, Sampling(temperature=settings.temperature))
    given = Shuffled(rows, batch_size, seed=5)
    return OnPolicy(given, settings, 5, num_steps, writer, 512, Accelerator(cpu=True))


def answers(rows: Any) -> list[list[int]]:
    return [row.answer.tolist() for row in rows]


def test_lambda_0_is_the_training_without(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    train(learning(teacher_folder, student_folder, tmp_path / "off", None))
    train(learning(teacher_folder, student_folder, tmp_path / "none", {"share": 0}))
    train(learning(teacher_folder, student_folder, tmp_path / "cold", {"share": 1, "cold_start": 1}))
    for name in ("none", "cold"):
        assert largest_gap(weights(tmp_path / "off"), weights(tmp_path / name)) == 0
        assert not any("own_samples" in step for step in steps_of(tmp_path / name))


def test_after_the_cold_start_lambda_1_replaces_all_answers_and_no_prompt(student_folder: Path) -> None:
    rows = encoded(student_folder, 20)
    made = feed(student_folder, rows, share=1, cold_start=0.5)
    assert made.begins == 5
    for step in range(9):
        given, found = made.given.rows_of(step), made.rows_of(step)
        assert [row.own for row in found] == [step >= 5] * len(given)
        assert [row.prompt.tolist() for row in found] == [row.prompt.tolist() for row in given]
        if step >= 5:
            assert answers(found) != answers(given)
        else:
            assert found == given


def test_a_share_of_the_rows_is_replaced_by_seed_and_step_alone(student_folder: Path) -> None:
    rows = encoded(student_folder, 20)
    one, other = (feed(student_folder, rows, share=0.3, num_steps=60, max_answer_tokens=1) for _ in range(2))
    marks = [[row.own for row in one.rows_of(step)] for step in range(60)]
    assert marks[40] == [row.own for row in other.rows_of(40)]
    assert 0.2 < np.mean([mark for step in marks for mark in step]) < 0.4
    assert answers(one.rows_of(59)) == answers(other.rows_of(59))


def test_an_answer_ends_with_the_end_token_or_at_its_limit_without_one(student_folder: Path) -> None:
    rows = encoded(student_folder, 20)
    made = feed(student_folder, rows, share=1)
    assert made.writer.mixes
    end = load_tokenizer(str(student_folder)).eos_token_id
    made.writer.stops = frozenset(range(0, 320, 8)) | {end}  # so that some answers end early
    found = made.rows_of(0)
    ended = [row for row in found if int(row.answer[-1]) in made.writer.stops]
    assert 0 < len(ended) < len(found)
    assert all(len(row.answer) == 6 for row in found if int(row.answer[-1]) not in made.writer.stops)
    assert all(set(row.answer[:-1].tolist()).isdisjoint(made.writer.stops) for row in found)
    assert made.told(found) == {
        "own_samples": len(found),
        "own_tokens": round(sum(len(row.answer) for row in found) / len(found), 1),
        "own_truncated": round(1 - len(ended) / len(found), 4),
    }
    made.writer.stops = frozenset(range(320))
    made._drawn.clear()
    empty = made.rows_of(0)
    assert [len(row.answer) for row in empty] == [1] * len(empty), "the end of turn of an empty answer is scored"


def test_own_answers_keep_within_the_longest_row(student_folder: Path) -> None:
    rows = encoded(student_folder, 20)
    made = feed(student_folder, rows, share=1, max_answer_tokens=40)
    made.max_length = max(len(row.prompt) for row in rows) + 3
    found = made.rows_of(0)
    assert max(row.length for row in found) == made.max_length
    assert {len(row.answer) for row in found} != {40}


def test_steps_sampled_at_once_are_the_same_after_a_restart_between_them(student_folder: Path) -> None:
    rows = encoded(student_folder, 20)
    made = feed(student_folder, rows, share=0.5, steps_at_once=3, cold_start=0.1)
    whole = [answers(made.rows_of(step)) for step in range(3)]
    waiting = made.waiting(3)
    assert sorted(waiting) == ["3"]
    made_again = feed(student_folder, rows, share=0.5, steps_at_once=3, cold_start=0.1)
    made_again.restore(waiting)
    with torch.no_grad():
        made_again.writer.model.get_input_embeddings().weight.mul_(0)  # other weights: it would sample other answers
    assert answers(made_again.rows_of(3)) == answers(made.rows_of(3))
    assert made.waiting(4) == {}
    assert len(whole) == 3


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_the_loss_of_own_answers_is_that_of_plain_torch_on_all_logits(
    teacher_folder: Path, student_folder: Path, tmp_path: Path, kind: str
) -> None:
    """Text is not taught: cross entropy beside it, of whatever weight, adds nothing."""
    losses = [{"kind": "cross_entropy", "weight": 5}, {"kind": kind, "weight": 0.5}]
    base = learning(teacher_folder, student_folder, tmp_path, {"share": 1}, kind=losses, epochs=1, batch_size=20, temperature=2.0)
    made = feed(student_folder, list(base.rows), batch_size=20, share=1, max_answer_tokens=12)
    made.seed, made.given = 0, Shuffled(base.rows, 20, 0)
    student, teacher = (load_model(str(place), device="cpu", dtype=torch.float32) for place in (student_folder, teacher_folder))
    total, count = 0.0, 0
    for row in made.rows_of(0):
        ids = torch.from_numpy(np.concatenate([row.prompt, row.answer]).astype(np.int64))[None]
        with torch.no_grad():
            q, p = ((model(ids).logits[0, len(row.prompt) - 1 : -1].double() / 2).log_softmax(1) for model in (student, teacher))
        m = torch.logaddexp(p, q) - np.log(2)
        kl = {"forward_kl": [(p, q, 1.0)], "reverse_kl": [(q, p, 1.0)], "jensen_shannon": [(p, m, 0.5), (q, m, 0.5)]}[kind]
        total += sum(w * float(functional.kl_div(b, a, reduction="sum", log_target=True)) for a, b, w in kl)
        count += len(row.answer)
    train(base)
    (step,) = steps_of(tmp_path)
    assert step["own_samples"] == 20
    assert step["loss"] == pytest.approx(0.5 * 4 * total / count, rel=1e-4)


def test_text_of_the_given_rows_is_taught_beside_own_answers(student_folder: Path) -> None:
    rows = [row._replace(own=number % 2 == 0, weight=2.0) for number, row in enumerate(encoded(student_folder, 4))]
    (batch,) = make_batches(rows, range(4), token_budget=1000, packing=True, pad_id=0)
    moved = batch.to("cpu")
    assert moved.text_N is not None
    assert moved.text_N.tolist() == [0.0 if rows[n].own else 2.0 for n in batch.numbers for _ in rows[n].answer]
    assert moved.weight_N is not None
    assert set(moved.weight_N.tolist()) == {2.0}


@pytest.mark.parametrize("change", [{"micro_batch_tokens": 16}, {"packing": False}, {"packing": False, "micro_batch_tokens": 64}])
def test_micro_batches_and_packing_never_change_the_weights(
    teacher_folder: Path, student_folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    kind = ["cross_entropy", "reverse_kl"]
    train(learning(teacher_folder, student_folder, tmp_path / "a", {}, kind=kind))
    train(learning(teacher_folder, student_folder, tmp_path / "b", {}, kind=kind, **change))
    assert any("own_samples" in step for step in steps_of(tmp_path / "a"))
    assert largest_gap(weights(tmp_path / "a"), weights(tmp_path / "b")) < 2e-5


def test_adapters_and_activations_made_anew_learn_from_own_answers(
    teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    student = StudentSettings(model=str(student_folder), adaptation="lora", lora={"rank": 4, "alpha": 8})  # type: ignore[arg-type]
    for name, anew in (("kept", False), ("anew", True)):
        base = learning(teacher_folder, student_folder, tmp_path / name, {"share": 1}, gradient_checkpointing=anew)
        train(replace(base, student=student))
        assert all(step["own_samples"] > 0 for step in steps_of(tmp_path / name))
    assert largest_gap(weights(tmp_path / "kept"), weights(tmp_path / "anew")) < 2e-5


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_run_killed_at_any_moment_ends_with_the_weights_of_an_unbroken_one(
    teacher_folder: Path, student_folder: Path, tmp_path: Path, at_once: int
) -> None:
    code = (
        "from pathlib import Path; from test_on_policy import learning, train\n"
        f"own = {{'share': 0.7, 'cold_start': 0.2, 'steps_at_once': {at_once}}}\n"
        "train(learning(*map(Path, sys.argv[1:]), own, epochs=16, checkpoint_every=5))"
    )
    events = tmp_path / "killed" / "run" / "events.jsonl"
    killed_and_resumed(tmp_path, code, events, [17, 40], teacher_folder, student_folder, tmp_path / "killed")
    assert any("resumed" in event.get("message", "") for event in read_rows(events))
    own = {"share": 0.7, "cold_start": 0.2, "steps_at_once": at_once}
    train(learning(teacher_folder, student_folder, tmp_path / "unbroken", own, epochs=16, checkpoint_every=5))
    assert largest_gap(weights(tmp_path / "killed"), weights(tmp_path / "unbroken")) < 1e-6


def test_two_processes_end_with_the_weights_of_one(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from test_on_policy import learning, train\n"
        "train(learning(*map(Path, sys.argv[1:]), {'share': 0.6, 'steps_at_once': 2}, batch_size=7))"
    )
    in_two_processes(tmp_path, code, teacher_folder, student_folder, tmp_path / "two")
    train(learning(teacher_folder, student_folder, tmp_path / "one", {"share": 0.6, "steps_at_once": 2}, batch_size=7))
    told = [
        [(step["own_samples"], step["own_tokens"], round(step["loss"], 4)) for step in steps_of(tmp_path / name)]
        for name in ("one", "two")
    ]
    assert told[0] == told[1]
    assert largest_gap(weights(tmp_path / "one"), weights(tmp_path / "two")) < 2e-5


def test_a_students_own_answers_come_nearer_to_the_teachers(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    base = learning(teacher_folder, student_folder, tmp_path, {"share": 1}, epochs=20, learning_rate=5e-3)
    train(base)
    losses = [step["loss"] for step in steps_of(tmp_path)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
