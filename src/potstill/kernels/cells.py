"""The loss engine: any divergence between student and teacher, without the logits of the whole batch.

Names of tensors carry their shape: N target tokens, H hidden size, V vocabulary, K teacher entries a token, C cells: the K
singletons S and one tail cell that holds the rest of the vocabulary.

Let l_c = log Q_c be the student's cell log-probabilities, L(l) a loss, g_c = dL/dl_c and G = sum of all g_c. With
q = softmax(z), dl_c/dz_j = [j in c] q_j / Q_c - q_j, so

    on S:       dL/dz_j = g_j - q_j G
    outside S:  dL/dz_j = q_j (g_tail / Q_tail - G)

So a loss is a few lines of plain torch over [N, C], differentiated there by autograd. What is left is the same for every loss:
`sparse.py` for teachers that name a few words, `dense.py` for a teacher that is there with its own projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .dense import dense_losses
from .sparse import Result, sparse_losses
from .terms import Cells as Cells
from .terms import Formula as Formula
from .terms import Full as Full
from .terms import Head as Head
from .terms import Term as Term
from .terms import tail_logp as tail_logp
from .terms import target_loss as target_loss
from .terms import text_cells as text_cells
from .tiles import Wants

CHUNK_BYTES = 32 * 2**20


def cell_losses(hidden_NH: torch.Tensor, head: Head, terms: Sequence[Term]) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum over tokens and terms (differentiable in the hidden states and the head), and each term's own
    sum [number of terms] without its weight, detached, for the log. Not normalised: the caller divides by the global count."""
    apply: Any = _CellLosses.apply
    total, sums = apply(hidden_NH, head.weight_VH, head.bias_V, head, tuple(terms), torch.is_grad_enabled())
    return total, sums


@torch.no_grad()
def teacher_cells(hidden_NH: torch.Tensor, head: Head, top_k: int, temperature: float) -> Cells:
    """A local teacher's top-k log-probabilities at temperature T, chunk by chunk."""
    words_WH = head.weight_VH[: head.num_words].to(hidden_NH.dtype)
    bias_W = None if head.bias_V is None else head.bias_V[: head.num_words].float()
    indices, values = [], []
    for h_nH in hidden_NH.split(max(1, CHUNK_BYTES // (4 * head.num_words))):
        z_nW = logits(h_nH, words_WH, bias_W, head, torch.float32) / temperature
        top = z_nW.topk(min(top_k, head.num_words), dim=1)
        indices.append(top.indices)
        values.append(top.values - z_nW.logsumexp(dim=1, keepdim=True))
    return Cells(torch.cat(indices), torch.cat(values))


class _CellLosses(torch.autograd.Function):
    """Gradients are made with the value, and kept for one backward pass, which scales them in place: a copy would be as
    large as the head. A second one, which few ask for, makes them anew."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        head: Head,
        terms: tuple[Term, ...],
        learning: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.again = (head, terms)
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V)
        wants = Wants(*(learning and needed for needed in ctx.needs_input_grad[:3]))
        result = _losses(hidden_NH, head._replace(weight_VH=weight_VH, bias_V=bias_V), terms, wants)
        ctx.gradients = result[1:]
        shares = [term.weight * term.temperature**2 for term in terms]
        total = (result.sums * torch.tensor(shares, dtype=result.sums.dtype, device=result.sums.device)).sum()
        ctx.mark_non_differentiable(result.sums)
        return total, result.sums

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Any, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            hidden_NH, weight_VH, bias_V = ctx.saved_tensors
            head, terms = ctx.again
            wants = Wants(*ctx.needs_input_grad[:3])
            gradients = _losses(hidden_NH, head._replace(weight_VH=weight_VH, bias_V=bias_V), terms, wants)[1:]
        if outputs[0].device.type != "cpu" or float(outputs[0]) != 1.0:  # to look at it elsewhere would wait for the device
            gradients = tuple(gradient if gradient is None else gradient.mul_(outputs[0]) for gradient in gradients)
        return (*gradients, None, None, None)


def _remember_freed_memory() -> None:
    """glibc's malloc gives what is freed back to the system, and pays for it again page by page, until a large block was
    freed once: then it keeps up to twice that. The arrays of a tile come and go a hundred times a call (8% of it)."""
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


@torch.no_grad()
def _losses(hidden_NH: torch.Tensor, head: Head, terms: Sequence[Term], wants: Wants) -> Result:
    _remember_freed_memory()
    with torch.autocast(hidden_NH.device.type, enabled=False):
        dense = any(isinstance(term.cells, Full) for term in terms)
        assert not dense or all(term.span_N is None for term in terms), "a teacher that is there has the student's tokens"
        return (dense_losses if dense else sparse_losses)(hidden_NH.detach(), head, terms, wants)


def logits(
    h_nH: torch.Tensor, words_WH: torch.Tensor, bias_W: torch.Tensor | None, head: Head, exact: torch.dtype
) -> torch.Tensor:
    """softcap(scale (h W^T + b)) [n, W] in the precision `exact`, of a few tokens and all words."""
    z_nW = (h_nH @ words_WH.T).to(exact)
    if bias_W is not None:
        z_nW += bias_W
    if head.scale != 1.0:
        z_nW *= head.scale
    if head.softcap is not None:
        z_nW = head.softcap * torch.tanh(z_nW / head.softcap)
    return z_nW
