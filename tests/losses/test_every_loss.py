"""What every loss on distributions keeps, whoever adds it: found by name, tested without knowing its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from distributions import drawn, gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.contracts import LayerLoss, Loss
from potstill.kernels.cells import Cells, Head, Term, cell_losses
from potstill.plugins import load_plugin, plugin_class, plugin_kinds
from potstill.types import Signal

F64 = torch.float64
# Settings of ours that are tested beside the defaults of every loss.
MORE = [
    *({"kind": "jensen_shannon", "beta": beta} for beta in (0.0, 0.1, 0.9, 1.0)),
    *({"kind": kind, "alpha": 0.5} for kind in ("skew_kl", "skew_reverse_kl")),
    {"kind": "adaptive_kl", "mu": 0.9},
]


def on_distributions(kind: str) -> bool:
    """Whether a loss compares the two distributions over the same cells; others need text, hidden states or more."""
    chosen = plugin_class("losses", kind)
    return not issubclass(chosen, LayerLoss) and chosen.needs == Signal.TOPK


KINDS = [info.kind for info in plugin_kinds("losses") if on_distributions(info.kind)]
LOSSES = [load_plugin("losses", settings) for settings in [*KINDS, *MORE]]
# The gradient is that of the value with some of its factors held constant; test_adaptive_kl.py has it.
HOLDS = {"adaptive_kl"}
# |p - q| has no gradient where p = q: rounding decides the side.
KINKED = {"total_variation", "universal_logit"}
# A weight that depends on both distributions: no f-divergence, and cells that are put together may come out larger.
NO_F_DIVERGENCE = {"adaptive_kl"}


def without(*left_out: set[str]) -> list[Loss]:
    return [loss for loss in LOSSES if not any(loss.kind in some for some in left_out)]


def named(loss: Loss) -> str:
    return "-".join(
        [loss.kind, *(f"{key}={value}" for key, value in loss.model_dump(exclude_defaults=True, exclude={"kind"}).items())]
    )


every = pytest.mark.parametrize("loss", LOSSES, ids=named)
shapes = given(n=st.integers(1, 5), c=st.integers(2, 30), spread=st.sampled_from([0.1, 1.0, 5.0, 30.0]), seed=st.integers(0, 999))


def pair(n: int, c: int, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a student and a teacher."""
    return drawn(n, c, spread, seed).log_softmax(-1), drawn(n, c, spread, seed + 1000).log_softmax(-1)


def head(weight: torch.Tensor) -> Head:
    return Head(weight, None, 1.0, None, weight.shape[0])


def test_the_losses_of_the_field_are_there() -> None:
    assert {"forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl", "adaptive_kl", "total_variation"} <= set(
        KINDS
    )


@every
@settings(max_examples=30, deadline=None)
@shapes
def test_it_is_one_finite_value_a_token_and_never_negative(loss: Loss, n: int, c: int, spread: float, seed: int) -> None:
    value_N = loss.formula(*pair(n, c, spread, seed))
    assert value_N.shape == (n,)
    assert bool(torch.isfinite(value_N).all())
    assert float(value_N.min()) >= -1e-10  # a floor lets the teacher's probabilities sum to 1 + C e^-30


@every
@settings(max_examples=20, deadline=None)
@shapes
def test_where_the_student_equals_the_teacher_value_and_gradient_are_0(
    loss: Loss, n: int, c: int, spread: float, seed: int
) -> None:
    scores = drawn(n, c, min(spread, 5.0), seed)
    teacher = scores.log_softmax(-1)
    assert float(loss.formula(teacher, teacher).abs().max()) <= 1e-9
    assert float(gradient(loss, scores, teacher).abs().max()) <= 1e-9


@every
@settings(max_examples=20, deadline=None)
@shapes
def test_the_order_of_cells_and_of_tokens_does_not_matter(loss: Loss, n: int, c: int, spread: float, seed: int) -> None:
    scores, (_, teacher) = drawn(n, c, spread, seed), pair(n, c, spread, seed)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(n, generator=generator), torch.randperm(c, generator=generator)
    value, slope = loss.formula(scores.log_softmax(-1), teacher), gradient(loss, scores, teacher)
    shuffled = [tensor[rows][:, columns] for tensor in (scores, teacher)]
    torch.testing.assert_close(loss.formula(shuffled[0].log_softmax(-1), shuffled[1]), value[rows], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient(loss, *shuffled), slope[rows][:, columns], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", without(NO_F_DIVERGENCE), ids=named)
@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 5), c=st.integers(3, 30), share=st.floats(0.0, 1.0), seed=st.integers(0, 999))
def test_words_put_together_in_a_tail_never_make_it_larger(loss: Loss, n: int, c: int, share: float, seed: int) -> None:
    """The data-processing inequality: what top-k and tail see is a part of what all words would show."""
    student, teacher = pair(n, c, 3.0, seed)
    k = max(1, min(c - 1, round(share * c)))
    order = teacher.argsort(dim=-1, descending=True)
    sorted_ones = [tensor.gather(1, order) for tensor in (student, teacher)]
    coarse = [torch.cat([one[:, :k], one[:, k:].logsumexp(-1, keepdim=True)], dim=1) for one in sorted_ones]
    assert bool((loss.formula(*coarse) <= loss.formula(student, teacher) + 1e-10).all())


@every
@settings(max_examples=20, deadline=None)
@shapes
def test_float32_is_near_float64(loss: Loss, n: int, c: int, spread: float, seed: int) -> None:
    student, teacher = (tensor.float() for tensor in pair(n, c, min(spread, 5.0), seed))
    low, exact = loss.formula(student, teacher), loss.formula(student.double(), teacher.double())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", without(HOLDS), ids=named)
@pytest.mark.parametrize("seed", [0, 1])
def test_gradcheck_of_the_formula(loss: Loss, seed: int) -> None:
    student, teacher = pair(4, 6, 2.0, seed)
    teacher[0, 0], teacher[1] = -math.inf, torch.tensor([0.0] + [-math.inf] * 5)  # probability 0, and exactly 1
    assert torch.autograd.gradcheck(lambda x: loss.formula(x, teacher), (student.requires_grad_(),))


@pytest.mark.parametrize("loss", without(HOLDS), ids=named)
@settings(max_examples=6, deadline=None)
@given(n=st.integers(1, 4), h=st.integers(1, 3), v=st.integers(3, 9), share=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_gradcheck_through_the_engine(loss: Loss, n: int, h: int, v: int, share: float, seed: int) -> None:
    """With a tail and, where K = V, without; one token and more; one token that counts nothing."""
    hidden, weight = drawn(n, h, 1.0, seed).requires_grad_(), drawn(v, h, 1.0, seed + 1).requires_grad_()
    top = drawn(n, v, 2.0, seed + 2).log_softmax(-1).topk(max(1, round(share * v)))
    counts = torch.tensor([0.5, 0.0, 2.0, 1.0])[:n]
    term = Term(loss.formula, Cells(top.indices, top.values), 0.7, 2.0, counts)
    assert torch.autograd.gradcheck(lambda x, w: cell_losses(x, head(w), [term])[0], (hidden, weight))


@pytest.mark.parametrize("loss", without(KINKED), ids=named)
def test_through_the_engine_an_equal_student_has_no_loss_and_no_gradient(loss: Loss) -> None:
    hidden, weight = drawn(5, 3, 1.0, 0).requires_grad_(), drawn(12, 3, 1.0, 1)
    for k in (1, 4, 12):
        top = torch.log_softmax(hidden.detach() @ weight.T / 2, -1).topk(k)
        total = cell_losses(hidden, head(weight), [Term(loss.formula, Cells(top.indices, top.values), 1.0, 2.0)])[0]
        assert float(total.detach()) == pytest.approx(0.0, abs=1e-9)
        assert float(torch.autograd.grad(total, hidden)[0].abs().max()) == pytest.approx(0.0, abs=1e-9)


def never_nan(loss: Loss, student: torch.Tensor, teacher: torch.Tensor) -> None:
    leaf = student.clone().requires_grad_()
    value = loss.formula(leaf, teacher)
    assert bool(torch.isfinite(value).all()), value
    slope = torch.autograd.grad(value.sum(), leaf)[0]
    assert bool(torch.isfinite(slope).all()), slope


@every
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_probabilities_of_0_and_1_give_finite_values_and_gradients(loss: Loss, dtype: torch.dtype) -> None:
    surely = torch.tensor([0.0, -math.inf, -math.inf], dtype=dtype)
    halves = torch.tensor([math.log(0.5), math.log(0.5), -math.inf], dtype=dtype)
    far = torch.tensor([0.0, -1e4, -2e4], dtype=dtype)
    tiny = torch.tensor([0.0, -103.0, -90.0], dtype=dtype)  # float32 has no normal number so small
    rows = [row.roll(turn) for row in (surely, halves, far, tiny) for turn in range(3)]
    student, teacher = (torch.stack(some) for some in zip(*((s, t) for s in rows for t in rows), strict=True))
    never_nan(loss, student, teacher)


@every
@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_scores_of_ten_thousand_stay_finite(loss: Loss, size: float, dtype: torch.dtype) -> None:
    hidden = torch.tensor([[size], [size], [1.0]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0], [0.5]], dtype=dtype, requires_grad=True)
    sure = torch.tensor([[0.6, 0.3], [0.0, 1.0], [1.0, 0.0]], dtype=dtype).log()
    for cells in (
        Cells(torch.tensor([[0, 1], [2, 3], [1, 2]]), sure),
        Cells(torch.arange(4).expand(3, 4), torch.tensor([[size, 0.0, -size, 1.0]] * 3, dtype=dtype).log_softmax(-1)),
    ):
        total = cell_losses(hidden, head(weight), [Term(loss.formula, cells, 1.0, 2.0)])[0]
        for tensor in (total, *torch.autograd.grad(total, (hidden, weight))):
            assert bool(torch.isfinite(tensor).all())


@every
def test_tokens_that_count_nothing_add_nothing_whatever_they_hold(loss: Loss) -> None:
    hidden = torch.tensor([[1e4], [-1e4], [0.5]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0], [0.5]], requires_grad=True)
    cells = Cells(torch.tensor([[0, 1]] * 3), torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.2, 0.1]]).log())
    total, sums = cell_losses(hidden, head(weight), [Term(loss.formula, cells, 1.0, 1.0, torch.zeros(3))])
    assert float(total.detach()) == float(sums[0]) == 0.0
    for slope in torch.autograd.grad(total, (hidden, weight)):
        assert float(slope.abs().max()) == 0.0
    excluded = loss.formula(torch.tensor([[-math.inf, 0.0]]), torch.tensor([[0.0, -math.inf]]))
    assert float((0.0 * excluded).sum()) == 0.0  # not NaN, as 0 times infinite would be


@every
def test_a_token_has_the_same_value_alone_and_among_others(loss: Loss) -> None:
    student, teacher = pair(6, 9, 3.0, 0)
    alone = torch.cat([loss.formula(student[n : n + 1], teacher[n : n + 1]) for n in range(6)])
    torch.testing.assert_close(loss.formula(student, teacher), alone, rtol=1e-12, atol=1e-14)
    assert loss.formula(student[:0], teacher[:0]).shape == (0,)


@every
def test_it_takes_samples_only_where_its_gradient_is_linear_in_the_teacher(loss: Loss) -> None:
    scores = drawn(3, 6, 1.0, 0)
    one, other = drawn(3, 6, 1.0, 1).softmax(-1), drawn(3, 6, 1.0, 2).softmax(-1)
    mean: Any = 0.5 * (gradient(loss, scores, one.log()) + gradient(loss, scores, other.log()))
    off = float((gradient(loss, scores, (0.5 * (one + other)).log()) - mean).abs().max())
    linear = off < 1e-12
    assert loss.takes_samples <= linear, "a sampled teacher would bias the gradient"
    if loss.kind in {"forward_kl", "reverse_kl", "skew_kl", "skew_reverse_kl", "total_variation"}:
        assert loss.takes_samples == linear


@every
def test_minimising_it_brings_the_student_to_the_teacher(loss: Loss) -> None:
    scores, teacher = drawn(4, 6, 1.0, 0).requires_grad_(), drawn(4, 6, 1.0, 1).log_softmax(-1)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=400)
    for _ in range(400):
        optimizer.zero_grad()
        loss.formula(scores.log_softmax(-1), teacher).sum().backward()
        optimizer.step()
        falling.step()
    torch.testing.assert_close(scores.detach().softmax(-1), teacher.exp(), rtol=0.0, atol=2e-3)
