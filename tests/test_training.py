"""Equal results however a run is batched, packed, killed or resumed; and that the loop learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEMPLATE, make_tokenizer
from processes import in_two_processes, killed_and_resumed
from safetensors.torch import load_file
from torch.nn import functional
from transformers import OPTConfig, OPTForCausalLM

from potstill.batches import Row, Sample, encode, make_batches
from potstill.errors import JobFailedError, ModelError
from potstill.lessons import Quiz
from potstill.plugins import load_plugin
from potstill.progress import Progress
from potstill.recipe import StudentSettings, TrainSettings, rate_at
from potstill.rendering import load_tokenizer
from potstill.runfolder import RunFolder, read_rows
from potstill.signals import SignalStore
from potstill.student import hidden_states, load_model
from potstill.teacher_signals import LiveSignals, SignalShape, StoredSignals, capture
from potstill.training import Trained, Training, train
from potstill.types import Example, Message

COUNTS = (1.0, 0.25, 3.0)
WORDS = ["router", "light", "red", "restart", "ten seconds", "apples", "left", "a man walks", "please", "12 - 5 = 7"]


def samples(count: int, weights: tuple[float, ...] = (1.0,)) -> list[Sample]:
    return [
        Sample(
            [Message("user", " ".join(WORDS[(i * j) % 10] for j in range(1, 2 + i % 5)))],
            WORDS[(i * 7) % 10] * (1 + i % 3),
            weights[i % len(weights)],
        )
        for i in range(count)
    ]


def encoded(folder: Path, count: int = 24, weights: tuple[float, ...] = (1.0,)) -> list[Row]:
    return encode(samples(count, weights), load_tokenizer(str(folder)), 512).rows


def training(student: Path, tmp_path: Path, weights: tuple[float, ...] = (1.0,), **settings: object) -> Training:
    fields = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "validations": 2, **settings}
    rows = encoded(student, 24, weights)
    return Training(
        "student",
        StudentSettings(model=str(student)),
        TrainSettings(**fields),  # type: ignore[arg-type]
        (load_plugin("losses", "cross_entropy"),),
        rows[:20],
        rows[20:],
        RunFolder(tmp_path / "run"),
        tmp_path / "run" / "model",
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run" / "model" / "model.safetensors")


def largest_gap(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_loss_falls_and_events_tell_of_each_step(student_folder: Path, tmp_path: Path) -> None:
    done = train(training(student_folder, tmp_path, epochs=6, learning_rate=5e-3))
    steps = [e for e in read_rows(tmp_path / "run" / "events.jsonl") if e["event"] == "step"]
    assert len(steps) == done.steps == 18
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    assert all(step["gradient_norm"] > 0 and step["tokens_per_s"] > 0 and step["learning_rate"] > 0 for step in steps)
    assert isinstance(done, Trained)
    assert done.best_loss is not None


@pytest.mark.parametrize("change", [{"micro_batch_tokens": 16}, {"packing": False}, {"packing": False, "micro_batch_tokens": 64}])
@pytest.mark.parametrize("counts", [(1.0,), COUNTS], ids=["all the same", "weighed"])
def test_micro_batches_and_packing_never_change_the_weights(
    student_folder: Path, tmp_path: Path, change: dict[str, object], counts: tuple[float, ...]
) -> None:
    train(training(student_folder, tmp_path / "a", counts))
    train(training(student_folder, tmp_path / "b", counts, **change))
    assert largest_gap(weights(tmp_path / "a"), weights(tmp_path / "b")) < 2e-5


def test_two_processes_end_with_the_weights_of_one(student_folder: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from test_training import COUNTS, training, train\n"
        "train(training(Path(sys.argv[1]), Path(sys.argv[2]), COUNTS, batch_size=7))"
    )
    in_two_processes(tmp_path, code, student_folder, tmp_path / "two")
    train(training(student_folder, tmp_path / "one", COUNTS, batch_size=7))
    assert largest_gap(weights(tmp_path / "one"), weights(tmp_path / "two")) < 2e-5
    steps = [
        [(event["step"], round(event["loss"], 4)) for event in read_rows(events) if event["event"] == "step"]
        for events in (tmp_path / "one" / "run" / "events.jsonl", tmp_path / "two" / "run" / "events.jsonl")
    ]
    assert steps[0] == steps[1]


def test_a_weighed_loss_is_the_weighed_mean_over_the_whole_step(student_folder: Path, tmp_path: Path) -> None:
    """Sum of w times a token's loss, divided by the sum of w over the targets of the step, as plain torch counts it."""
    base = training(student_folder, tmp_path, COUNTS, epochs=1, batch_size=20, micro_batch_tokens=32)
    model = load_model(str(student_folder))
    total, count = 0.0, 0.0
    for row in base.rows:
        ids = torch.from_numpy(np.concatenate([row.prompt, row.answer]).astype(np.int64))[None]
        with torch.no_grad():
            logits = model(ids).logits[0, len(row.prompt) - 1 : -1]
        total += row.weight * float(functional.cross_entropy(logits, ids[0, len(row.prompt) :], reduction="sum"))
        count += row.weight * len(row.answer)
    train(base)
    (step,) = [event for event in read_rows(tmp_path / "run" / "events.jsonl") if event["event"] == "step"]
    assert {row.weight for row in base.rows} == set(COUNTS)
    assert step["loss"] == pytest.approx(total / count, abs=1e-4)


def test_only_the_ratio_of_weights_matters_and_a_row_twice_as_heavy_is_a_row_twice(student_folder: Path, tmp_path: Path) -> None:
    rows = encoded(student_folder)
    for name, chosen in {
        "plain": rows,
        "halved": [row._replace(weight=0.5) for row in rows],
        "heavy": [rows[0]._replace(weight=2.0), *rows[1:]],
        "twice": [rows[0], *rows],
    }.items():
        base = training(student_folder, tmp_path / name, epochs=1, batch_size=30)
        train(replace(base, rows=chosen, num_steps=2))
    assert largest_gap(weights(tmp_path / "plain"), weights(tmp_path / "halved")) < 2e-5
    assert largest_gap(weights(tmp_path / "heavy"), weights(tmp_path / "twice")) < 2e-5
    assert largest_gap(weights(tmp_path / "plain"), weights(tmp_path / "heavy")) > 1e-4


def test_each_target_carries_its_rows_weight_and_none_is_carried_where_all_count_1(student_folder: Path) -> None:
    rows = encoded(student_folder, 9, COUNTS)
    for batch in make_batches(rows, range(9), token_budget=1000, packing=True, pad_id=0):
        assert batch.weight_N is not None
        assert batch.weight_N.tolist() == [rows[number].weight for number in batch.numbers for _ in rows[number].answer]
    for batch in make_batches(encoded(student_folder, 9), range(9), token_budget=60, packing=True, pad_id=0):
        assert batch.weight_N is None


@pytest.mark.parametrize("family", ["student_folder", "phi3_folder"])
def test_packed_rows_do_not_see_each_other(family: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family)
    rows = encoded(folder, 9)
    model = load_model(str(folder))
    packed = make_batches(rows, range(9), token_budget=10_000, packing=True, pad_id=0)
    assert any(len(batch.numbers) > batch.input_ids_BT.shape[0] for batch in packed), "nothing was packed"
    with torch.no_grad():
        together = {}
        for batch in packed:
            hidden = hidden_states(model, batch.input_ids_BT, batch.position_ids_BT).flatten(0, 1)[batch.at_N]
            for number, part in zip(batch.numbers, hidden.split([len(rows[n].answer) for n in batch.numbers]), strict=True):
                together[number] = part
        for number in range(9):
            (alone,) = make_batches(rows, [number], token_budget=1, packing=False, pad_id=0)
            hidden = hidden_states(model, alone.input_ids_BT, alone.position_ids_BT).flatten(0, 1)[alone.at_N]
            torch.testing.assert_close(hidden, together[number], atol=2e-5, rtol=1e-4)


def test_an_architecture_that_would_mix_packed_rows_is_not_packed(tmp_path: Path) -> None:
    """OPT makes its own mask and ignores the positions; without this its rows would be learned with neighbours in sight."""
    folder = tmp_path / "opt"
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=1, dropout=0.0,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    train(training(folder, tmp_path / "a"))
    train(training(folder, tmp_path / "b", packing=False))
    assert largest_gap(weights(tmp_path / "a"), weights(tmp_path / "b")) < 2e-5
    notes = [event["message"] for event in read_rows(tmp_path / "a" / "run" / "events.jsonl") if event["event"] == "note"]
    assert any("not packed" in note for note in notes)


def test_a_training_that_diverges_is_told_and_no_broken_model_is_saved(student_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="lower the learning rate"):
        train(training(student_folder, tmp_path, epochs=4, learning_rate=1e8))
    assert not (tmp_path / "run" / "model").exists()


def test_a_row_that_the_chat_template_refuses_harms_no_other(student_folder: Path) -> None:
    tokenizer = load_tokenizer(str(student_folder))
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    found = encode([*samples(3), Sample([Message("system", "Be kind."), Message("user", "hello")], "hi")], tokenizer, 512)
    assert (len(found.rows), found.num_refused) == (3, 1)
    assert "no system" in found.why_refused
    examples = (Example("a", (Message("system", "Be kind."), Message("user", "hello")), "hi"),)
    quiz = Quiz(load_plugin("tasks", "qa"), examples)
    score = quiz(load_model(str(student_folder)), tokenizer)
    assert score is not None
    assert score.value == 0.0


def test_every_answer_token_is_a_target_once_and_prompts_never(student_folder: Path) -> None:
    rows = encoded(student_folder, 7)
    seen = {}
    for batch in make_batches(rows, range(7), token_budget=60, packing=True, pad_id=0):
        flat = batch.input_ids_BT.flatten()
        for number, at, target in zip(
            batch.numbers,
            batch.at_N.split([len(rows[n].answer) for n in batch.numbers]),
            batch.target_N.split([len(rows[n].answer) for n in batch.numbers]),
            strict=True,
        ):
            assert target.tolist() == rows[number].answer.tolist()
            assert flat[at].tolist() == [rows[number].prompt[-1], *rows[number].answer[:-1]]
            seen[number] = True
    assert sorted(seen) == list(range(7))


def test_captured_and_live_signals_give_the_same_weights(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(teacher_folder))
    shape = SignalShape(top_k=16, temperature=2.0, token_budget=512, draws=50)
    num_words = max(tokenizer.get_vocab().values()) + 1
    losses = (load_plugin("losses", {"kind": "cross_entropy", "weight": 0.25}), load_plugin("losses", "forward_kl"))
    base = training(student_folder, tmp_path / "live", temperature=2.0)
    live = LiveSignals(load_model(str(teacher_folder)), num_words, shape)
    train(replace(base, losses=losses, signals=live))
    store = SignalStore(tmp_path / "signals", {"teacher": "t"}, draws=50, num_words=num_words)
    teacher = load_plugin("teachers", {"kind": "huggingface", "model": str(teacher_folder)})
    with Progress(RunFolder(tmp_path / "x"), "capture", 20) as bar:
        assert capture(teacher, tokenizer, base.rows, store, shape, bar) == 20
        again = SignalStore(tmp_path / "signals", {"teacher": "t"}, draws=50, num_words=num_words)
        assert capture(teacher, tokenizer, base.rows, again, shape, bar) == 0
    kept = training(student_folder, tmp_path / "kept", temperature=2.0)
    train(replace(kept, losses=losses, signals=StoredSignals(again)))
    assert largest_gap(weights(tmp_path / "live"), weights(tmp_path / "kept")) < 2e-5


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_a_whole_live_distribution_teaches_as_all_words_kept_one_by_one(
    teacher_folder: Path, student_folder: Path, tmp_path: Path, kind: str
) -> None:
    num_words = max(load_tokenizer(str(teacher_folder)).get_vocab().values()) + 1
    losses = (load_plugin("losses", {"kind": "cross_entropy", "weight": 0.25}), load_plugin("losses", kind))
    for name, shape in (("whole", SignalShape(1, 2.0, 512, whole=True)), ("kept", SignalShape(num_words, 2.0, 512))):
        signals = LiveSignals(load_model(str(teacher_folder)), num_words, shape)
        train(replace(training(student_folder, tmp_path / name, temperature=2.0), losses=losses, signals=signals))
    assert largest_gap(weights(tmp_path / "whole"), weights(tmp_path / "kept")) < 2e-5


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_activations_that_are_made_anew_change_nothing(student_folder: Path, tmp_path: Path, adaptation: str) -> None:
    student = StudentSettings(model=str(student_folder), adaptation=adaptation, lora={"rank": 4, "alpha": 8})  # type: ignore[arg-type]
    train(replace(training(student_folder, tmp_path / "kept"), student=student))
    train(replace(training(student_folder, tmp_path / "anew", gradient_checkpointing=True), student=student))
    assert largest_gap(weights(tmp_path / "kept"), weights(tmp_path / "anew")) < 2e-5


@pytest.mark.parametrize("adaptation", ["lora", "dora"])
def test_adapters_train_little_and_the_merged_model_says_the_same(student_folder: Path, tmp_path: Path, adaptation: str) -> None:
    base = training(student_folder, tmp_path)
    lora = StudentSettings(model=str(student_folder), adaptation=adaptation, lora={"rank": 4, "alpha": 8})  # type: ignore[arg-type]
    done = train(replace(base, student=lora))
    assert done.learning_rate == 1e-3
    before, after = load_model(str(student_folder)), load_model(str(tmp_path / "run" / "model"))
    checkpoint = load_file(next((tmp_path / "run" / "checkpoints" / "student").glob("step-*")) / "trained.safetensors")
    assert all("lora_" in name for name in checkpoint)
    assert type(after) is type(before)
    ids = torch.arange(5, 25)[None]
    assert float((after(ids).logits - before(ids).logits).detach().abs().max()) > 1e-3


def test_early_stopping_keeps_the_best_weights(student_folder: Path, tmp_path: Path) -> None:
    done = train(
        training(student_folder, tmp_path, epochs=40, learning_rate=5e-2, validations=20, patience=2, schedule="constant")
    )
    assert done.stopped_early
    assert done.best_step < done.steps


def test_a_run_killed_at_any_moment_ends_with_the_weights_of_an_unbroken_one(student_folder: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from test_training import training, train\n"
        "train(training(Path(sys.argv[1]), Path(sys.argv[2]), epochs=60, checkpoint_every=5))"
    )
    events = tmp_path / "killed" / "run" / "events.jsonl"
    killed_and_resumed(tmp_path, code, events, [12, 60], student_folder, tmp_path / "killed")
    resumed = [e for e in read_rows(events) if e["event"] == "note" and "resumed" in e["message"]]
    assert resumed
    train(training(student_folder, tmp_path / "unbroken", epochs=60, checkpoint_every=5))
    assert largest_gap(weights(tmp_path / "killed"), weights(tmp_path / "unbroken")) < 1e-6


def test_a_checkpoint_cut_in_half_is_told_and_passed_over(student_folder: Path, tmp_path: Path) -> None:
    base = training(student_folder, tmp_path, epochs=4, checkpoint_every=4)
    train(base)
    whole = weights(tmp_path)
    newest = sorted((tmp_path / "run" / "checkpoints" / "student").glob("step-*"))[-1]
    cut = newest / "trained.safetensors"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    train(base)
    notes = [e["message"] for e in read_rows(tmp_path / "run" / "events.jsonl") if e["event"] == "note"]
    assert any("damaged" in note and newest.name in note for note in notes)
    assert largest_gap(whole, weights(tmp_path)) < 1e-6


def test_a_training_with_other_settings_keeps_its_own_checkpoints(student_folder: Path, tmp_path: Path) -> None:
    """Checkpoints of a longer training before it have higher numbers; they must not crowd out the new ones."""
    train(training(student_folder, tmp_path, epochs=4, checkpoint_every=4))
    other = training(student_folder, tmp_path, epochs=1, learning_rate=2e-3, checkpoint_every=1)
    train(other)
    steps = sorted(place.name for place in (tmp_path / "run" / "checkpoints" / "student").glob("step-*"))
    assert steps == ["step-0000002", "step-0000003"]


def test_best_weights_cut_in_half_say_what_to_delete(student_folder: Path, tmp_path: Path) -> None:
    base = training(student_folder, tmp_path)
    train(base)
    best = tmp_path / "run" / "checkpoints" / "student" / "best.safetensors"
    best.write_bytes(best.read_bytes()[: best.stat().st_size // 2])
    with pytest.raises(ModelError, match="delete the folder"):
        train(base)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = TrainSettings(warmup_share=0.1)
    rates = [rate_at(step, 100, settings, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert 0 < rates[-1] < 0.01
