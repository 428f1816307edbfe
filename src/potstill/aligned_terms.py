"""A loss as the engine's term: over the words that a teacher names, over spans of tokens, or over sorted distributions.

A loss that is `ranked` compares the student's likeliest word with the teacher's likeliest, the second with the second, and so on,
whatever words they are. So its cells are the student's own likeliest words, found beforehand and without a gradient, and their
teacher's log-probabilities are those of the same ranks; what is left of either is the tail.

Names of tensors carry their shape: N target tokens, K words of a token or ranks, H hidden size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .contracts import Loss
from .kernels.cells import Cells, Full, Head, Term, teacher_cells
from .kernels.spans import starts_of

LIVE_RANKS = 256
"""Ranks that are compared with a teacher that is there; one cell holds those below."""


class Aligned(NamedTuple):
    """What teachers of other tokens say of the student's N tokens, laid beside each other by bytes.

    Tokens of one number in `span_N` are one group; what is said of it stands at its first token. `told_N` is 1 where a teacher
    says something of the token's group, else 0. `ranks_NK` are the sorted log-probabilities of the teacher's first token there.
    """

    cells: Cells
    span_N: torch.Tensor
    told_N: torch.Tensor
    ranks_NK: torch.Tensor

    def to(self, device: torch.device) -> Aligned:
        index_NK, logp_NK, *rest = (tensor.to(device, non_blocking=True) for tensor in (*self.cells, *self[1:]))
        return Aligned(Cells(index_NK, logp_NK), *rest)


def term_of(
    loss: Loss,
    told: Cells | Full | Aligned,
    temperature: float,
    weight_N: torch.Tensor | None,
    outlook: tuple[torch.Tensor, Head],
) -> Term:
    """The loss over what the teacher said; `outlook` are the student's hidden states and head."""
    counts_N = weight_N
    if isinstance(told, Aligned):
        counts_N = told.told_N if weight_N is None else weight_N * told.told_N
    if loss.ranked:
        return _ranked_term(loss, told, temperature, counts_N, outlook)
    if isinstance(told, Aligned):
        return Term(loss.formula, told.cells, loss.weight, temperature, counts_N, told.span_N)
    return Term(loss.formula, told, loss.weight, temperature, counts_N)


@torch.no_grad()
def _ranked_term(
    loss: Loss,
    told: Cells | Full | Aligned,
    temperature: float,
    counts_N: torch.Tensor | None,
    outlook: tuple[torch.Tensor, Head],
) -> Term:
    hidden_NH, head = outlook
    if isinstance(told, Aligned):
        ranks_NK, at_M = told.ranks_NK, (starts_of(told.span_N) & (told.told_N > 0)).nonzero()[:, 0]
        is_first_N = torch.zeros_like(told.told_N).index_fill_(0, at_M, 1.0)
        counts_N = is_first_N if counts_N is None else counts_N * is_first_N
    elif isinstance(told, Full):
        ranks_NK, at_M = teacher_cells(*told, LIVE_RANKS, temperature).logp_NK, None
    else:
        ranks_NK, at_M = told.logp_NK.sort(dim=1, descending=True).values, None
    width = min(ranks_NK.shape[1], head.num_words - 1)  # at least one word is in the tail
    ranks_NK = ranks_NK[:, :width]
    with torch.autocast(hidden_NH.device.type, enabled=False):
        seen_MH = hidden_NH.detach() if at_M is None else hidden_NH.detach().index_select(0, at_M)
        index_MK = teacher_cells(seen_MH, head, width, temperature).index_NK if len(seen_MH) else None
    index_NK = torch.full(ranks_NK.shape, -1, dtype=torch.long, device=hidden_NH.device)
    if index_MK is not None:
        index_NK[slice(None) if at_M is None else at_M] = index_MK
    return Term(loss.formula, Cells(index_NK, ranks_NK), loss.weight, temperature, counts_N)
