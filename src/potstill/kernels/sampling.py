"""Words drawn from teachers' distributions, without the scores of a whole batch.

A draw is where a given uniform number falls in the running sum of the probabilities: first among the sums of blocks of words,
then inside its block, so that no running sum over the vocabulary is made. Names of tensors carry their shape: N tokens (n of
one chunk), W words, D draws, B blocks, S words of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .cells import CHUNK_BYTES
from .mixtures import LIVE_COPIES, Voice, _mixed_part

BLOCK_WORDS = 128


@torch.no_grad()
def drawn_words(voices: Sequence[Voice], uniforms_ND: torch.Tensor, temperature: float) -> torch.Tensor:
    """The words [N, D] that these numbers in [0, 1) draw from the teachers' mixture at temperature T, with replacement.

    Only a token's own numbers and distribution decide its draws. A word of probability 0 is never drawn.
    """
    num_words = max(voice.head.num_words for voice in voices)
    size = max(1, CHUNK_BYTES // (4 * num_words * LIVE_COPIES))
    drawn = []
    for start in range(0, len(uniforms_ND), size):
        rows = slice(start, start + size)
        p_nW = _mixed_part(voices, rows, temperature, num_words).exp_()
        drawn.append(_drawn(p_nW, uniforms_ND[rows].to(p_nW.device)))
    return torch.cat(drawn)


def _drawn(p_nW: torch.Tensor, uniforms_nD: torch.Tensor) -> torch.Tensor:
    p_nBS = torch.nn.functional.pad(p_nW, (0, -p_nW.shape[1] % BLOCK_WORDS)).unflatten(1, (-1, BLOCK_WORDS))
    mass_nB = p_nBS.sum(dim=2).double()
    ends_nB = mass_nB.cumsum(dim=1)
    at_nD = uniforms_nD * ends_nB[:, -1:]
    block_nD = _first_beyond(ends_nB[:, None], at_nD)
    at_nD -= (ends_nB - mass_nB).gather(1, block_nD)
    tokens_n1 = torch.arange(len(p_nW), device=p_nW.device)[:, None]
    within_nDS = p_nBS[tokens_n1, block_nD].double().cumsum(dim=2)
    return block_nD * BLOCK_WORDS + _first_beyond(within_nDS, at_nD)


def _first_beyond(ends_nDX: torch.Tensor, at_nD: torch.Tensor) -> torch.Tensor:
    """The first place [n, D] whose running sum exceeds `at`; rounding never leads behind the last one that has a share."""
    at_nD1 = at_nD[..., None]
    if ends_nDX.shape[1] == 1:  # the same sums for all draws of a token
        found_nD = torch.searchsorted(ends_nDX[:, 0], at_nD.contiguous(), right=True)
    else:
        found_nD = (ends_nDX <= at_nD1).sum(dim=-1)
    return torch.minimum(found_nD, (ends_nDX < ends_nDX[..., -1:]).sum(dim=-1))
