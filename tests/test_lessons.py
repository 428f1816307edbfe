"""Lessons as token ids: prompts by their aim, weights, and what a teacher is asked where it is more than the student."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from potstill.batches import make_batches
from potstill.errors import JobFailedError
from potstill.lessons import encode_lessons
from potstill.plugins import load_plugin
from potstill.progress import Progress
from potstill.rendering import load_tokenizer, prompt_ids
from potstill.runfolder import RunFolder
from potstill.student import load_model
from potstill.teacher_signals import LiveSignals, SignalShape, StoredSignals, capture, open_store
from potstill.types import Example, Lesson, Message

TASK = load_plugin("tasks", {"kind": "nli", "chain_of_thought": {"student_learns": "rationale_then_answer"}})
SHAPE = SignalShape(top_k=12, temperature=1.0, token_budget=256)


def row(number: int) -> Example:
    return Example(str(number), (Message("user", "A man walks. " * (1 + number % 3) + f"Row {number}?"),))


def lessons(count: int) -> list[Lesson]:
    """Gold rows and a teacher's reasoned ones, in turns."""
    reasoned = [one for n in range(count) for one in TASK.taught(row(n), f"{'He moves. ' * (n % 4 + 1)}\nAnswer: entailment")]
    return [
        Lesson(row(n), one.text, "teacher", one.aim, one.weight) if n % 2 else Lesson(row(n), "neutral", "gold")
        for n, one in enumerate(reasoned)
    ]


def test_each_aim_has_its_prompt_and_each_lesson_its_weight(student_folder: Path) -> None:
    tokenizer = load_tokenizer(str(student_folder))
    told = [
        Lesson(row(1), "entailment", "teacher"),
        Lesson(row(1), "He moves.", "teacher", "rationale", 0.25),
        Lesson(row(1), "He moves.", "teacher", "rationale", 0.0),
    ]
    rows = encode_lessons(told, TASK, tokenizer, 512).rows
    assert [one.weight for one in rows] == [1.0, 0.25], "a lesson that counts for nothing is not learned"
    assert rows[0].prompt.tolist() == prompt_ids(tokenizer, row(1).messages)
    assert rows[1].prompt.tolist() == prompt_ids(tokenizer, TASK.prompt(row(1), "rationale"))
    assert rows[0].prompt.tolist() != rows[1].prompt.tolist()


def test_only_reasoning_that_the_student_is_not_asked_for_has_a_teachers_prompt_of_its_own(student_folder: Path) -> None:
    tokenizer = load_tokenizer(str(student_folder))
    rows = encode_lessons(lessons(4), TASK, tokenizer, 512).rows
    assert [one.asked is not None for one in rows] == [False, True, False, True]
    assert rows[1].prompt.tolist() == prompt_ids(tokenizer, row(1).messages)
    assert rows[1].as_asked().prompt.tolist() == prompt_ids(tokenizer, TASK.teacher_prompt(row(1)))
    assert rows[1].digest() != rows[1]._replace(asked=None).digest()
    assert rows[0].digest() == rows[0]._replace(weight=0.5).digest()


@pytest.mark.parametrize("packing", [True, False])
def test_a_teacher_scores_reasoning_under_the_prompt_that_asks_for_it(
    teacher_folder: Path, student_folder: Path, tmp_path: Path, packing: bool
) -> None:
    """As the teacher's model alone says it, row by row; live as from the disk, packed as padded."""
    tokenizer = load_tokenizer(str(student_folder))
    rows = encode_lessons(lessons(9), TASK, tokenizer, 512).rows
    model = load_model(str(teacher_folder))
    teacher = load_plugin("teachers", {"kind": "huggingface", "model": str(teacher_folder)})
    live = LiveSignals(model, len(tokenizer), SHAPE)
    store = open_store(teacher, tokenizer, tmp_path / "signals", SHAPE)
    with Progress(RunFolder(tmp_path / "run"), "capture", len(rows)) as bar:
        assert capture(teacher, tokenizer, rows, store, SHAPE, bar) == len(rows)
    for batch in make_batches(rows, range(9), token_budget=256, packing=packing, pad_id=0):
        sizes = [len(rows[number].answer) for number in batch.numbers]
        both = (live.cells(batch, rows), StoredSignals(store).cells(batch, rows))
        for number, *parts in zip(batch.numbers, *(cells.logp_NK.split(sizes) for cells in both), strict=True):
            seen = rows[number].as_asked()
            ids = torch.tensor([[*seen.prompt.tolist(), *seen.answer.tolist()]])
            with torch.no_grad():
                logp = torch.log_softmax(model(ids).logits[0, len(seen.prompt) - 1 : -1].float(), -1)
            for part in parts:
                found = part.sort(descending=True).values  # the disk keeps no order, and a probability to 0.1%
                torch.testing.assert_close(found, logp.topk(12).values, atol=1e-3, rtol=1e-4)


def test_lessons_that_are_all_too_long_say_what_to_do(student_folder: Path) -> None:
    with pytest.raises(JobFailedError, match=r"raise student\.max_length"):
        encode_lessons(lessons(3), TASK, load_tokenizer(str(student_folder)), 8)
