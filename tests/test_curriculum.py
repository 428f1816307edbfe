"""Easy rows come first, every row is seen, and what a step learns depends on the seed and the rows alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import in_two_processes, killed_and_resumed
from safetensors.torch import load_file
from test_teacher_signals import DRAWN, captured, local, some_rows
from test_training import largest_gap, training, weights

from potstill.batches import Row
from potstill.curriculum import Paced, competence, entropies, lengths, unsureness
from potstill.errors import JobError
from potstill.job import Job
from potstill.labels import LabelSignals
from potstill.plugins import load_plugin
from potstill.rendering import load_tokenizer
from potstill.runfolder import RunFolder, read_rows, write_rows
from potstill.stages import capture as capture_stage
from potstill.stages import train as train_stage
from potstill.student import load_model
from potstill.teacher_signals import StoredSignals
from potstill.training import train
from potstill.types import Example, Lesson, Message


def numbered(count: int) -> list[Row]:
    return [Row(np.array([number], dtype=np.int32), np.array([1], dtype=np.int32)) for number in range(count)]


def drawn(feed: Paced, num_steps: int) -> list[list[int]]:
    return [[int(row.prompt[0]) for row in feed.rows_of(step)] for step in range(num_steps)]


def test_the_pool_grows_with_the_square_root() -> None:
    """Platanios et al., c0 = 0.01, by hand: at half of the way sqrt(0.5 x 0.9999 + 0.0001)."""
    assert competence(0, 101) == pytest.approx(0.01)
    assert competence(50, 101) == pytest.approx(math.sqrt(0.5 * 0.9999 + 0.0001))
    assert competence(100, 101) == competence(7000, 101) == 1.0
    assert competence(0, 1) == 1.0


@given(
    rows=st.integers(1, 60),
    batch=st.integers(1, 9),
    epochs=st.floats(1, 4),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 5),
)
def test_every_row_is_seen_and_none_before_its_time(rows: int, batch: int, epochs: float, share: float, seed: int) -> None:
    num_steps = math.ceil(epochs * math.ceil(rows / batch))
    growing = max(1, round(share * num_steps))
    steps = drawn(Paced(numbered(rows), list(range(rows)), batch, seed, growing), num_steps)
    assert {number for step in steps for number in step} == set(range(rows))
    for place, step in enumerate(steps):
        assert len(step) == len(set(step)) == min(batch, rows), "a full batch, and no row twice"
        assert max(step) < max(batch, math.ceil(competence(place, growing) * rows))


def test_one_epoch_has_every_row_once_and_easy_ones_first() -> None:
    steps = drawn(Paced(numbered(100), list(range(100)), 10, 0, 10), 10)
    assert sorted(number for step in steps for number in step) == list(range(100))
    means = [sum(step) / 10 for step in steps]
    assert max(means[:3]) < min(means[7:])


def test_once_all_rows_are_in_each_pass_has_every_row_once() -> None:
    steps = drawn(Paced(numbered(20), list(range(20)), 5, 0, 1), 12)
    for start in range(0, 12, 4):
        assert Counter(number for step in steps[start : start + 4] for number in step) == Counter(range(20))


def test_a_step_is_the_same_whenever_it_is_asked_for_and_another_seed_draws_others() -> None:
    wanted = drawn(Paced(numbered(50), [n % 5 for n in range(50)], 4, 3, 20), 40)
    late = Paced(numbered(50), [n % 5 for n in range(50)], 4, 3, 20)
    assert [int(row.prompt[0]) for row in late.rows_of(33)] == wanted[33]
    assert [int(row.prompt[0]) for row in late.rows_of(2)] == wanted[2]
    assert drawn(Paced(numbered(50), [n % 5 for n in range(50)], 4, 4, 20), 40) != wanted


def test_rows_that_are_equally_hard_stand_in_no_order() -> None:
    first = drawn(Paced(numbered(1000), [0.0] * 1000, 8, 0, 1000), 1)[0]
    assert max(first) > 200, "the first rows of the file would teach whatever the file begins with"


def test_short_answers_are_easy_and_of_equal_ones_those_with_short_prompts() -> None:
    def row(prompt: int, answer: int) -> Row:
        return Row(np.zeros(prompt, dtype=np.int32), np.zeros(answer, dtype=np.int32))

    rows = [row(1, 3), row(9, 1), row(2, 1), row(500, 2)]
    assert sorted(range(4), key=lengths(rows).__getitem__) == [2, 1, 3, 0]


def test_entropy_counts_the_tail_as_one_cell() -> None:
    """By hand: a half and a quarter leave a quarter, 1.5 bits; a sure token has none; nothing left is no cell."""
    logp = torch.tensor([[0.5, 0.25], [1.0, 0.0], [0.5, 0.5]]).log()
    np.testing.assert_allclose(entropies(logp).numpy(), np.array([1.5, 0.0, 1.0]) * math.log(2), atol=1e-6)


@pytest.mark.parametrize("draws", [None, 20])
def test_unsureness_is_the_mean_entropy_of_what_is_kept_of_each_row(
    draws: int | None, teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    """Against the whole softened distribution, row by row: top 320 of 320 words are all of it, and draws are near it."""
    rows = some_rows(student_folder)
    num_words = max(load_tokenizer(str(student_folder)).get_vocab().values()) + 1
    shape = replace(DRAWN, draws=draws, top_k=num_words)
    signals = StoredSignals(captured(local(teacher_folder), rows, tmp_path, student_folder, shape))
    model, wanted = load_model(str(teacher_folder)), []
    for row in rows:
        ids = torch.from_numpy(np.concatenate([row.prompt, row.answer[:-1]]).astype(np.int64))[None]
        with torch.no_grad():
            logits = model(ids).logits[0, len(row.prompt) - 1 :, :num_words] / 2.0
        wanted.append(float(torch.distributions.Categorical(logits=logits).entropy().mean()))
    found = unsureness(signals, rows)
    if draws is None:
        assert found == pytest.approx(wanted, rel=2e-3)
    else:
        assert all(0 < one <= math.log(20) + 1e-6 for one in found)
        assert max(found) < min(wanted), "20 draws show at most 20 words, of a nearly flat teacher"


def test_labels_have_an_unsureness_too() -> None:
    rows = numbered(2)
    told = {row.digest(): np.log(np.array(p, dtype=np.float32)) for row, p in zip(rows, ([0.5, 0.5], [0.99, 0.01]), strict=True)}
    found = unsureness(LabelSignals(told), rows)
    assert found == pytest.approx([0.6931, 0.0560], abs=1e-4)


def test_two_processes_end_with_the_weights_of_one(student_folder: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from test_training import training, train\n"
        "train(training(Path(sys.argv[1]), Path(sys.argv[2]), batch_size=7, curriculum='length'))"
    )
    in_two_processes(tmp_path, code, student_folder, tmp_path / "two")
    train(training(student_folder, tmp_path / "one", batch_size=7, curriculum="length"))
    assert largest_gap(weights(tmp_path / "one"), weights(tmp_path / "two")) < 2e-5
    train(training(student_folder, tmp_path / "none", batch_size=7))
    assert largest_gap(weights(tmp_path / "one"), weights(tmp_path / "none")) > 1e-4


def taught_by_confidence(student: Path, teacher: Path, out: Path) -> None:
    base = training(student, out, epochs=30, checkpoint_every=4, curriculum="confidence", temperature=2.0)
    store = captured(local(teacher), list(base.rows), out, student, DRAWN)
    losses = (load_plugin("losses", "forward_kl"),)
    train(replace(base, losses=losses, signals=StoredSignals(store)))


def test_a_run_killed_and_resumed_equals_the_unbroken_one(student_folder: Path, teacher_folder: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from test_curriculum import taught_by_confidence\n"
        "taught_by_confidence(*map(Path, sys.argv[1:]))"
    )
    events = tmp_path / "killed" / "run" / "events.jsonl"
    killed_and_resumed(tmp_path, code, events, [9, 30], student_folder, teacher_folder, tmp_path / "killed")
    assert any("resumed" in event.get("message", "") for event in read_rows(events))
    taught_by_confidence(student_folder, teacher_folder, tmp_path / "unbroken")
    assert largest_gap(weights(tmp_path / "killed"), weights(tmp_path / "unbroken")) < 1e-6


def job(folder: Path, teacher: Path, **train: Any) -> Job:
    (folder / "train.jsonl").touch()
    return Job(
        folder=folder, name="run", task="conversation", data="train.jsonl", student="starter-student",
        teacher={"kind": "huggingface", "model": str(teacher)}, train={"curriculum": "confidence", **train},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"losses": ["cross_entropy"]}, "keeps no teacher's log-probabilities.*set it to length"),
        ({"losses": ["cross_entropy", "hidden_mse"]}, "keeps no teacher's log-probabilities"),
        ({"signals": "live"}, "train.signals is live; set train.signals to auto"),
    ],
)
def test_confidence_without_kept_signals_is_refused_when_the_job_is_loaded(
    settings: dict[str, Any], told: str, teacher_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=f"train.curriculum is confidence.*{told}"):
        job(tmp_path, teacher_folder, **settings)
    assert job(tmp_path, teacher_folder).train.curriculum == "confidence"
    assert job(tmp_path, teacher_folder, losses=["cross_entropy"], curriculum="length").train.curriculum_share == 0.5


def test_a_jobs_confidence_orders_its_student_and_not_its_control(
    teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").touch()
    found: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
    for curriculum in ("none", "confidence"):
        settings = {"curriculum": curriculum, "epochs": 2, "batch_size": 3, "validations": 1, "learning_rate": 1e-2}
        made = Job(
            folder=tmp_path, name=curriculum, task="conversation", data="train.jsonl", student=str(student_folder),
            teacher={"kind": "huggingface", "model": str(teacher_folder)}, train=settings,
        )  # fmt: skip
        folder = RunFolder(made.run_path)
        examples = [Example(str(n), (Message("user", f"Row {n}?"),)) for n in range(9)]
        lessons = [Lesson(example, "yes, please " * (1 + n % 4), "teacher") for n, example in enumerate(examples)]
        write_rows(folder.answers / "kept.jsonl", (lesson.as_dict() for lesson in lessons))
        for place in (folder.answers / "validation.jsonl", folder.data / "validation.jsonl"):
            write_rows(place, [])
        capture_stage.run(made, folder)
        train_stage.run(made, folder)
        found[curriculum] = {
            role: load_file(place / "model.safetensors")
            for role, place in (("student", folder.model), ("control", folder.control))
        }
    assert largest_gap(found["none"]["control"], found["confidence"]["control"]) == 0
    assert largest_gap(found["none"]["student"], found["confidence"]["student"]) > 1e-4
