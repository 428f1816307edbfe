"""Losses over a few words of each token: two passes over tiles of the vocabulary, whatever the formulas.

Pass 1 rebuilds each tile's logits, takes the teachers' words out of them and keeps a running log-sum-exp of the rest. Then
the formulas are differentiated, over [N, K + 1] cells. Pass 2 rebuilds each tile, makes it the gradient of the logits, and
multiplies: each tile of dW is one complete product over the block's tokens, with no sum of rounded parts.

That is 6 N V H operations for three products, and 2 more for making the logits twice where they are not kept. The first tokens'
are kept in the memory of the head's gradient until that is made, tile by tile from its end: all of them for as many tokens as the
hidden size (twice that for a gradient in fp32 beside products in bf16), then what the budget has room for. Where the head learns
nothing it is 4 (`frozen.py`), and for the value alone 2.

Names of tensors carry their shape: N tokens of the block, H hidden size, V vocabulary, W words of one tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from .entries import Group
from .frozen import hidden_gradient, pass_over
from .fused import FusedGroup, fused_gradient, is_fused, num_buffers
from .spans import untorn
from .terms import Cells, Head, Term
from .tiles import Tiles, Wants, exact_dtype, plan, put, put_product, unbend


class Result(NamedTuple):
    """Each term's sum without its weight, and the gradients of the weighted sum of all that were asked for."""

    sums: torch.Tensor
    hidden_NH: torch.Tensor | None
    weight_VH: torch.Tensor | None
    bias_V: torch.Tensor | None


def no_result(hidden_NH: torch.Tensor, head: Head, num_terms: int, wants: Wants) -> Result:
    """Room for the result: nothing summed yet, and no gradient for the rows of padding."""
    weight_VH = torch.empty_like(head.weight_VH, requires_grad=False) if wants.weight else None
    bias_V = torch.empty_like(head.bias_V, requires_grad=False) if wants.bias and head.bias_V is not None else None
    for gradient in (weight_VH, bias_V):
        if gradient is not None:
            gradient[head.num_words if len(hidden_NH) else 0 :] = 0
    sums = torch.zeros(num_terms, dtype=exact_dtype(hidden_NH), device=hidden_NH.device)
    return Result(sums, torch.empty_like(hidden_NH) if wants.hidden else None, weight_VH, bias_V)


def by_temperature(terms: Sequence[Term]) -> dict[float, dict[int, Term]]:
    """The terms of each temperature, with their places among all."""
    found: dict[float, dict[int, Term]] = {}
    for number, term in enumerate(terms):
        found.setdefault(term.temperature, {})[number] = term
    return found


def parts(num_rows: int, most: int, spans: Sequence[torch.Tensor] = ()) -> list[slice]:
    """As few parts as hold at most so many rows each, almost equal; at least a row each, and no span in two (`span_N` of terms),
    for which a part may be as much longer as the longest span is."""
    num_parts = max(1, -(-num_rows // max(1, most)))
    edges = untorn([num_rows * number // num_parts for number in range(num_parts + 1)], spans)
    return [slice(start, end) for start, end in pairwise(edges) if end > start]


def sparse_losses(hidden_NH: torch.Tensor, head: Head, terms: Sequence[Term], wants: Wants) -> Result:
    """All terms have Cells."""
    result = no_result(hidden_NH, head, len(terms), wants)
    sorted_terms = by_temperature(terms)
    num_entries = sum(term.cells.index_NK.shape[1] for term in terms if isinstance(term.cells, Cells))
    once = wants.hidden and not (wants.weight or wants.bias) and len(sorted_terms) == 1
    cut = plan(hidden_NH, head, num_entries, num_buffers(hidden_NH, head, len(sorted_terms)), keeps=wants.any and not once)
    spans = [term.span_N for term in terms if term.span_N is not None]
    for rows in parts(len(hidden_NH), cut.num_tokens, spans):
        groups = [Group(some, rows, head, exact_dtype(hidden_NH)) for some in sorted_terms.values()]
        spare_VH = result.weight_VH if rows.start == 0 else None
        tiles = Tiles(hidden_NH[rows], head, cut, spare_VH)
        if once:
            _pass_once(tiles, rows, groups[0], result)
        else:
            _pass_twice(tiles, rows, groups, wants, result)
    return result


def _pass_once(tiles: Tiles, rows: slice, group: Group, result: Result) -> None:
    sum_NH = pass_over(tiles, group, group.places(tiles.bounds))
    _settle([group], result, learning=True)
    assert result.hidden_NH is not None
    result.hidden_NH[rows] = hidden_gradient(sum_NH, group, tiles.head)


def _pass_twice(tiles: Tiles, rows: slice, groups: Sequence[Group], wants: Wants, result: Result) -> None:
    places = [group.places(tiles.bounds) for group in groups]
    fused = [FusedGroup(tiles, group, len(groups) == 1) for group in groups] if is_fused(tiles.hidden_NH) else []
    _see_all(tiles, groups, fused, places)
    _settle(groups, result, wants.any)
    if wants.any:
        for one in fused:
            one.settled()
        _give_all(tiles, groups, fused, places, rows, result)


def _settle(groups: Sequence[Group], result: Result, learning: bool) -> None:
    for group in groups:
        for name, value in group.settle(learning).items():
            result.sums[name] += value


def _see_all(tiles: Tiles, groups: Sequence[Group], fused: Sequence[FusedGroup], places: Sequence[list[slice]]) -> None:
    for number in range(len(tiles)):
        raw_NW, at = tiles.product(number, tiles.weight(number)), [place[number] for place in places]
        if fused:
            for one, place in zip(fused, at, strict=True):
                one.see(number, raw_NW, place)
        else:
            z_NW = tiles.logits(number, raw_NW)
            for group, place in zip(groups, at, strict=True):
                y_NW, factor = tiles.softened(number, z_NW), tiles.factor(group.temperature)
                group.see(y_NW, factor, tiles.bounds[number], place)


def _give_all(
    tiles: Tiles,
    groups: Sequence[Group],
    fused: Sequence[FusedGroup],
    places: Sequence[list[slice]],
    rows: slice,
    result: Result,
) -> None:
    first = rows.start == 0
    d_hidden_NH = None if result.hidden_NH is None else torch.zeros_like(tiles.hidden_NH, dtype=tiles.exact)
    for number in reversed(range(len(tiles))):  # the last logits may still be in the cache, or kept
        weight_WH = tiles.weight(number)
        raw_NW = tiles.product(number, weight_WH, again=True)
        at = [place[number] for place in places]
        dz_NW = fused_gradient(number, raw_NW, fused, at) if fused else _gradient(number, tiles, raw_NW, groups, at)
        if result.bias_V is not None:
            put(result.bias_V[tiles.words(number)], dz_NW.sum(dim=0, dtype=tiles.exact), first)
        low_NW = tiles.lowered(number, dz_NW)
        if result.weight_VH is not None:
            put_product(result.weight_VH[tiles.words(number)], low_NW.T, tiles.hidden_NH, first)
        if d_hidden_NH is not None:
            put_product(d_hidden_NH, low_NW, weight_WH, first=False)
    if result.hidden_NH is not None and d_hidden_NH is not None:
        result.hidden_NH[rows] = d_hidden_NH


def _gradient(number: int, tiles: Tiles, raw_NW: torch.Tensor, groups: Sequence[Group], places: Sequence[slice]) -> torch.Tensor:
    """The gradient of the tile's products, before softcap and scale."""
    z_NW = tiles.logits(number, raw_NW)
    total_NW = tiles.total(number) if len(groups) > 1 else None
    for position, (group, place) in enumerate(zip(groups, places, strict=True)):
        y_NW, factor = tiles.softened(number, z_NW), tiles.factor(group.temperature)
        dz_NW = group.give(y_NW, factor, tiles.bounds[number], place)
        if total_NW is not None:
            dz_NW = total_NW.copy_(dz_NW) if position == 0 else total_NW.add_(dz_NW)
    return unbend(dz_NW, z_NW, tiles.head)
