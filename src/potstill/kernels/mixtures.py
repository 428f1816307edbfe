"""One distribution of several teachers, p = sum_t w_t p_t, as its own top-k cells, without the logits of a whole batch.

Each teacher's distribution is softened by the temperature first and mixed then, as averages of teachers' soft targets are
(Hinton et al. 2015; You et al. 2017). The top k and the tail are those of the mixture: the top k of each teacher alone would
not give it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from .cells import CHUNK_BYTES, Cells, Head, logits

LIVE_COPIES = 3
"""One teacher's scores, the mixture so far, and their sum."""


class Voice(NamedTuple):
    """What one teacher's model says of N tokens, and its share of the mixture; shares add up to 1."""

    hidden_NH: torch.Tensor
    head: Head
    share: float


@torch.no_grad()
def mixed_cells(voices: Sequence[Voice], top_k: int, temperature: float) -> Cells:
    """The mixture's top-k log-probabilities at temperature T, chunk by chunk.

    A word that one teacher's head has no row for gets nothing from that teacher.
    """
    num_words = max(voice.head.num_words for voice in voices)
    num_tokens = voices[0].hidden_NH.shape[0]
    size = max(1, CHUNK_BYTES // (4 * num_words * LIVE_COPIES))
    tops = [_mixed_part(voices, slice(start, start + size), temperature, num_words).topk(min(top_k, num_words), dim=1)
            for start in range(0, num_tokens, size)]  # fmt: skip
    return Cells(torch.cat([top.indices for top in tops]), torch.cat([top.values for top in tops]))


@torch.no_grad()
def cells_with_targets(voices: Sequence[Voice], target_N: torch.Tensor, top_k: int, temperature: float) -> Cells:
    """The same with each token's own word in one more column, -1 where the top k have it: [N, k + 1]."""
    num_words = max(voice.head.num_words for voice in voices)
    size = max(1, CHUNK_BYTES // (4 * num_words * LIVE_COPIES))
    index, logp = [], []
    for start in range(0, len(target_N), size):
        rows = slice(start, start + size)
        p_nW, own_n1 = _mixed_part(voices, rows, temperature, num_words), target_N[rows, None].to(voices[0].hidden_NH.device)
        top = p_nW.topk(min(top_k, num_words), dim=1)
        is_there_n1 = (top.indices == own_n1).any(dim=1, keepdim=True)
        index.append(torch.cat([top.indices, own_n1.masked_fill(is_there_n1, -1)], dim=1))
        logp.append(torch.cat([top.values, p_nW.gather(1, own_n1).masked_fill(is_there_n1, -torch.inf)], dim=1))
    return Cells(torch.cat(index), torch.cat(logp))


def _mixed_part(voices: Sequence[Voice], rows: slice, temperature: float, num_words: int) -> torch.Tensor:
    """log p of these tokens [n, W]."""
    mixed_nW: torch.Tensor | None = None
    for hidden_NH, head, share in voices:
        exact = torch.float64 if hidden_NH.dtype == torch.float64 else torch.float32
        words_WH = head.weight_VH[: head.num_words].to(hidden_NH.dtype)
        bias_W = None if head.bias_V is None else head.bias_V[: head.num_words].to(exact)
        z_nW = logits(hidden_NH[rows], words_WH, bias_W, head, exact) / temperature
        z_nW -= z_nW.logsumexp(dim=1, keepdim=True) - math.log(share)
        if head.num_words < num_words:
            z_nW = torch.nn.functional.pad(z_nW, (0, num_words - head.num_words), value=-torch.inf)
        mixed_nW = z_nW if mixed_nW is None else torch.logaddexp(mixed_nW, z_nW)
    assert mixed_nW is not None, "a mixture has at least one voice"
    return mixed_nW
