"""The Triton kernels against plain torch in float64.

On a GPU: `pytest tests/kernels/test_fused.py`; without one, in Triton's interpreter, `TRITON_INTERPRET=1` before it.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from potstill.kernels import fused, tiles
from potstill.kernels.cells import Cells, Head, Term, cell_losses, target_loss, text_cells
from potstill.plugins import load_plugin

KL = load_plugin("losses", "forward_kl").formula
JSD = load_plugin("losses", "jensen_shannon").formula
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(
        DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1",
        reason="no GPU; set TRITON_INTERPRET=1 to run the kernels in Triton's interpreter",
    ),
]


def made(n: int, h: int, v: int, k: int, padding: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Cells, Cells]:
    """Hidden states, head, bias, and two teachers: one sure of a word, one of k words, some of which are none."""
    generator = torch.Generator().manual_seed(n + v)
    hidden, weight, bias = (torch.randn(*size, generator=generator) for size in ((n, h), (v, h), (v,)))
    top = torch.log_softmax(2 * torch.randn(n, v - padding, generator=generator), dim=-1).topk(k, dim=-1)
    index, logp = top.indices, top.values.clone()
    index[::3, -1], logp[::3, -1] = -1, -torch.inf
    text = text_cells(torch.randint(v - padding, (n,), generator=generator))
    return hidden / h**0.5, 2 * weight, bias, text, Cells(index, logp)


def moved(cells: Cells) -> Cells:
    return Cells(cells.index_NK.to(DEVICE), cells.logp_NK.to(DEVICE))


def slopes(leaves: list[torch.Tensor], learned: int, scale: float, softcap: float | None, padding: int, terms: list[Term],
           ) -> list[torch.Tensor]:  # fmt: skip
    """The terms' sums, the total, and the gradients of the first so many leaves."""
    own = [leaf.clone().requires_grad_(number < learned) for number, leaf in enumerate(leaves)]
    head = Head(own[1], own[2] if len(own) > 2 else None, scale, softcap, len(own[1]) - padding)
    total, sums = cell_losses(own[0], head, terms)
    return [part.detach().double().cpu() for part in (sums, total, *torch.autograd.grad(total, own[:learned]))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (1.0, 2.0), (None, 3.0)])
@pytest.mark.parametrize(
    ("bent", "scale", "softcap", "padding"),
    [(False, 1.0, None, 0), (True, 0.7, None, 3), (False, 1.3, 4.0, 0), (True, 1.0, 6.0, 5)],
)
@pytest.mark.parametrize("learned", [1, 3])
def test_the_kernels_give_what_plain_torch_gives_in_float64(
    learned: int, bent: bool, scale: float, softcap: float | None, padding: int, temperatures: tuple[float | None, float],
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hidden, weight, bias, text, few = made(11, 8, 300, 5, padding)
    leaves = [leaf.to(DEVICE, dtype) for leaf in (hidden, weight, bias)[: 3 if bent else 2]]
    counts = torch.linspace(0, 2, len(hidden), device=DEVICE)
    terms = [Term(KL if temperatures[0] else JSD, moved(few), 0.75, temperatures[1], counts)]
    if temperatures[0]:
        terms.append(Term(target_loss, moved(text), 0.25, temperatures[0]))
    monkeypatch.setitem(tiles.TILE_ELEMENTS, DEVICE, 2**10)
    assert fused.is_fused(leaves[0])
    assert not fused.is_fused(leaves[0].double())
    learned = min(learned, len(leaves))
    exact = slopes([leaf.double() for leaf in leaves], learned, scale, softcap, padding, terms)
    own = slopes(leaves, learned, scale, softcap, padding, terms)
    for one, other in zip(exact, own, strict=True):
        assert float((one - other).norm() / one.norm()) < (5e-6 if dtype == torch.float32 else 0.015)


def test_more_tokens_than_a_block_holds_and_a_head_of_several_blocks_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, _, text, few = made(37, 4, 5000, 3, 0)
    leaves = [hidden.to(DEVICE), weight.to(DEVICE)]
    terms = [Term(target_loss, moved(text), 0.5, 1.0), Term(KL, moved(few), 0.5, 1.0)]
    monkeypatch.setitem(tiles.BUDGET_BYTES, DEVICE, 2**14)
    exact = slopes([leaf.double() for leaf in leaves], 2, 1.0, None, 0, terms)
    for budget in (2**14, 2**28):
        monkeypatch.setitem(tiles.BUDGET_BYTES, DEVICE, budget)
        for one, other in zip(exact, slopes(leaves, 2, 1.0, None, 0, terms), strict=True):
            assert float((one - other).norm() / one.norm()) < 5e-6


def test_ten_thousand_and_a_word_of_no_probability_stay_finite() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], device=DEVICE, requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0], [0.5]], device=DEVICE, requires_grad=True)
    cells = Cells(torch.tensor([[0, 1], [2, -1]]), torch.tensor([[0.0, -torch.inf], [-0.1, -torch.inf]]))
    total, _ = cell_losses(hidden, Head(weight, None, 1.0, None, 4), [Term(KL, moved(cells), 1.0, 2.0)])
    assert all(bool(torch.isfinite(part).all()) for part in (total, *torch.autograd.grad(total, (hidden, weight))))
