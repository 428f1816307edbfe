"""Labelled rows, soft labels at a temperature, and a training on them: by hand, cut into pieces, killed and resumed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_bert
from processes import in_two_processes, killed_and_resumed
from safetensors.torch import load_file
from torch.nn import functional

from potstill.batches import make_batches
from potstill.classifier import load_classifier
from potstill.errors import JobFailedError
from potstill.labels import SMOOTHING, LabelQuiz, LabelSignals, SoftLabels, asked_key, encode_labels, read_of, softened
from potstill.plugins import load_plugin
from potstill.recipe import StudentSettings, TrainSettings
from potstill.rendering import load_tokenizer, plain_text, prompt_ids, read_ids
from potstill.runfolder import RunFolder, read_rows
from potstill.training import Training, train
from potstill.types import Example, Lesson, Message

TASK = load_plugin("tasks", "nli")
LABELS = TASK.labels_asked()
LOSSES = (
    load_plugin("losses", {"kind": "cross_entropy", "weight": 0.25}),
    load_plugin("losses", {"kind": "forward_kl", "weight": 0.75}),
)


def example(number: int) -> Example:
    words = ("A man walks.", "A person moves.", "The router", "apples are left.", "restart it", "Ten seconds")
    return Example(str(number), (Message("user", " ".join(words[(number * k) % 6] for k in range(1, 2 + number % 4))),))


def lessons(count: int) -> list[Lesson]:
    """Every third with served probabilities, every second heavier."""
    given = {0: dict(zip(LABELS, (0.7, 0.2, 0.1), strict=True))}
    return [
        Lesson(example(n), LABELS[n % 3], "teacher", weight=1.0 + n % 2, label_probabilities=given.get(n % 3))
        for n in range(count)
    ]


def training(folder: Path, place: Path, soft: bool = True, **settings: Any) -> Training:
    tokenizer = load_tokenizer(str(folder), reads_only=True)
    temperature = settings.pop("temperature", 4.0)
    rows, told = encode_labels(lessons(24), TASK, tokenizer, 128, SoftLabels(TASK, temperature, {}))
    fields = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "validations": 2, "temperature": temperature, **settings}
    held_out = encode_labels(lessons(4), TASK, tokenizer, 128).encoded.rows
    signals = LabelSignals(told)
    return Training(
        "student",
        StudentSettings(model=str(folder), head="labels"),
        TrainSettings(**fields),
        LOSSES if soft else LOSSES[:1],
        rows.rows,
        held_out,
        RunFolder(place / "run"),
        place / "run" / "model",
        signals=signals if soft else None,
        labels=LABELS,
        told=signals.digest() if soft else "",
    )


def weights(place: Path) -> dict[str, torch.Tensor]:
    return load_file(place / "run" / "model" / "model.safetensors")


def largest_gap(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Apart from the bias of BERT's keys, on which no softmax depends: its gradient is rounding, and Adam makes steps of it."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one if not name.endswith("self.key.bias"))


def test_a_classifier_reads_plain_text_between_its_own_tokens_or_its_chat_template(
    bert_folder: Path, student_folder: Path
) -> None:
    encoder, decoder = (load_tokenizer(str(folder), reads_only=True) for folder in (bert_folder, student_folder))
    messages = [Message("system", "Be brief."), Message("user", "A man walks.")]
    ids = read_ids(encoder, messages)
    assert (ids[0], ids[-1]) == (encoder.cls_token_id, encoder.sep_token_id)
    assert encoder.decode(ids, skip_special_tokens=True) == "Be brief.\n\nA man walks." == plain_text(messages)
    assert read_ids(decoder, messages) == prompt_ids(decoder, messages)


def test_the_rows_own_system_message_is_read_and_the_tasks_prompt_of_labels_is_not() -> None:
    task = load_plugin("tasks", {"kind": "nli", "system_prompt": "Say entailment, neutral or contradiction."})
    row = Example("1", (Message("system", "You are Ada."), Message("user", "A man walks.")))
    assert read_of(task, row) == row.messages
    assert "neutral" in task.prompt(row)[0].content
    assert asked_key(task, row) != asked_key(TASK, row)


def test_soft_labels_by_hand() -> None:
    """Log softmax of log p / T; what is served or counted gives 1% of its probability to all labels alike."""
    given = {"entailment": 0.7, "neutral": 0.2, "contradiction": 0.1}
    lesson = replace(lessons(1)[0], label_probabilities=given)
    smooth = [(1 - SMOOTHING) * p + SMOOTHING / 3 for p in given.values()]
    roots = [p**0.25 for p in smooth]
    found = SoftLabels(TASK, 4.0, {}).of(lesson, 0)
    assert np.exp(found) == pytest.approx([root / sum(roots) for root in roots], abs=1e-6)
    sure = np.exp(SoftLabels(TASK, 1.0, {}).of(replace(lesson, label_probabilities=None), 2))
    assert sure == pytest.approx([SMOOTHING / 3, SMOOTHING / 3, 1 - 2 * SMOOTHING / 3], abs=1e-6)
    scored = softened(np.array([-1.0, -2.0, -30.0]), 4.0)
    assert SoftLabels(TASK, 4.0, {asked_key(TASK, lesson.example): scored}).of(lesson, 0) is scored
    assert np.exp(scored).sum() == pytest.approx(1.0)
    assert scored[0] - scored[1] == pytest.approx(0.25)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_of_a_step_is_the_weighed_mean_by_hand(bert_folder: Path, tmp_path: Path, temperature: float) -> None:
    """0.25 CE + 0.75 T^2 KL(teacher at T || student at T), each row by its weight, in plain torch."""
    base = training(bert_folder, tmp_path, epochs=1, batch_size=24, micro_batch_tokens=64, temperature=temperature)
    tokenizer = load_tokenizer(str(bert_folder), reads_only=True)
    model = load_classifier(str(bert_folder), LABELS, tokenizer)
    total = count = 0.0
    for row, lesson in zip(base.rows, lessons(24), strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(row.prompt.astype(np.int64))[None]).logits[0].double()
        given = lesson.label_probabilities or {lesson.target: 1.0}
        smooth = torch.tensor([(1 - SMOOTHING) * given.get(label, 0.0) + SMOOTHING / 3 for label in LABELS]).double()
        p = torch.softmax(smooth.log() / temperature, 0)
        kl = float((p * (p.log() - torch.log_softmax(logits / temperature, 0))).sum())
        hard = -float(torch.log_softmax(logits, 0)[LABELS.index(lesson.target)])
        total += lesson.weight * (0.25 * hard + 0.75 * temperature**2 * kl)
        count += lesson.weight
    train(base)
    (step,) = [event for event in read_rows(tmp_path / "run" / "events.jsonl") if event["event"] == "step"]
    assert step["loss"] == pytest.approx(total / count, abs=1e-4)
    validation = next(event for event in read_rows(tmp_path / "run" / "events.jsonl") if event["event"] == "validation")
    after = load_classifier(str(tmp_path / "run" / "model"), LABELS, tokenizer)
    losses = []
    for row in base.validation:
        with torch.no_grad():
            logits = after(input_ids=torch.from_numpy(row.prompt.astype(np.int64))[None]).logits
        losses.append(row.weight * float(functional.cross_entropy(logits, torch.tensor([int(row.answer[0])]))))
    assert validation["loss"] == pytest.approx(sum(losses) / sum(row.weight for row in base.validation), abs=1e-4)


@pytest.mark.parametrize("family", ["bert_folder", "student_folder"])
@pytest.mark.parametrize("soft", [True, False])
def test_micro_batches_never_change_the_weights(family: str, soft: bool, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Eight rows in one forward pass, and each in one of its own: accumulation 1 and 8."""
    folder = request.getfixturevalue(family)
    for place, budget in (("whole", 4096), ("pieces", 16), ("some", 96)):
        base = training(folder, tmp_path / place, soft, micro_batch_tokens=budget)
        assert budget == 4096 or len(make_batches(base.rows, range(8), token_budget=budget, packing=False, pad_id=0)) > 1
        train(base)
    start = load_classifier(str(folder), LABELS, load_tokenizer(str(folder), reads_only=True)).state_dict()
    assert largest_gap(weights(tmp_path / "whole"), weights(tmp_path / "pieces")) < 2e-5
    assert largest_gap(weights(tmp_path / "whole"), weights(tmp_path / "some")) < 2e-5
    assert (
        max(float((weights(tmp_path / "whole")[name] - start[name]).abs().max()) for name in weights(tmp_path / "whole")) > 1e-3
    )


def test_two_processes_end_with_the_weights_of_one(bert_folder: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from test_labels import training, train\n"
        "train(training(Path(sys.argv[1]), Path(sys.argv[2]), batch_size=7))"
    )
    in_two_processes(tmp_path, code, bert_folder, tmp_path / "two")
    train(training(bert_folder, tmp_path / "one", batch_size=7))
    # One process may use more threads, so its sums round differently, and AdamW divides a gradient next to 0 by itself: 3e-5 was
    # seen. A row that is lost or counts twice moves weights by whole steps, 1e-3 each.
    assert largest_gap(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-4


def test_a_run_killed_at_any_moment_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    """With dropout, whose draws go on where the checkpoint left them."""
    folder = save_bert(tmp_path / "bert", dropout=0.1)
    code = (
        "from pathlib import Path; from test_labels import training, train\n"
        "train(training(Path(sys.argv[1]), Path(sys.argv[2]), epochs=60, checkpoint_every=5))"
    )
    events = tmp_path / "killed" / "run" / "events.jsonl"
    killed_and_resumed(tmp_path, code, events, [23], folder, tmp_path / "killed")
    assert any("resumed" in event.get("message", "") for event in read_rows(events))
    train(training(folder, tmp_path / "unbroken", epochs=60, checkpoint_every=5))
    assert largest_gap(weights(tmp_path / "killed"), weights(tmp_path / "unbroken")) < 1e-6


def test_a_training_that_was_told_other_things_of_the_same_labels_starts_anew(bert_folder: Path, tmp_path: Path) -> None:
    train(training(bert_folder, tmp_path))
    before = weights(tmp_path)
    train(replace(training(bert_folder, tmp_path), told="other"))
    assert not any("resumed" in event.get("message", "") for event in read_rows(tmp_path / "run" / "events.jsonl"))
    assert largest_gap(before, weights(tmp_path)) == 0.0


def test_labels_are_learned(bert_folder: Path, tmp_path: Path) -> None:
    done = train(training(bert_folder, tmp_path, epochs=40, learning_rate=5e-3, validations=4))
    steps = [event for event in read_rows(tmp_path / "run" / "events.jsonl") if event["event"] == "step"]
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert done.best_loss is not None
    assert not any("not packed" in event.get("message", "") for event in read_rows(tmp_path / "run" / "events.jsonl"))


def test_rows_that_are_too_long_or_have_no_label_are_counted_and_never_cut(bert_folder: Path) -> None:
    tokenizer = load_tokenizer(str(bert_folder), reads_only=True)
    some = [
        *lessons(3),
        Lesson(Example("long", (Message("user", "walks " * 200),)), "neutral", "teacher"),
        Lesson(example(4), "perhaps", "gold"),
        Lesson(example(5), "neutral", "teacher", weight=0.0),
        Lesson(example(5), "He moves.", "teacher", "rationale"),
    ]
    encoded, told = encode_labels(some, TASK, tokenizer, 64)
    assert (len(encoded.rows), encoded.num_too_long, encoded.num_refused, told) == (3, 1, 1, {})
    assert "a gold answer gives none of the task's labels: 'perhaps'; they are entailment, neutral" in encoded.why_refused
    assert [int(row.answer[0]) for row in encoded.rows] == [0, 1, 2]
    assert encoded.rows[0].length == len(read_ids(tokenizer, example(0).messages))
    with pytest.raises(JobFailedError, match=r"\(1 rows, and no other is left\); mend the data or the task"):
        encode_labels(some[4:5], TASK, tokenizer, 64)
    with pytest.raises(JobFailedError, match=r"all 1 examples are longer than 64 tokens; raise student\.max_length"):
        encode_labels(some[3:4], TASK, tokenizer, 64)
    assert encode_labels([], TASK, tokenizer, 64).encoded.rows == []


def test_gold_in_another_spelling_is_its_label(bert_folder: Path) -> None:
    tokenizer = load_tokenizer(str(bert_folder), reads_only=True)
    (row,) = encode_labels([Lesson(example(1), "Contradiction.", "gold")], TASK, tokenizer, 64).encoded.rows
    assert int(row.answer[0]) == 2


def test_the_quiz_is_the_share_of_rows_whose_likeliest_label_is_right(bert_folder: Path) -> None:
    tokenizer = load_tokenizer(str(bert_folder), reads_only=True)
    model = load_classifier(str(bert_folder), LABELS, tokenizer)
    examples = tuple(replace(example(n), gold=LABELS[n % 3]) for n in range(6))
    right = 0
    for one in examples:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([read_ids(tokenizer, one.messages)])).logits[0]
        right += LABELS[int(logits.argmax())] == one.gold
    too_long = Example("long", (Message("user", "walks " * 200),), "neutral")
    score = LabelQuiz(TASK, (*examples, too_long), 64)(model, tokenizer)
    assert score is not None
    assert (score.value, score.n) == (pytest.approx(right / 7), 7)


def test_the_logits_of_extreme_teachers_give_finite_losses(bert_folder: Path, tmp_path: Path) -> None:
    base = training(bert_folder, tmp_path, epochs=1)
    told = {row.digest(): softened(np.array([0.0, -200.0, -5000.0]), 4.0) for row in base.rows}
    train(replace(base, signals=LabelSignals(told)))
    steps = [event for event in read_rows(tmp_path / "run" / "events.jsonl") if event["event"] == "step"]
    assert all(math.isfinite(step["loss"]) and math.isfinite(step["gradient_norm"]) for step in steps)
