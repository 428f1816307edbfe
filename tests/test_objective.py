"""Losses on cells and on layers in one training: equal however it is batched, packed, killed or distributed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_llama
from processes import in_two_processes, killed_and_resumed
from safetensors.torch import load_file
from test_training import COUNTS, encoded, largest_gap, training, weights

from potstill.batches import Batch, Row, make_batches
from potstill.insides import watching
from potstill.kernels.cells import Cells
from potstill.objective import Objective, Told
from potstill.plugins import load_plugin
from potstill.progress import Progress
from potstill.recipe import StudentSettings
from potstill.rendering import load_tokenizer
from potstill.runfolder import RunFolder, read_rows
from potstill.signals import SignalStore
from potstill.student import hidden_states, load_model
from potstill.teacher_signals import LiveSignals, SignalShape, StoredSignals, capture
from potstill.training import Training, train
from potstill.transfer import TeacherInsides

SHAPE = SignalShape(top_k=16, temperature=2.0, token_budget=512, draws=50)
MIXED: tuple[dict[str, Any], ...] = (
    {"kind": "hidden_mse", "weight": 0.1},
    {"kind": "cross_entropy", "weight": 0.25},
    {"kind": "relation", "layers": "last"},
    {"kind": "forward_kl", "weight": 0.5},
    {"kind": "attention_kl", "layers": [[1, 2]]},
)


def losses(*settings: Any) -> tuple[Any, ...]:
    return tuple(load_plugin("losses", one) for one in settings)


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher twice as wide and twice as deep as the student, with the same tokens."""
    return save_llama(tmp_path_factory.mktemp("models") / "deep", hidden=64, layers=4, seed=5)


def taught(student: Path, teacher: Path, tmp_path: Path, chosen: tuple[Any, ...] = MIXED, **settings: Any) -> Training:
    """Student, live teacher and losses as `stages/train.py` puts them together."""
    base = training(student, tmp_path, COUNTS, **{"temperature": 2.0, **settings})
    model = load_model(str(teacher))
    num_words = max(load_tokenizer(str(teacher)).get_vocab().values()) + 1
    return replace(base, losses=losses(*chosen), signals=LiveSignals(model, num_words, SHAPE), insides=TeacherInsides(model))


@pytest.mark.parametrize("change", [{"micro_batch_tokens": 16}, {"packing": False}, {"packing": False, "micro_batch_tokens": 64}])
def test_micro_batches_and_packing_never_change_the_weights(
    student_folder: Path, deep_folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    train(taught(student_folder, deep_folder, tmp_path / "a"))
    train(taught(student_folder, deep_folder, tmp_path / "b", **change))
    assert largest_gap(weights(tmp_path / "a"), weights(tmp_path / "b")) < 5e-5
    notes = [event for event in read_rows(tmp_path / "a" / "run" / "events.jsonl") if event["event"] == "note"]
    assert notes == [], "it was packed"


def test_layers_are_learned_from(student_folder: Path, deep_folder: Path, tmp_path: Path) -> None:
    for kind in ("hidden_mse", "hidden_cosine", "attention_kl", "attention_mse", "relation"):
        chosen = ({"kind": "cross_entropy", "weight": 1e-4}, {"kind": kind})
        train(taught(student_folder, deep_folder, tmp_path / kind, chosen, epochs=10, learning_rate=5e-3))
        steps = [event["loss"] for event in read_rows(tmp_path / kind / "run" / "events.jsonl") if event["event"] == "step"]
        assert steps[-1] < 0.9 * steps[0], f"{kind}: {steps[0]} to {steps[-1]}"


def test_the_saved_student_is_as_it_was_built_and_checkpoints_hold_the_projections(
    student_folder: Path, deep_folder: Path, tmp_path: Path
) -> None:
    base = taught(student_folder, deep_folder, tmp_path)
    train(base)
    assert weights(tmp_path).keys() == load_file(student_folder / "model.safetensors").keys()
    config = (tmp_path / "run" / "model" / "config.json").read_text()
    assert "eager" not in config, "how attention is computed is the reader's choice"
    checkpoint = load_file(sorted((tmp_path / "run" / "checkpoints" / "student").glob("step-*"))[-1] / "trained.safetensors")
    names = {name for name in checkpoint if name.startswith("transfer.")}
    assert names == {f"transfer.projections.0-{pair}.weight" for pair in ("1-2", "2-4")}
    transfer = Objective(load_model(str(student_folder)), 1, base.losses, 1.0, load_model(str(deep_folder)), seed=0).transfer
    assert transfer is not None
    for name in names:
        first = transfer.get_parameter(name.removeprefix("transfer.")).detach()
        assert float((checkpoint[name] - first).abs().max()) > 1e-4, "projections are trained"


def test_a_training_with_projections_killed_at_any_moment_ends_as_an_unbroken_one(
    student_folder: Path, deep_folder: Path, tmp_path: Path
) -> None:
    code = (
        "from pathlib import Path; from test_objective import taught, train\n"
        "train(taught(*(Path(name) for name in sys.argv[1:]), epochs=40, checkpoint_every=5))"
    )
    events = tmp_path / "killed" / "run" / "events.jsonl"
    killed_and_resumed(tmp_path, code, events, [12, 60], student_folder, deep_folder, tmp_path / "killed")
    assert [e for e in read_rows(events) if e["event"] == "note" and "resumed" in e["message"]]
    train(taught(student_folder, deep_folder, tmp_path / "unbroken", epochs=40, checkpoint_every=5))
    assert largest_gap(weights(tmp_path / "killed"), weights(tmp_path / "unbroken")) < 1e-6


def test_two_processes_end_with_the_weights_of_one(student_folder: Path, deep_folder: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from test_objective import taught, train\n"
        "train(taught(*(Path(name) for name in sys.argv[1:]), batch_size=7))"
    )
    in_two_processes(tmp_path, code, student_folder, deep_folder, tmp_path / "two")
    train(taught(student_folder, deep_folder, tmp_path / "one", batch_size=7))
    assert largest_gap(weights(tmp_path / "one"), weights(tmp_path / "two")) < 5e-5


def test_adapters_learn_from_layers_and_stay_alone_in_the_checkpoint(
    student_folder: Path, deep_folder: Path, tmp_path: Path
) -> None:
    lora = StudentSettings(model=str(student_folder), adaptation="lora", lora={"rank": 4, "alpha": 8})  # type: ignore[arg-type]
    train(replace(taught(student_folder, deep_folder, tmp_path), student=lora))
    checkpoint = load_file(next((tmp_path / "run" / "checkpoints" / "student").glob("step-*")) / "trained.safetensors")
    assert {name.split(".")[0] if "lora_" not in name else "lora" for name in checkpoint} == {"lora", "transfer"}
    assert type(load_model(str(tmp_path / "run" / "model"))).__name__ == "LlamaForCausalLM"


def test_cells_from_the_disk_and_layers_from_memory_mix(student_folder: Path, deep_folder: Path, tmp_path: Path) -> None:
    live = taught(student_folder, deep_folder, tmp_path / "live")
    train(live)
    kept = taught(student_folder, deep_folder, tmp_path / "kept")
    tokenizer = load_tokenizer(str(deep_folder))
    store = SignalStore(tmp_path / "signals", {"teacher": "t"}, draws=50, num_words=max(tokenizer.get_vocab().values()) + 1)
    teacher = load_plugin("teachers", {"kind": "huggingface", "model": str(deep_folder)})
    with Progress(RunFolder(tmp_path / "x"), "capture", 20) as bar:
        capture(teacher, tokenizer, kept.rows, store, SHAPE, bar)
    train(replace(kept, signals=StoredSignals(store)))
    assert largest_gap(weights(tmp_path / "live"), weights(tmp_path / "kept")) < 5e-5


class Counted:
    """How often a model is run."""

    def __init__(self, model: Any) -> None:
        self.times = 0
        model.base_model.register_forward_hook(self.count)

    def count(self, *_: Any) -> None:
        self.times += 1


def objective_and_batch(student: Path, teacher: Path, chosen: tuple[Any, ...] = MIXED) -> tuple[Objective, Any, list[Row], Batch]:
    model, rows = load_model(str(teacher)), encoded(student, 6, COUNTS)
    objective = Objective(load_model(str(student)), 320, losses(*chosen), 2.0, model)
    (batch,) = make_batches(rows, range(6), token_budget=10_000, packing=True, pad_id=0)
    return objective, model, rows, batch


def test_a_live_teacher_is_run_once_for_cells_and_layers(student_folder: Path, deep_folder: Path) -> None:
    objective, model, rows, batch = objective_and_batch(student_folder, deep_folder)
    signals, insides = LiveSignals(model, 320, SHAPE), TeacherInsides(model)
    counted = Counted(model)
    told = objective.ask(batch, rows, signals, insides)
    assert told is not None
    assert counted.times == 1
    alone = objective.ask(batch, rows, None, insides)
    assert alone is not None
    assert (alone.cells, counted.times) == (None, 2)
    assert told.insides.keys() == alone.insides.keys() == {
        ("hidden", 2), ("hidden", 4), ("queries", 4), ("keys", 4), ("values", 4), ("attention", 2),
    }  # fmt: skip
    for place, tensor in told.insides.items():
        torch.testing.assert_close(tensor, alone.insides[place])
        assert not tensor.requires_grad


def test_a_teacher_that_is_asked_more_shows_its_insides_of_the_students_lines(student_folder: Path, deep_folder: Path) -> None:
    objective, model, rows, batch = objective_and_batch(student_folder, deep_folder)
    insides, signals = TeacherInsides(model), LiveSignals(model, 320, SHAPE)
    plain = objective.ask(batch, rows, signals, insides)
    asked = [row._replace(asked=torch.arange(5, 25).numpy().astype("int32")) for row in rows]
    told = objective.ask(batch, asked, signals, insides)
    assert plain is not None
    assert told is not None
    for place, tensor in told.insides.items():
        torch.testing.assert_close(tensor, plain.insides[place])
    assert plain.cells is not None
    assert told.cells is not None
    assert not torch.equal(told.cells.logp_NK, plain.cells.logp_NK)


def test_sums_stand_in_the_order_of_the_losses_and_add_up_by_weight(student_folder: Path, deep_folder: Path) -> None:
    objective, model, rows, batch = objective_and_batch(student_folder, deep_folder)
    told = objective.ask(batch, rows, LiveSignals(model, 320, SHAPE), TeacherInsides(model))
    total, sums = objective(batch, told)
    shares = [one.get("weight", 1.0) for one in MIXED]
    shares[3] *= 2.0**2  # forward_kl's T^2; text and layers have none
    assert float(total.detach()) == pytest.approx(float((sums * torch.tensor(shares)).sum()), rel=1e-5)
    for number, one in enumerate(MIXED):
        transfer = objective.transfer if number in (0, 2, 4) else None
        single = Objective(objective.model, 320, losses(one), 2.0, model)
        if transfer is not None and one["kind"] == "hidden_mse":
            assert single.transfer is not None
            single.transfer.load_state_dict(transfer.state_dict())
        single_told = single.ask(batch, rows, LiveSignals(model, 320, SHAPE), TeacherInsides(model))
        assert float(single(batch, single_told)[1][0]) == pytest.approx(float(sums[number]), rel=1e-5)


def test_the_value_is_that_of_plain_torch(student_folder: Path, deep_folder: Path) -> None:
    """Hidden states of both models row by row, through the projection, squared, averaged over width and pairs, weighed."""
    objective, model, rows, batch = objective_and_batch(student_folder, deep_folder, ({"kind": "hidden_mse", "weight": 0.1},))
    transfer = objective.transfer
    assert transfer is not None
    wanted = 0.0
    for row in rows:
        ids = torch.tensor([*row.prompt, *row.answer[:-1]])[None]
        with torch.no_grad():
            own, other = (m(ids, output_hidden_states=True).hidden_states for m in (objective.model, model))
            for pair in ((1, 2), (2, 4)):
                projected = own[pair[0]] @ transfer.get_parameter(f"projections.0-{pair[0]}-{pair[1]}.weight").T
                apart = (projected - other[pair[1]])[0, len(row.prompt) - 1 :]
                wanted += row.weight * float(apart.square().mean(-1).sum()) / 2
    total, sums = objective(batch, objective.ask(batch, rows, None, TeacherInsides(model)))
    assert float(sums[0]) == pytest.approx(wanted, rel=1e-4)
    assert float(total.detach()) == pytest.approx(0.1 * wanted, rel=1e-4)


def test_losses_on_layers_alone_leave_no_parameter_without_a_gradient(student_folder: Path, deep_folder: Path) -> None:
    objective, model, rows, batch = objective_and_batch(student_folder, deep_folder, ("relation",))
    objective(batch, objective.ask(batch, rows, None, TeacherInsides(model)))[0].backward()
    assert [name for name, parameter in objective.named_parameters() if parameter.grad is None] == []


def test_rows_that_count_nothing_give_no_gradient(student_folder: Path, deep_folder: Path) -> None:
    objective, model, rows, batch = objective_and_batch(student_folder, deep_folder)
    nothing = torch.zeros(len(batch.at_N))
    batch = batch._replace(weight_N=nothing, text_N=nothing)
    total, sums = objective(batch, objective.ask(batch, rows, LiveSignals(model, 320, SHAPE), TeacherInsides(model)))
    total.backward()
    assert sums.tolist() == [0.0] * 5
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in objective.parameters() if parameter.grad is not None)


def test_attention_is_trained_without_dropout_where_maps_are_compared(student_folder: Path, deep_folder: Path) -> None:
    objective, model, rows, batch = objective_and_batch(student_folder, deep_folder, ("attention_kl",))
    for layer in objective.model.model.layers:  # type: ignore[union-attr]
        layer.self_attn.attention_dropout = 0.5  # type: ignore[union-attr]
    told = objective.ask(batch, rows, None, TeacherInsides(model))
    sums = [float(objective.train(mode)(batch, told)[1][0]) for mode in (True, True, False)]
    assert sums[0] == sums[1] == pytest.approx(sums[2], rel=1e-6)
    assert objective.train().model.training
    with watching(objective.model, [("attention", 1)]) as seen:
        hidden_states(objective.model, batch.input_ids_BT, batch.position_ids_BT)
    torch.testing.assert_close(seen["attention", 1].sum(-1), torch.ones_like(seen["attention", 1].sum(-1)))


def test_what_is_told_moves_as_one(student_folder: Path) -> None:
    cells = Cells(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1))
    told = Told(cells, {("hidden", 1): torch.ones(1, 2, 3)}).to(torch.device("meta"))
    assert told.cells is not None
    assert {told.cells.index_NK.device.type, told.insides["hidden", 1].device.type} == {"meta"}
    assert Told(None).to(torch.device("meta")) == Told(None, {})
