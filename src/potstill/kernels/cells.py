"""The loss engine: any divergence over teacher cells, without the logits of the whole batch.

Names of tensors carry their shape: N target tokens, H hidden size, V vocabulary, K teacher entries a token, C = K + 1
cells (the K singletons S and one tail cell that holds the rest of the vocabulary).

Let l_c = log Q_c be the student's cell log-probabilities, L(l) a loss, g_c = dL/dl_c and G = sum of all g_c. With
q = softmax(z), dl_c/dz_j = [j in c] q_j / Q_c - q_j, so

    on S:       dL/dz_j = g_j - q_j G
    outside S:  dL/dz_j = q_j (g_tail / Q_tail - G) = r_j (g_tail - Q_tail G),   r = softmax over the tail alone

The second form never divides by a tail probability that underflows. So a loss is a few lines of plain torch over
[N, C], differentiated there by autograd, and one chunked pass over tokens gives loss and gradients: no more than
CHUNK_BYTES of logits live at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

CHUNK_BYTES = 32 * 2**20
Formula = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Head(NamedTuple):
    """The projection onto the vocabulary: logits = softcap(scale (h W^T + b)); only `num_words` rows are real words."""

    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None
    scale: float
    softcap: float | None
    num_words: int


class Cells(NamedTuple):
    """What a teacher says of N tokens: K words each with log-probabilities; the tail holds what they leave."""

    index_NK: torch.Tensor
    logp_NK: torch.Tensor


class Term(NamedTuple):
    """One loss of the weighted sum. Its value and gradient are multiplied by weight and temperature^2, and those of each
    token by what the token counts; None: all count 1."""

    formula: Formula
    cells: Cells
    weight: float
    temperature: float
    counts_N: torch.Tensor | None = None


def cell_losses(hidden_NH: torch.Tensor, head: Head, terms: Sequence[Term]) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum over tokens and terms (differentiable in the hidden states and the head), and each term's own
    sum [number of terms] without its weight, detached, for the log. Not normalised: the caller divides by the global count."""
    apply: Any = _CellLosses.apply
    total, sums = apply(hidden_NH, head.weight_VH, head.bias_V, head, tuple(terms), torch.is_grad_enabled())
    return total, sums


def tail_logp(logp_NK: torch.Tensor) -> torch.Tensor:
    """log(1 - sum of the K probabilities) [N]; -inf where they leave nothing (to the precision of the sum)."""
    rest_N = 1.0 - logp_NK.double().exp().sum(dim=-1)
    return torch.where(rest_N > 0, rest_N.clamp_min(1e-300).log(), -torch.inf).to(logp_NK.dtype)


def text_cells(target_N: torch.Tensor) -> Cells:
    """The text as a teacher that is sure: one cell of probability 1."""
    return Cells(target_N[:, None], torch.zeros(len(target_N), 1, device=target_N.device))


def target_loss(student_logp_NC: torch.Tensor, teacher_logp_NC: torch.Tensor) -> torch.Tensor:
    """Cross entropy with the text: the formula of the validation loss [N]."""
    return -student_logp_NC[:, 0]


@torch.no_grad()
def teacher_cells(hidden_NH: torch.Tensor, head: Head, top_k: int, temperature: float) -> Cells:
    """A local teacher's top-k log-probabilities at temperature T, chunk by chunk."""
    words_WH = head.weight_VH[: head.num_words].to(hidden_NH.dtype)
    bias_W = None if head.bias_V is None else head.bias_V[: head.num_words].float()
    indices, values = [], []
    for h_nH in hidden_NH.split(max(1, CHUNK_BYTES // (4 * head.num_words))):
        z_nW = _logits(h_nH, words_WH, bias_W, head, torch.float32) / temperature
        top = z_nW.topk(min(top_k, head.num_words), dim=1)
        indices.append(top.indices)
        values.append(top.values - z_nW.logsumexp(dim=1, keepdim=True))
    return Cells(torch.cat(indices), torch.cat(values))


class _CellLosses(torch.autograd.Function):
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
        needs_hidden, needs_weight, needs_bias = (learning and needed for needed in ctx.needs_input_grad[:3])
        with torch.autocast(hidden_NH.device.type, enabled=False):
            exact = torch.float64 if hidden_NH.dtype == torch.float64 else torch.float32
            words_WH = weight_VH[: head.num_words].to(hidden_NH.dtype)
            bias_W = None if bias_V is None else bias_V[: head.num_words].to(exact)
            sums = torch.zeros(len(terms), dtype=exact, device=hidden_NH.device)
            d_hidden = torch.empty_like(hidden_NH) if needs_hidden else None
            d_weight = torch.zeros(weight_VH.shape, dtype=exact, device=hidden_NH.device) if needs_weight else None
            d_bias = torch.zeros(weight_VH.shape[0], dtype=exact, device=hidden_NH.device) if needs_bias else None
            size = max(1, CHUNK_BYTES // (4 * head.num_words))
            for start in range(0, hidden_NH.shape[0], size):
                rows = slice(start, start + size)
                h_nH = hidden_NH[rows]
                z_nW = _logits(h_nH, words_WH, bias_W, head, exact)
                dz_nW = torch.zeros_like(z_nW) if needs_hidden or needs_weight or needs_bias else None
                for number, term in enumerate(terms):
                    sums[number] += _term(z_nW, _rows_of(term, rows), dz_nW)
                if dz_nW is None:
                    continue
                _through_head(dz_nW, z_nW, head)
                low_nW = dz_nW.to(hidden_NH.dtype)
                if d_hidden is not None:
                    d_hidden[rows] = low_nW @ words_WH
                if d_weight is not None:
                    d_weight[: head.num_words] += low_nW.T @ h_nH
                if d_bias is not None:
                    d_bias[: head.num_words] += dz_nW.sum(dim=0)
        ctx.gradients = (d_hidden, d_weight, d_bias)
        ctx.dtypes = (hidden_NH.dtype, weight_VH.dtype, None if bias_V is None else bias_V.dtype)
        shares = torch.tensor([t.weight * t.temperature**2 for t in terms], dtype=exact, device=hidden_NH.device)
        ctx.mark_non_differentiable(sums)
        return (sums * shares).sum(), sums

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Any, ...]:
        scale = outputs[0]
        given = tuple(
            None if gradient is None else (gradient * scale.to(gradient.dtype)).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        )
        return (*given, None, None, None)


def _logits(
    h_nH: torch.Tensor, words_WH: torch.Tensor, bias_W: torch.Tensor | None, head: Head, exact: torch.dtype
) -> torch.Tensor:
    z_nW = (h_nH @ words_WH.T).to(exact)
    if bias_W is not None:
        z_nW += bias_W
    if head.scale != 1.0:
        z_nW *= head.scale
    if head.softcap is not None:
        z_nW = head.softcap * torch.tanh(z_nW / head.softcap)
    return z_nW


def _through_head(dz_nW: torch.Tensor, z_nW: torch.Tensor, head: Head) -> None:
    """Carries the gradient of the logits back through softcap and scale, in place."""
    if head.softcap is not None:
        dz_nW *= 1.0 - (z_nW / head.softcap) ** 2
    if head.scale != 1.0:
        dz_nW *= head.scale


def _rows_of(term: Term, rows: slice) -> Term:
    cells = Cells(term.cells.index_NK[rows], term.cells.logp_NK[rows])
    return term._replace(cells=cells, counts_N=None if term.counts_N is None else term.counts_N[rows])


def _term(z_nW: torch.Tensor, term: Term, dz_nW: torch.Tensor | None) -> torch.Tensor:
    """The term's sum over these tokens; adds its gradient into `dz_nW`."""
    cells = term.cells
    soft_nW = z_nW / term.temperature if term.temperature != 1.0 else z_nW.clone()
    inside_nK = soft_nW.gather(1, cells.index_NK)
    soft_nW.scatter_(1, cells.index_NK, -torch.inf)  # what is left is the tail
    tail_n = torch.logsumexp(soft_nW, dim=1)
    all_n = torch.logaddexp(torch.logsumexp(inside_nK, dim=1), tail_n)
    has_tail = cells.index_NK.shape[1] < z_nW.shape[1]
    student_nC = inside_nK - all_n[:, None]
    teacher_nC = cells.logp_NK.to(student_nC.dtype)
    if has_tail:
        student_nC = torch.cat([student_nC, (tail_n - all_n)[:, None]], dim=1)
        teacher_nC = torch.cat([teacher_nC, tail_logp(teacher_nC)[:, None]], dim=1)
    with torch.enable_grad():
        student_nC = student_nC.detach().requires_grad_(dz_nW is not None)
        loss_n = term.formula(student_nC, teacher_nC)
        loss = (loss_n if term.counts_N is None else loss_n * term.counts_N.to(loss_n.dtype)).sum()
    if dz_nW is not None:
        (g_nC,) = torch.autograd.grad(loss, student_nC)
        share = term.weight * term.temperature  # T^2 of the loss and 1/T of the softened logits
        whole_n = g_nC.sum(dim=1)
        num_inside = cells.index_NK.shape[1]
        q_nC = student_nC.detach().exp()
        on_nK = g_nC[:, :num_inside] - q_nC[:, :num_inside] * whole_n[:, None]
        if has_tail:
            outside_n = g_nC[:, -1] - q_nC[:, -1] * whole_n
            dz_nW.addcmul_(soft_nW.sub_(tail_n[:, None]).exp_(), share * outside_n[:, None])
        dz_nW.scatter_add_(1, cells.index_NK, share * on_nK)
    return loss.detach()
