"""Spans of several tokens as one cell: hand-computed, against plain autograd, and however the tokens are cut into blocks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.contracts import LayerLoss
from potstill.kernels import entries, tiles
from potstill.kernels.cells import Cells, Head, Term, cell_losses, tail_logp, target_loss, text_cells
from potstill.kernels.spans import NO_CELL, spanned, untorn
from potstill.plugins import load_plugin, plugin_class, plugin_kinds
from potstill.types import Signal

F64 = torch.float64
KL = load_plugin("losses", "forward_kl")
KINDS = [info.kind for info in plugin_kinds("losses") if not issubclass(plugin_class("losses", info.kind), LayerLoss)]
ON_CELLS = [load_plugin("losses", kind) for kind in KINDS if plugin_class("losses", kind).needs > Signal.TEXT]


def head(weight: torch.Tensor) -> Head:
    return Head(weight, None, 1.0, None, weight.shape[0])


def made(sizes: list[int], h: int, v: int, k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, Cells, torch.Tensor]:
    """Hidden states, head, cells and spans of these sizes: a lone token has k words, each of several its own word."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    hidden, weight = (torch.randn(size, h, dtype=F64, generator=generator) for size in (n, v))
    top = torch.log_softmax(2 * torch.randn(n, v, dtype=F64, generator=generator), dim=-1).topk(k, dim=-1)
    index, logp, span = top.indices.clone(), top.values.clone(), torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    start = 0
    for size in sizes:
        if size > 1:
            index[start : start + size, 1:], logp[start : start + size, 1:] = -1, -math.inf
            logp[start + 1 : start + size] = -math.inf
        start += size
    return hidden, weight, Cells(index, logp), span


def plainly(logits: torch.Tensor, cells: Cells, sizes: list[int], temperature: float, loss: object = KL) -> torch.Tensor:
    """The loss of every span, written out with the whole softmax, times T^2."""
    logq, start, total = torch.log_softmax(logits / temperature, dim=-1), 0, torch.zeros((), dtype=F64)
    for size in sizes:
        words = [[int(word) for word in row if word >= 0] for row in cells.index_NK[start : start + size]]
        if size == 1:
            own = logq[start, words[0]]
            teacher = cells.logp_NK[start, : len(words[0])]
        else:
            own = torch.stack([logq[start + j, words[j][0]] for j in range(size)]).sum()[None]
            teacher = cells.logp_NK[start, :1]
        student = torch.cat([own, torch.log1p(-own.exp().sum())[None]])
        total = total + loss.formula(student[None], torch.cat([teacher, tail_logp(teacher[None])])[None])[0]  # type: ignore[attr-defined]
        start += size
    return temperature**2 * total


def test_a_teachers_token_that_the_student_says_in_two_is_computed_by_hand() -> None:
    # The student gives the first token 1/2 and the second 1/4: the span 1/8. The teacher gives it 1/2.
    logp = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=F64).log()
    hidden, weight = logp, torch.eye(2, dtype=F64)
    cells = Cells(torch.tensor([[0], [0]]), torch.tensor([[math.log(0.5)], [-math.inf]], dtype=F64))
    total, _ = cell_losses(hidden, head(weight), [Term(KL.formula, cells, 1.0, 1.0, None, torch.tensor([7, 7]))])
    assert float(total) == pytest.approx(0.5 * math.log(0.5 / 0.125) + 0.5 * math.log(0.5 / 0.875), abs=1e-12)


def test_a_students_token_that_the_teacher_says_in_two_is_computed_by_hand() -> None:
    # The teacher's tokens have 1/2 and 1/4, so the span 1/8; the student's one token 1/2.
    hidden, weight = torch.tensor([[0.0]], dtype=F64), torch.zeros(2, 1, dtype=F64)
    cells = Cells(torch.tensor([[1, -1]]), torch.tensor([[math.log(0.5) + math.log(0.25), -math.inf]], dtype=F64))
    total, _ = cell_losses(hidden, head(weight), [Term(KL.formula, cells, 1.0, 1.0, None, torch.tensor([0]))])
    assert float(total) == pytest.approx(0.125 * math.log(0.125 / 0.5) + 0.875 * math.log(0.875 / 0.5), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=7),
    k=st.integers(1, 4),
    temperature=st.sampled_from([0.7, 1.0, 2.0]),
    seed=st.integers(0, 999),
)
def test_value_and_gradients_equal_plain_autograd(sizes: list[int], k: int, temperature: float, seed: int) -> None:
    hidden, weight, cells, span = made(sizes, 3, 9, k, seed)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    ours = cell_losses(hidden, head(weight), [Term(KL.formula, cells, 1.0, temperature, None, span)])[0]
    plain = plainly(hidden @ weight.T, cells, sizes, temperature)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-10)
    for own, reference in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(plain, leaves), strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("loss", [one for one in ON_CELLS if one.kind != "adaptive_kl"], ids=lambda loss: loss.kind)
def test_gradcheck_of_every_loss_over_spans(loss: object) -> None:
    """With a span that counts nothing, and cross entropy over single tokens beside it at another temperature."""
    hidden, weight, cells, span = made([2, 1, 3, 1], 3, 8, 3, seed=5)
    counts = torch.tensor([0.5, 9.0, 2.0, 0.0, 9.0, 9.0, 1.0])
    text = Term(target_loss, text_cells(torch.arange(7)), 0.3, 1.0)

    def total(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return cell_losses(h, head(w), [text, Term(loss.formula, cells, 0.7, 2.0, counts, span)])[0]  # type: ignore[attr-defined]

    assert torch.autograd.gradcheck(total, (hidden.requires_grad_(), weight.requires_grad_()))


def test_spans_are_never_torn_whatever_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [3, 1, 1, 4, 2, 1, 6, 1]
    hidden, weight, cells, span = made(sizes, 3, 9, 3, seed=1)
    text = Term(target_loss, text_cells(torch.arange(len(span)) % 9), 0.5, 1.0)
    results = []
    for elements, budget in ((2**17, 40 * 2**20), (1, 40 * 2**20), (4, 2500), (2**17, 1500), (1, 1)):
        monkeypatch.setattr(entries, "EPILOGUE_ELEMENTS", elements)
        monkeypatch.setitem(tiles.BUDGET_BYTES, "cpu", budget)
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        total, sums = cell_losses(h, head(w), [text, Term(KL.formula, cells, 1.0, 1.0, None, span)])
        results.append((total.detach(), sums, *torch.autograd.grad(total, (h, w))))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_a_frozen_head_and_spans_of_one_token_give_what_ordinary_cells_give() -> None:
    hidden, weight, cells, _ = made([1] * 6, 3, 9, 4, seed=2)
    found = []
    for span in (None, torch.arange(6)):
        h = hidden.clone().requires_grad_()
        total = cell_losses(h, head(weight), [Term(KL.formula, cells, 1.0, 2.0, None, span)])[0]
        found.append((total.detach(), torch.autograd.grad(total, h)[0]))
    assert bool(found[0][0] == found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_anything_else_is_known_where_a_span_is_all_but_sure_or_impossible() -> None:
    sure = torch.tensor([[-1e-30, -69.0], [0.0, NO_CELL]], dtype=F64)
    logp, first = spanned(sure, torch.tensor([0, 0]))
    assert first.tolist() == [0]
    assert logp[0].tolist() == pytest.approx([-1e-30, -69.0])
    scores = torch.tensor([[1e4], [-1e4], [1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    cells = Cells(torch.tensor([[0], [0], [2]]), torch.tensor([[math.log(0.5)], [-math.inf], [-math.inf]]))
    total = cell_losses(scores, head(weight), [Term(KL.formula, cells, 1.0, 1.0, None, torch.zeros(3, dtype=torch.long))])[0]
    for tensor in (total, *torch.autograd.grad(total, (scores, weight))):
        assert bool(torch.isfinite(tensor).all())


def test_edges_go_back_to_the_beginning_of_a_span() -> None:
    span = torch.tensor([0, 0, 0, 1, 2, 2])
    assert untorn([0, 2, 4, 6], [span]) == [0, 4, 6]
    assert untorn([0, 1, 5, 6], [span, torch.tensor([0, 1, 2, 2, 2, 3])]) == [0, 6]
    assert untorn([0, 2, 4, 6], []) == [0, 2, 4, 6]
    assert untorn([0], [span[:0]]) == [0]


def test_no_token_at_all_is_no_loss() -> None:
    hidden, weight = torch.zeros(0, 3, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    cells = Cells(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2))
    total, _ = cell_losses(hidden, head(weight), [Term(KL.formula, cells, 1.0, 1.0, None, torch.zeros(0, dtype=torch.long))])
    assert float(total.detach()) == 0.0
