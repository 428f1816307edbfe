"""How a call is cut never changes its result; and where logits are kept, nothing is written over them too early."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potstill.kernels import tiles
from potstill.kernels.cells import Cells, Head, Term, cell_losses, target_loss, text_cells
from potstill.kernels.tiles import Plan, Tiles
from potstill.plugins import load_plugin

F64 = torch.float64
KL = load_plugin("losses", "forward_kl").formula


def head(weight: torch.Tensor, **changes: object) -> Head:
    return Head(weight, None, 1.0, None, weight.shape[0])._replace(**changes)


@given(
    n=st.integers(1, 40),
    h=st.integers(1, 24),
    v=st.integers(1, 50),
    padding=st.integers(0, 5),
    width=st.integers(1, 50),
    dtype=st.sampled_from([torch.float32, F64]),
)
def test_kept_logits_stand_below_what_pass_2_has_written_and_apart(
    n: int, h: int, v: int, padding: int, width: int, dtype: torch.dtype
) -> None:
    gradient = torch.zeros(v + padding, h, dtype=dtype)
    cut = Tiles(torch.zeros(n, h, dtype=dtype), head(gradient, num_words=v), Plan(n, min(width, v), 0), gradient)
    row, upper, base = h * dtype.itemsize, v * h * dtype.itemsize, gradient.data_ptr()
    for number in reversed(range(len(cut))):
        room = cut.product(number, torch.zeros(cut.bounds[number + 1] - cut.bounds[number], h, dtype=dtype), again=True)
        start = room.data_ptr() - base
        if not 0 <= start < gradient.nbytes:
            assert all(not 0 <= cut.product(k, cut.weight(k)).data_ptr() - base < gradient.nbytes for k in range(number))
            break
        assert start + room.nbytes <= min(upper, cut.bounds[number + 1] * row)
        upper = start


def test_as_many_tokens_as_the_hidden_size_keep_nearly_all_logits_in_the_heads_gradient() -> None:
    gradient = torch.zeros(1024, 32, dtype=F64)
    cut = Tiles(torch.zeros(32, 32, dtype=F64), head(gradient), Plan(32, 64, 0), gradient)
    kept = [cut.product(k, cut.weight(k)).data_ptr() - gradient.data_ptr() for k in range(len(cut))]
    assert kept == [k * 64 * 32 * 8 for k in range(16)]


def made(n: int, h: int, v: int, k: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[Term]]:
    """Hidden states, head, bias and terms of two temperatures."""
    generator = torch.Generator().manual_seed(7)
    hidden, weight, bias = (torch.randn(*size, dtype=F64, generator=generator) for size in ((n, h), (v, h), (v,)))
    top = torch.log_softmax(3 * torch.randn(n, v - 4, dtype=F64, generator=generator), dim=-1).topk(k, dim=-1)
    text = text_cells(torch.randint(v - 4, (n,), generator=generator))
    terms = [Term(target_loss, text, 0.25, 1.0), Term(KL, Cells(top.indices, top.values), 0.75, 2.0)]
    return (hidden / h**0.5).to(dtype), weight.to(dtype), bias.to(dtype), terms


def slopes(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, terms: list[Term], softcap: float | None,
           ) -> list[torch.Tensor]:  # fmt: skip
    """The total, and the gradients in hidden states, head and bias."""
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias) if tensor is not None]
    own = Head(leaves[1], leaves[2] if bias is not None else None, 1.3, softcap, len(weight) - 4)
    total = cell_losses(leaves[0], own, terms)[0]
    return [total.detach(), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("num_terms", [1, 2])
@pytest.mark.parametrize(("bent", "softcap"), [(False, None), (True, None), (False, 5.0)])
@pytest.mark.parametrize("num_tokens", [5, 16, 23, 70])
def test_the_cut_never_changes_the_result(
    num_tokens: int, bent: bool, softcap: float | None, num_terms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, bias, terms = made(num_tokens, 16, 300, 6, F64)
    given_bias = bias if bent else None
    whole = slopes(hidden, weight, given_bias, terms[-num_terms:], softcap)
    for budget, elements in ((1, 2**9), (2**15, 2**11), (2**20, 2**10)):
        monkeypatch.setitem(tiles.BUDGET_BYTES, "cpu", budget)
        monkeypatch.setitem(tiles.TILE_ELEMENTS, "cpu", elements)
        for one, other in zip(whole, slopes(hidden, weight, given_bias, terms[-num_terms:], softcap), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("hidden_dtype", "weight_dtype"), [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_bf16_products_in_several_tiles_stay_within_bf16_rounding_of_float64(
    hidden_dtype: torch.dtype, weight_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, _, terms = made(20, 16, 700, 6, torch.bfloat16)  # more tokens than the gradient in bf16 has room for
    exact = slopes(hidden.double(), weight.double(), None, terms, None)
    monkeypatch.setitem(tiles.TILE_ELEMENTS, "cpu", 2**9)
    low = slopes(hidden.to(hidden_dtype), weight.to(weight_dtype), None, terms, None)
    for one, other in zip(exact, low, strict=True):
        assert float((other.double() - one).norm() / one.norm()) < 0.01
