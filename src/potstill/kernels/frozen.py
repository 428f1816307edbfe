"""Losses over a few words of each token where the head learns nothing: one pass, and the logits are made once.

Without dW a tile is needed for dh = dZ W alone, and outside the teachers' words dZ is one number a token times exp(z). So pass 1
multiplies exp(z - top so far) by the tile right away and scales the sum down when a greater top comes (as attention does:
Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135); the number of each token, and the teachers' words, whose
rows are gathered from the head, follow at the end. 4 N V H operations instead of 6.

Names of tensors carry their shape: N tokens of the block, E entries of a token, H hidden size, W words of one tile.
"""

from __future__ import annotations

import torch

from .entries import Group
from .fused import FusedGroup, is_fused, named_gradient
from .terms import Head
from .tiles import Tiles, curb, put_product


def pass_over(tiles: Tiles, group: Group, places: list[slice]) -> torch.Tensor:
    """Pass 1, with sum over the words outside E of 2^(y - top) W_j [N, H], for a head that bends through its softcap too."""
    sum_NH = torch.zeros(tiles.hidden_NH.shape, dtype=tiles.exact, device=tiles.hidden_NH.device)
    factor = tiles.factor(group.temperature)
    fused = FusedGroup(tiles, group, alone=True) if is_fused(tiles.hidden_NH) else None
    for number, place in enumerate(places):
        weight_WH = tiles.weight(number)
        raw_NW = tiles.product(number, weight_WH)
        if fused:
            sum_NH *= fused.see(number, raw_NW, place, powers=True)
            put_product(sum_NH, raw_NW, weight_WH, first=False)
            continue
        z_NW = tiles.logits(number, raw_NW)
        y_NW, top_N1 = tiles.softened(number, z_NW), group.top_N1
        group.see(y_NW, factor, tiles.bounds[number], place)
        sum_NH *= (top_N1 - group.top_N1).exp2_()
        power_NW = curb(y_NW, z_NW, tiles.head)
        put_product(sum_NH, tiles.lowered(number, power_NW), weight_WH, first=False)
    return sum_NH


def hidden_gradient(sum_NH: torch.Tensor, group: Group, head: Head) -> torch.Tensor:
    """dL/dh [N, H] from what `pass_over` summed and what the group has settled."""
    pairs = group.pairs
    sum_NH *= head.scale * group.outside_N1 / group.mass_N1.clamp_min(torch.finfo(sum_NH.dtype).tiny)
    slot_NE = pairs.slot_NE.long()
    grad_NE = named_gradient(group, head)[slot_NE].masked_fill_(~pairs.first_NE, 0.0)
    word_NE = pairs.word_U[slot_NE].clamp_max_(head.num_words - 1)  # that of -1, whose gradient is 0
    weight_VH = head.weight_VH.detach()
    own_NH = torch.nn.functional.embedding_bag(word_NE, weight_VH, mode="sum", per_sample_weights=grad_NE.to(weight_VH.dtype))
    return sum_NH.add_(own_NH)
