"""Which layers meet, and what each target's value is: by hand, in float64, however rows lie in lines."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_insides import MODELS, made

from potstill.batches import Batch, Row, make_batches
from potstill.contracts import Build
from potstill.errors import JobError
from potstill.insides import watching
from potstill.plugins import load_plugin
from potstill.student import hidden_states
from potstill.transfer import Pair, Transfer, layer_problem, map_logp, pairs_of, relation_logp


def build(depth: int = 4, width: int = 32, num_heads: int = 4, widths: tuple[int, int, int] | None = (32, 16, 16)) -> Build:
    named: Any = dict(zip(("queries", "keys", "values"), widths or (), strict=False))
    return Build("TestForCausalLM", depth, width, num_heads, named)


def loss(kind: str = "hidden_mse", **fields: Any) -> Any:
    return load_plugin("losses", {"kind": kind, **fields})


@pytest.mark.parametrize(
    ("layers", "depths", "wanted"),
    [
        ("even", (2, 4), [(1, 2), (2, 4)]),
        ("even", (4, 12), [(1, 3), (2, 6), (3, 9), (4, 12)]),
        ("even", (3, 4), [(1, 2), (2, 3), (3, 4)]),
        ("even", (4, 4), [(1, 1), (2, 2), (3, 3), (4, 4)]),
        ("even", (4, 2), [(1, 1), (2, 1), (3, 2), (4, 2)]),
        ("even", (1, 7), [(1, 7)]),
        ("last", (3, 5), [(3, 5)]),
        ("all", (2, 2), [(1, 1), (2, 2)]),
        ([[0, 0], [1, 3]], (3, 5), [(0, 0), (1, 3)]),
    ],
)
def test_layers_meet_as_the_loss_says(layers: Any, depths: tuple[int, int], wanted: list[tuple[int, int]]) -> None:
    found = pairs_of(loss(layers=layers), build(depths[0]), build(depths[1]))
    assert found == [Pair(*pair) for pair in wanted]


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("hidden_mse", {"layers": "all"}, "TestForCausalLM has 2 layers and TestForCausalLM 4; use even, last, or pairs"),
        ("hidden_mse", {"layers": [[3, 1]]}, r"pairs layers \[3, 1\], and the student TestForCausalLM has layers 0 to 2"),
        ("hidden_mse", {"layers": [[1, 1], [2, 5]]}, r"pairs layers \[2, 5\], and the teacher TestForCausalLM has layers 0 to 4"),
        ("attention_kl", {"layers": [[0, 1]]}, r"pairs layers \[0, 1\], and the student TestForCausalLM has layers 1 to 2"),
        ("attention_kl", {"heads": "matched"}, "the student has 4 heads, the teacher 8; use averaged"),
        ("attention_mse", {"heads": "matched"}, "the student has 4 heads, the teacher 8; use averaged"),
        ("relation", {"relation_heads": 5}, "relation_heads: 5, which must divide 16 and 32 and 64, the widths"),
        ("relation", {"relation_heads": 32}, "relation_heads: 32, which must divide 16, the widths"),
    ],
)
def test_what_does_not_fit_two_models_is_said_with_what_does(kind: str, fields: dict[str, Any], said: str) -> None:
    problem = layer_problem(loss(kind, **fields), build(2), build(4, 64, 8, (64, 32, 32)))
    assert problem is not None
    assert problem.startswith(f"train.losses: {kind} ")
    assert re.search(said, problem), problem


def test_maps_are_asked_only_of_layers_that_make_them() -> None:
    hybrid = replace(build(4), without_maps=(1, 3))
    problem = layer_problem(loss("attention_kl"), build(4), hybrid)
    assert problem is not None
    assert "layer 1 of TestForCausalLM makes none; name layers that do" in problem
    assert layer_problem(loss("attention_kl", layers=[[1, 2], [3, 4]]), build(4), hybrid) is None
    assert layer_problem(loss("attention_mse", layers=[[1, 2]]), hybrid, build(4)) is not None
    assert layer_problem(loss("hidden_mse"), build(4), hybrid) is None


def test_an_architecture_without_known_projections_is_refused_by_its_name() -> None:
    problem = layer_problem(loss("relation"), build(2), build(4, widths=None))
    assert problem is not None
    assert "how TestForCausalLM makes them is not known" in problem
    assert layer_problem(loss("relation", of=["values"]), build(2), build(4)) is None
    assert layer_problem(loss("hidden_mse"), build(2), build(4, widths=None)) is None


@pytest.mark.parametrize("layers", ["evn", [], [[1]], [[1, -1]], [1, 2], [[1, 2, 3]], {"1": 2}, True, [["1", 2]]])
def test_layers_that_name_nothing_are_refused(layers: Any) -> None:
    with pytest.raises(JobError, match="is neither even, last, all nor a list of pairs"):
        loss(layers=layers)


def test_relation_heads_are_the_students_or_the_most_that_fit() -> None:
    grouped = build(4, 64, 8, (64, 16, 16))
    assert loss("relation").num_relation_heads(build(), grouped) == 4
    assert loss("relation").num_relation_heads(build(num_heads=7), grouped) == 4
    assert loss("relation", of=["values"]).num_relation_heads(build(num_heads=5, widths=(15, 15, 15)), build()) == 1
    assert loss("relation", relation_heads=2).num_relation_heads(build(), grouped) == 2


def test_a_relation_is_a_softmax_over_scaled_products_by_hand() -> None:
    """Two tokens, two heads of width 1: scores x_i x_j of each head."""
    vectors_BTW = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]], dtype=torch.float64)
    at_N = torch.tensor([0, 1])
    batch = Batch(torch.zeros(1, 2, dtype=torch.long), torch.tensor([[0, 1]]), at_N, at_N, (0,))
    seen_NT = torch.tensor([[True, False], [True, True]])
    found_NRT = relation_logp(vectors_BTW, batch, seen_NT, 2).exp()
    e = math.e
    wanted_NRT = torch.tensor(
        [[[1.0, 0.0], [1.0, 0.0]], [[e**3 / (e**3 + e**9), e**9 / (e**3 + e**9)], [e**-2 / (e**-2 + e), e / (e**-2 + e)]]]
    )
    torch.testing.assert_close(found_NRT, wanted_NRT.double())
    whole_NRT = relation_logp(vectors_BTW, batch, seen_NT, 1).exp()  # one head of width 2: (1*3 + 2*-1)/sqrt(2) and 10/sqrt(2)
    one, two = math.exp(1 / 2**0.5), math.exp(10 / 2**0.5)
    torch.testing.assert_close(whole_NRT[1, 0], torch.tensor([one, two], dtype=torch.float64) / (one + two))


def test_relations_are_those_of_each_target_in_lines_of_different_numbers_of_targets() -> None:
    torch.manual_seed(0)
    vectors_BTW = torch.randn(3, 5, 6, dtype=torch.float64)
    at_N = torch.tensor([1, 2, 4, 12, 13])  # three targets in the first line, none in the second, two in the third
    batch = Batch(torch.zeros(3, 5, dtype=torch.long), torch.arange(5).repeat(3, 1), at_N, at_N, (0, 1))
    seen_NT = torch.arange(5)[None] <= (at_N % 5)[:, None]
    found_NRT = relation_logp(vectors_BTW, batch, seen_NT, 3)
    for n, at in enumerate(at_N.tolist()):
        line, place = divmod(at, 5)
        for head in range(3):
            own = vectors_BTW[line, :, 2 * head : 2 * head + 2]
            scores = own[: place + 1] @ own[place] / 2**0.5
            torch.testing.assert_close(found_NRT[n, head, : place + 1], scores.log_softmax(0))
            assert (found_NRT[n, head, place + 1 :] == -torch.inf).all()


def test_maps_are_the_targets_rows_and_zero_has_a_finite_logarithm() -> None:
    weights_BATT = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]]], requires_grad=True)
    at_N = torch.tensor([1, 2])
    batch = Batch(torch.zeros(1, 3, dtype=torch.long), torch.arange(3)[None], at_N, at_N, (0,))
    found_NAT = map_logp(weights_BATT, batch, torch.tensor([[True, True, False], [True, True, True]]))
    assert found_NAT[0, 0].tolist() == [pytest.approx(math.log(0.5)), pytest.approx(math.log(0.5)), -math.inf]
    assert found_NAT[1, 0, 1].item() == pytest.approx(math.log(1e-30))
    (gradient,) = torch.autograd.grad(found_NAT[found_NAT > -math.inf].sum(), weights_BATT)
    assert torch.isfinite(gradient).all()


LOSSES = (
    loss("hidden_mse", weight=0.5),
    loss("hidden_cosine", layers="last"),
    loss("attention_kl", weight=2.0),
    loss("attention_mse"),
    loss("relation", weight=0.25),
)


def rows(weights: Sequence[float] = (1.0, 0.25, 3.0)) -> list[Row]:
    generator = torch.Generator().manual_seed(4)

    def ids(count: int) -> Any:
        return torch.randint(5, 60, (count,), generator=generator).numpy().astype("int32")

    return [Row(ids(2 + i % 4), ids(1 + i % 3), weights[i % len(weights)]) for i in range(9)]


def gradients(families: tuple[str, str], how: dict[str, Any]) -> tuple[Any, Any]:
    """The sums of each loss and the gradients of student and projections, in float64, over all micro-batches."""
    student, teacher = made(families[0]).double(), made(families[1]).double()
    for parameter in teacher.parameters():
        parameter.data.mul_(1.5)  # another model
    transfer = Transfer(LOSSES, student, teacher, seed=3).double()
    sums = torch.zeros(len(LOSSES), dtype=torch.float64)
    for batch in make_batches(rows(), range(9), pad_id=0, **how):
        seen = []
        for model, whose in ((student, "student"), (teacher, "teacher")):
            with watching(model, transfer.places(whose)) as found:
                hidden_states(model, batch.input_ids_BT, batch.position_ids_BT)
            seen.append(found)
        total, each = transfer(*seen, batch)
        total.backward()
        sums += each
    named = [*student.named_parameters(), *transfer.named_parameters()]
    return sums, {name: parameter.grad for name, parameter in named if parameter.grad is not None}


@pytest.mark.parametrize("families", [("llama", "phi3"), ("gpt2", "llama"), ("phi3", "qwen3")], ids="<-".join)
def test_packing_padding_and_micro_batches_change_neither_sums_nor_gradients(families: tuple[str, str]) -> None:
    packed = gradients(families, {"token_budget": 1000, "packing": True})
    assert (packed[0] > 1e-4).all()
    for how in ({"token_budget": 1000, "packing": False}, {"token_budget": 1, "packing": False}):
        sums, found = gradients(families, how)
        torch.testing.assert_close(sums, packed[0], atol=1e-9, rtol=1e-7)
        assert found.keys() == packed[1].keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, packed[1][name], atol=1e-9, rtol=1e-6)


def test_an_encoder_learns_relations_and_states_from_an_encoder_row_by_row() -> None:
    """Bert has no packing, and sees padding unless it is told; one row a line is how its rows are alone."""
    losses = [loss("relation"), loss("hidden_mse"), loss("attention_kl", heads="matched")]
    student, teacher = made("bert"), MODELS["bert"]().eval()
    transfer = Transfer(losses, student, teacher)
    assert transfer.looks_ahead
    assert not transfer.takes_packed
    for batch in make_batches(rows(), range(9), token_budget=1, packing=False, pad_id=0):
        seen = []
        for model, whose in ((student, "student"), (teacher, "teacher")):
            with watching(model, transfer.places(whose)) as found:
                hidden_states(model, batch.input_ids_BT, batch.position_ids_BT)
            seen.append(found)
        _, sums = transfer(*seen, batch)
        assert (sums > 1e-6).all()


def test_maps_of_an_encoder_and_a_decoder_are_not_compared_and_their_relations_are() -> None:
    with pytest.raises(JobError, match="attention maps of LlamaForCausalLM and BertModel cover different tokens"):
        Transfer([loss("attention_kl")], made("llama"), made("bert"))
    assert not Transfer([loss("relation")], made("llama"), made("bert")).looks_ahead


def test_projections_are_of_their_seed_alone_and_stand_only_where_widths_differ() -> None:
    wide: Any = MODELS["llama"]().config
    wide.hidden_size = 64
    torch.manual_seed(1)
    teacher = type(made("llama"))(wide).eval()
    losses = [loss("hidden_mse"), loss("hidden_cosine", layers="last"), loss("attention_mse"), loss("hidden_mse", layers="last")]
    one, same, other = (Transfer(losses, made("llama"), teacher, seed) for seed in (0, 0, 1))
    shapes = {name: tuple(parameter.shape) for name, parameter in one.named_parameters()}
    names = ("0-1-1", "0-2-2", "0-3-3", "1-3-3", "3-3-3")
    assert shapes == {f"projections.{name}.weight": (64, 32) for name in names}
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
        assert not torch.equal(parameter, other.get_parameter(name))
    assert list(Transfer(losses, made("llama"), made("llama")).parameters()) == []
    always = Transfer([loss("hidden_mse", projection="always", layers="last")], made("llama"), made("llama"))
    assert [tuple(parameter.shape) for parameter in always.parameters()] == [(32, 32)]


def test_a_students_attention_is_learned_without_dropout_and_the_rest_keeps_its_own() -> None:
    student = made("bert")
    transfer = Transfer([loss("attention_kl")], student, made("bert"))
    names = {type(module).__name__ for module in transfer.without_dropout}
    assert names == {"BertSelfAttention", "BertAttention"}
    assert Transfer([loss("hidden_mse")], made("bert"), made("bert")).without_dropout == ()


def test_projections_and_states_have_exact_gradients() -> None:
    """gradcheck in float64 of one loss through the projection and the pairing, with weighed rows."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    students = []
    for size in (8, 12):
        config = MODELS["llama"]().config
        for name, value in {**small, "hidden_size": size, "head_dim": size // 2}.items():
            setattr(config, name, value)
        torch.manual_seed(size)
        students.append(type(made("llama"))(config).double().eval())
    losses = [loss("hidden_mse", layers=[[0, 0], [1, 1]]), loss("relation"), loss("attention_kl")]
    transfer = Transfer(losses, students[0], students[1]).double()
    (batch,) = make_batches(rows()[:2], range(2), token_budget=1000, packing=True, pad_id=0)
    with watching(students[1], transfer.places("teacher")) as taught:
        hidden_states(students[1], batch.input_ids_BT, batch.position_ids_BT)
    with watching(students[0], transfer.places("student")) as seen:
        hidden_states(students[0], batch.input_ids_BT, batch.position_ids_BT)
    taught = {place: tensor.detach() for place, tensor in taught.items()}
    places = sorted(seen)
    inputs = [seen[place].detach().requires_grad_() for place in places]

    def value(*given: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = transfer(dict(zip(places, given, strict=True)), taught, batch)[0]
        return total

    assert torch.autograd.gradcheck(value, inputs, atol=1e-6)
