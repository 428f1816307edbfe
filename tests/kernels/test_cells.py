"""The loss engine against hand-computed values, float64 autograd, and the shapes where such engines break."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.contracts import LayerLoss
from potstill.kernels import tiles
from potstill.kernels.cells import Cells, Head, Term, cell_losses, tail_logp, target_loss, teacher_cells, text_cells
from potstill.plugins import load_plugin, plugin_class, plugin_kinds

F64 = torch.float64
KL = load_plugin("losses", "forward_kl")
EVERY_LOSS = [info.kind for info in plugin_kinds("losses") if not issubclass(plugin_class("losses", info.kind), LayerLoss)]


def head(weight: torch.Tensor, bias: torch.Tensor | None = None, **changes: object) -> Head:
    return Head(weight, bias, 1.0, None, weight.shape[0])._replace(**changes)


def problem(n: int, h: int, v: int, k: int, seed: int = 0, spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor, Cells]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, h, dtype=F64, generator=generator)
    weight = torch.randn(v, h, dtype=F64, generator=generator)
    teacher = torch.log_softmax(spread * torch.randn(n, v, dtype=F64, generator=generator), dim=-1)
    top = teacher.topk(k, dim=-1)
    return hidden, weight, Cells(top.indices, top.values)


def plain_kl(logits: torch.Tensor, cells: Cells, temperature: float) -> torch.Tensor:
    """Forward KL over the same cells, written the plain way, times T^2."""
    student = torch.log_softmax(logits / temperature, dim=-1).gather(1, cells.index_NK)
    p = cells.logp_NK.exp()
    rest_p, rest_q = 1 - p.sum(1), 1 - student.exp().sum(1)
    return temperature**2 * ((p * (cells.logp_NK - student)).sum(1) + rest_p * (rest_p.log() - rest_q.log())).sum()


def test_cross_entropy_and_kl_equal_values_computed_by_hand() -> None:
    # Two words with logits ln 3 and 0 give the student 3/4 and 1/4; the teacher says 1/2 and 1/2.
    hidden, weight = torch.tensor([[1.0]], dtype=F64), torch.tensor([[math.log(3.0)], [0.0]], dtype=F64)
    text = Term(target_loss, text_cells(torch.tensor([1])), 1.0, 1.0)
    assert float(cell_losses(hidden, head(weight), [text])[0]) == pytest.approx(math.log(4))
    cells = Cells(torch.tensor([[0, 1]]), torch.tensor([[math.log(0.5)] * 2], dtype=F64))
    by_hand = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(cell_losses(hidden, head(weight), [Term(KL.formula, cells, 1.0, 1.0)])[0]) == pytest.approx(by_hand)
    one = Cells(torch.tensor([[0]]), torch.tensor([[math.log(0.5)]], dtype=F64))  # the other word is the tail
    assert float(cell_losses(hidden, head(weight), [Term(KL.formula, one, 2.0, 1.0)])[0]) == pytest.approx(2 * by_hand)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9),
    h=st.integers(1, 6),
    v=st.integers(3, 40),
    share=st.floats(0.05, 1.0),
    temperature=st.sampled_from([0.7, 1.0, 2.0, 4.0]),
    seed=st.integers(0, 1000),
)
def test_value_and_gradients_equal_plain_autograd(n: int, h: int, v: int, share: float, temperature: float, seed: int) -> None:
    k = max(1, min(v - 1, round(share * v)))
    hidden, weight, cells = problem(n, h, v, k, seed)
    bias = torch.linspace(-1, 1, v, dtype=F64)
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    ours = cell_losses(hidden, head(weight, bias), [Term(KL.formula, cells, 1.0, temperature)])[0]
    plain = plain_kl(hidden @ weight.T + bias, cells, temperature)
    torch.testing.assert_close(ours, plain, rtol=1e-7, atol=1e-8)
    for own, reference in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(plain, leaves), strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [kind for kind in EVERY_LOSS if kind != "adaptive_kl"])  # that one holds its weights constant
@pytest.mark.parametrize("changes", [{}, {"scale": 0.5}, {"softcap": 4.0}, {"num_words": 11}])
def test_gradcheck_of_every_loss(kind: str, changes: dict[str, object]) -> None:
    loss = load_plugin("losses", kind)
    hidden, weight, cells = problem(5, 4, 13, 3, seed=3)
    cells = Cells(cells.index_NK % 3 + torch.tensor([[0, 3, 6]]), cells.logp_NK)  # distinct words below num_words
    terms = [Term(loss.formula, cells if loss.needs else text_cells(torch.tensor([0, 1, 2, 3, 4])), 0.7, 2.0)]

    def total(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return cell_losses(h, head(w, None, **changes), terms)[0]

    assert torch.autograd.gradcheck(total, (hidden.requires_grad_(), weight.requires_grad_()))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_logits_of_ten_thousand_stay_finite(size: float) -> None:
    hidden = torch.tensor([[size], [size]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0], [0.5]], requires_grad=True)
    cells = Cells(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0.6, 0.3], [0.9, 0.05]]).log())
    for term in (Term(KL.formula, cells, 1.0, 2.0), Term(target_loss, text_cells(torch.tensor([1, 3])), 1.0, 1.0)):
        total, _ = cell_losses(hidden, head(weight), [term])
        gradients = torch.autograd.grad(total, (hidden, weight))
        assert all(bool(torch.isfinite(gradient).all()) for gradient in (total, *gradients))


def test_a_teacher_that_is_sure_or_excludes_a_word_gives_finite_loss_and_gradient() -> None:
    hidden, weight, _ = problem(1, 3, 6, 2)
    cells = Cells(torch.tensor([[0, 1]]), torch.tensor([[0.0, -math.inf]], dtype=F64))  # probabilities 1 and 0, no tail
    hidden.requires_grad_()
    total = cell_losses(hidden, head(weight), [Term(KL.formula, cells, 1.0, 1.0)])[0]
    by_hand = -torch.log_softmax(hidden @ weight.T, dim=-1)[0, 0]
    torch.testing.assert_close(total, by_hand)
    (gradient,) = torch.autograd.grad(total, hidden)
    torch.testing.assert_close(gradient, torch.autograd.grad(by_hand, hidden)[0])


def test_padded_vocabulary_gets_no_probability_and_no_gradient() -> None:
    hidden, weight, cells = problem(4, 3, 10, 3)
    padded = torch.cat([weight, 100 * torch.ones(6, 3, dtype=F64)]).requires_grad_()
    term = Term(KL.formula, cells, 1.0, 1.0)
    total = cell_losses(hidden, head(padded, None, num_words=10), [term])[0]
    torch.testing.assert_close(total, cell_losses(hidden, head(weight), [term])[0])
    (gradient,) = torch.autograd.grad(total, padded)
    assert bool((gradient[10:] == 0).all())
    assert int(teacher_cells(hidden, head(padded.detach(), None, num_words=10), 4, 1.0).index_NK.max()) < 10


def test_a_frozen_head_gets_no_gradient_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, cells = problem(4, 3, 10, 3)
    hidden.requires_grad_()
    made: list[torch.Size] = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, **kw: (made.append(zeros(*size).shape), zeros(*size, **kw))[1])
    total = cell_losses(hidden, head(weight), [Term(KL.formula, cells, 1.0, 1.0)])[0]
    total.backward()
    assert weight.shape not in made
    assert hidden.grad is not None


def test_bf16_hidden_states_stay_within_bf16_rounding_of_float64() -> None:
    hidden, weight, cells = problem(32, 16, 100, 8, spread=1.0)
    term = Term(KL.formula, Cells(cells.index_NK, cells.logp_NK.float()), 1.0, 1.0)
    exact = cell_losses(hidden.bfloat16().double(), head(weight.bfloat16().double()), [Term(KL.formula, cells, 1.0, 1.0)])[0]
    low = cell_losses(hidden.bfloat16(), head(weight.bfloat16()), [term])[0]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), exact, rtol=2e-2, atol=2e-2)


def test_a_teacher_equal_to_the_student_has_no_divergence_at_any_temperature() -> None:
    hidden, weight, _ = problem(6, 4, 20, 5)
    for temperature in (1.0, 3.0):
        cells = teacher_cells(hidden, head(weight), 5, temperature)
        total, sums = cell_losses(hidden, head(weight), [Term(KL.formula, cells, 1.0, temperature)])
        assert float(total) == pytest.approx(0.0, abs=1e-5)
        assert float(sums[0]) == pytest.approx(0.0, abs=1e-5)


def test_a_token_of_fewer_words_than_others_has_a_gradient_through_a_frozen_head_with_a_softcap() -> None:
    hidden, weight, cells = problem(4, 3, 10, 3)
    cells.index_NK[::2, -1], cells.logp_NK[::2, -1] = -1, -math.inf
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight)]
    term = Term(KL.formula, cells, 1.0, 2.0)
    whole = torch.autograd.grad(cell_losses(hidden, head(weight, softcap=2.0), [term])[0], leaves)[0]
    frozen = torch.autograd.grad(cell_losses(hidden, head(weight.detach(), softcap=2.0), [term])[0], hidden)[0]
    assert bool(torch.isfinite(whole).all())
    torch.testing.assert_close(frozen, whole)


def test_no_token_at_all_is_a_loss_of_zero() -> None:
    weight = torch.randn(5, 3, requires_grad=True)
    nothing = Cells(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2))
    total, _ = cell_losses(torch.zeros(0, 3), head(weight), [Term(KL.formula, nothing, 1.0, 1.0)])
    total.backward()
    assert float(total.detach()) == 0.0
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) == 0.0


def test_the_tail_is_what_the_words_leave() -> None:
    logp = torch.tensor([[0.5, 0.25], [0.75, 0.25]], dtype=F64).log()
    assert tail_logp(logp).tolist() == [pytest.approx(math.log(0.25)), -math.inf]


def test_a_tokens_count_multiplies_its_loss_and_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, cells = problem(9, 4, 13, 3)
    counts = torch.tensor([1.0, 0.25, 3.0] * 3)
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight)]
    text = text_cells(torch.arange(9))
    terms = [Term(target_loss, text, 0.25, 1.0, counts), Term(KL.formula, cells, 0.75, 2.0, counts)]
    whole = cell_losses(hidden, head(weight), terms)[0]
    alone = [
        [
            Term(target_loss, text_cells(torch.tensor([n])), 0.25, 1.0),
            Term(KL.formula, Cells(*(t[n : n + 1] for t in cells)), 0.75, 2.0),
        ]
        for n in range(9)
    ]
    by_row = sum(float(count) * cell_losses(hidden[n : n + 1], head(weight), alone[n])[0] for n, count in enumerate(counts))
    assert isinstance(by_row, torch.Tensor)
    torch.testing.assert_close(whole, by_row, rtol=1e-9, atol=1e-9)
    wanted = torch.autograd.grad(by_row, leaves)
    for own, reference in zip(torch.autograd.grad(whole, leaves), wanted, strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-9, atol=1e-9)
    monkeypatch.setitem(tiles.BUDGET_BYTES, "cpu", 1)  # a token a block: each block takes its own counts
    torch.testing.assert_close(cell_losses(hidden, head(weight), terms)[0], whole)
