"""A tile on its way through the passes of `sparse.py` and `frozen.py` where Triton runs: one kernel a pass beside the products.

The products stay torch's own: what is left of a tile is read and written once, where plain torch goes over it in fp32 ten
times, and that is the larger part of what a product library does not already do as well as it can be done. The tile stays in
the dtype of the products; the kernels compute in fp32. Where Triton is missing, and in float64, the passes are plain torch.

Names of tensors carry their shape: N tokens of the block, W words of one tile, U distinct (token, word) pairs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from . import triton_tiles as kernels
from .entries import LN2, Group
from .terms import Head
from .tiles import Tiles, curb, is_bent

MOST_WORDS = 2048
"""Words that a program of a kernel has at once: 8 KB of fp32."""
PAIRS = 256
"""Named words that a program of a kernel has."""


def is_fused(hidden_NH: torch.Tensor) -> bool:
    """Whether the kernels run: on a CUDA device, or in Triton's interpreter, which a test asks for by TRITON_INTERPRET=1."""
    runs = hidden_NH.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return runs and hidden_NH.dtype != torch.float64 and kernels.HAS_TRITON


def num_buffers(hidden_NH: torch.Tensor, head: Head, num_groups: int) -> int:
    """How many tiles in fp32 the passes need beside those of products."""
    return (num_groups > 1) + (0 if is_fused(hidden_NH) else 1 + is_bent(head))


class FusedGroup:
    """What the kernels need of a group beside itself."""

    def __init__(self, tiles: Tiles, group: Group, alone: bool) -> None:
        self.tiles, self.group, self.alone = tiles, group, alone
        self.saved_U = torch.empty_like(group.y_U, dtype=tiles.low)
        self.shrink_N1 = torch.empty_like(group.top_N1)
        self.grad_U = group.grad_U

    def see(self, number: int, raw_NW: torch.Tensor, place: slice, powers: bool = False) -> torch.Tensor:
        """Takes in a tile of products; those of the named words are lost to it where no other group needs them.

        With `powers` the tile becomes 2^(y - top), curbed, and what was summed of such is to be multiplied by the answer [N, 1].
        """
        self._take(number, raw_NW, place)
        group, (num_tokens, width) = self.group, raw_NW.shape
        state = group.top_N1, group.mass_N1, self.shrink_N1
        kernels.see[(num_tokens,)](
            raw_NW, self._bias(number), *state, width, *self._bends(), **self._has(), POWERS=powers, BLOCK=_block(width)
        )
        if not self.alone:
            self._put(number, raw_NW, self.saved_U, place, add=False)
        return self.shrink_N1

    def settled(self) -> None:
        """The gradients of the named words' logits become those of their products."""
        self.grad_U = named_gradient(self.group, self.tiles.head)

    def give(self, number: int, raw_NW: torch.Tensor, out_NW: torch.Tensor, place: slice, add: bool) -> None:
        """The gradient of a tile of products goes to `out`, or is added to it where other groups' is there already."""
        if not self.alone:
            self._take(number, raw_NW, place)
        group, (num_tokens, width) = self.group, raw_NW.shape
        block = _block(width)
        grid = (num_tokens, -(-width // block))
        state = self._bias(number), group.tail_N1, group.outside_N1
        kernels.give[grid](raw_NW, out_NW, *state, width, *self._bends(), **self._has(), ADD=add, BLOCK=block)
        if not self.alone:
            self._put(number, raw_NW, self.saved_U, place, add=False)
        self._put(number, out_NW, self.grad_U, place, add=not self.alone)

    def _take(self, number: int, raw_NW: torch.Tensor, place: slice) -> None:
        count, start, pairs = place.stop - place.start, self.tiles.bounds[number], self.group.pairs
        if count:
            named = self.saved_U[place], self.group.y_U[place], pairs.row_U[place], pairs.word_U[place]
            sizes = start, count, raw_NW.shape[1]
            kernels.take[(-(-count // PAIRS),)](
                raw_NW, *named, self._bias(number), *sizes, *self._bends(), **self._has(), BLOCK=PAIRS
            )

    def _put(self, number: int, tile_NW: torch.Tensor, value_U: torch.Tensor, place: slice, add: bool) -> None:
        count, start, pairs = place.stop - place.start, self.tiles.bounds[number], self.group.pairs
        if count:
            named = value_U[place], pairs.row_U[place], pairs.word_U[place]
            kernels.put_back[(-(-count // PAIRS),)](tile_NW, *named, start, count, tile_NW.shape[1], ADD=add, BLOCK=PAIRS)

    def _bias(self, number: int) -> torch.Tensor:
        bias_V = self.tiles.head.bias_V
        return self.shrink_N1 if bias_V is None else bias_V.detach()[self.tiles.words(number)]

    def _bends(self) -> tuple[float, float, float]:
        head = self.tiles.head
        return float(head.scale), float(head.softcap or 1.0), 1.0 / (self.group.temperature * LN2)

    def _has(self) -> dict[str, bool]:
        return {"HAS_BIAS": self.tiles.head.bias_V is not None, "HAS_SOFTCAP": self.tiles.head.softcap is not None}


def named_gradient(group: Group, head: Head) -> torch.Tensor:
    """The gradients [U] of the named words' products, before bias, scale and softcap; 0 for those of index -1, who have none."""
    z_U = torch.where(group.y_U == -torch.inf, 0.0, group.y_U * (LN2 * group.temperature))
    return curb(group.grad_U.clone(), z_U, head).mul_(head.scale)


def fused_gradient(number: int, raw_NW: torch.Tensor, groups: Sequence[FusedGroup], places: Sequence[slice]) -> torch.Tensor:
    """The gradient of the tile's products: of several groups summed in fp32, of one in the products' dtype."""
    tiles = groups[0].tiles
    out_NW = tiles.room(number) if len(groups) == 1 else tiles.total(number)
    for position, (group, place) in enumerate(zip(groups, places, strict=True)):
        group.give(number, raw_NW, out_NW, place, add=position > 0)
    return out_NW


def _block(width: int) -> int:
    return min(MOST_WORDS, 1 << (width - 1).bit_length())
