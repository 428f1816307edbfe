"""The logits of a block of tokens, one tile of the vocabulary at a time, and what a tile's gradient becomes.

Names of tensors carry their shape: N tokens of the block, H hidden size, V vocabulary, W words of one tile.

Products are made in the dtype of the hidden states (bf16 only where the processor multiplies it), all else in fp32; in
float64 everything is float64. On a processor exp costs as much as reading the logits four times, so softened logits are kept
in base 2: torch's exp2 is four times as fast as its exp there (6.4 against 1.7 numbers a ns on one core of an EPYC).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch

from .terms import Head

BUDGET_BYTES = {"cpu": 36 * 2**20, "cuda": 7 * 2**28}
"""What a block of tokens may hold beside inputs and gradients. On a processor the product library takes some more."""
TILE_ELEMENTS = {"cpu": 2**21, "cuda": 2**24}
"""Logits of one tile at most. On a processor 1,024 words a product run 5% faster than 512, though more leaves the cache."""
LEAST_WIDTH = 128
"""Words of a tile, however many tokens there are."""
TILE_WEIGHTS = 2**22
"""Weights of one tile at most: they are copied where the head's dtype is not that of the products."""


ALIGNMENT = 64
"""Bytes at a multiple of which rooms for logits begin: a cache line, and what product libraries like."""


class Plan(NamedTuple):
    """How a call is cut: tokens of a block, words of a tile, and tiles whose logits are kept from pass 1 to pass 2 (none on an
    accelerator: its memory is worth more as a larger batch, and its products cost less)."""

    num_tokens: int
    width: int
    num_kept: int


class Wants(NamedTuple):
    """Which gradients are asked for."""

    hidden: bool
    weight: bool
    bias: bool

    @property
    def any(self) -> bool:
        return self.hidden or self.weight or self.bias


def exact_dtype(hidden_NH: torch.Tensor) -> torch.dtype:
    return torch.float64 if hidden_NH.dtype == torch.float64 else torch.float32


def product_dtype(hidden_NH: torch.Tensor) -> torch.dtype:
    """The dtype of the hidden states, or fp32 where the processor would only imitate it."""
    dtype = hidden_NH.dtype
    if hidden_NH.device.type == "cpu" and dtype.itemsize == 2:
        quick = dtype == torch.bfloat16 and _multiplies_bf16()
        return dtype if quick else torch.float32
    return dtype


def _multiplies_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def plan(hidden_NH: torch.Tensor, head: Head, num_entries: int, num_buffers: int, keeps: bool) -> Plan:
    """Blocks and tiles within the budget; `num_entries` are a token's over all groups, and buffers are tiles in fp32."""
    num_tokens, hidden_size = hidden_NH.shape
    device = hidden_NH.device.type
    budget, elements = BUDGET_BYTES.get(device, BUDGET_BYTES["cuda"]), TILE_ELEMENTS.get(device, TILE_ELEMENTS["cuda"])
    low, exact = product_dtype(hidden_NH).itemsize, exact_dtype(hidden_NH).itemsize
    copied = low if product_dtype(hidden_NH) != hidden_NH.dtype else 0
    per_token = hidden_size * (exact + copied) + num_entries * 48 + 64
    most = max(1, budget // 2 // per_token)
    num_blocks = max(1, math.ceil(num_tokens / most))
    num_tokens = max(1, math.ceil(num_tokens / num_blocks))
    per_logit = low + exact * num_buffers
    elements = min(elements, (budget - num_tokens * per_token) // per_logit)
    width = max(1, min(head.num_words, max(elements // num_tokens, LEAST_WIDTH), TILE_WEIGHTS // hidden_size))
    left = budget - num_tokens * (per_token + width * per_logit)
    return Plan(num_tokens, width, max(0, left // (num_tokens * width * low)) if keeps and device == "cpu" else 0)


class HeadTiles:
    """The head's rows, tile by tile, in the dtype of the products."""

    def __init__(self, head: Head, low: torch.dtype, width: int) -> None:
        self.head = head
        self.bounds = [*range(0, head.num_words, width), head.num_words]
        weight_VH = head.weight_VH
        self._copy = None if weight_VH.dtype == low else weight_VH.new_empty((width, weight_VH.shape[1]), dtype=low)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def words(self, number: int) -> slice:
        return slice(self.bounds[number], self.bounds[number + 1])

    def weight(self, number: int) -> torch.Tensor:
        """[W, H]; good until the next is asked for."""
        weight_WH = self.head.weight_VH[self.words(number)]
        return weight_WH if self._copy is None else self._copy[: len(weight_WH)].copy_(weight_WH)


def is_bent(head: Head) -> bool:
    """Whether logits are more than a multiple of the product."""
    return head.bias_V is not None or head.softcap is not None


def bend(z_NW: torch.Tensor, head: Head, words: slice) -> torch.Tensor:
    """Products become logits, in place: bias, scale, softcap."""
    if head.bias_V is not None:
        z_NW.add_(head.bias_V[words].to(z_NW.dtype))
    if head.softcap is None:
        return z_NW if head.scale == 1.0 else z_NW.mul_(head.scale)
    # c tanh(x / c) = c (2 sigmoid(2 x / c) - 1), which is ten times as fast on a processor
    return z_NW.mul_(2.0 * head.scale / head.softcap).sigmoid_().mul_(2.0 * head.softcap).sub_(head.softcap)


def curb(dz_NW: torch.Tensor, z_NW: torch.Tensor, head: Head) -> torch.Tensor:
    """Carries the gradient of the logits back through the softcap, in place; spoils the logits."""
    if head.softcap is None:
        return dz_NW
    return dz_NW.mul_(z_NW.div_(head.softcap).square_().neg_().add_(1.0))


def unbend(dz_NW: torch.Tensor, z_NW: torch.Tensor, head: Head) -> torch.Tensor:
    """Carries the gradient of the logits back to the products with their bias, in place; spoils the logits."""
    dz_NW = curb(dz_NW, z_NW, head)
    return dz_NW if head.scale == 1.0 else dz_NW.mul_(head.scale)


class Tiles(HeadTiles):
    """The logits of the tokens `hidden_NH`, tile by tile, in buffers that are used again for every tile.

    `spare_VH` is memory that pass 2 fills from its end, tile by tile: the head's gradient. Until then logits are kept there.
    """

    def __init__(self, hidden_NH: torch.Tensor, head: Head, cut: Plan, spare_VH: torch.Tensor | None = None) -> None:
        self.exact, self.low = exact_dtype(hidden_NH), product_dtype(hidden_NH)
        super().__init__(head, self.low, cut.width)
        self.hidden_NH = hidden_NH.to(self.low)
        size, new = len(hidden_NH) * cut.width, hidden_NH.new_empty
        self._kept = [] if spare_VH is None or not spare_VH.is_contiguous() else self._rooms_in(spare_VH)
        self._kept += [new(size, dtype=self.low) for _ in range(min(cut.num_kept, len(self) - len(self._kept)))]
        self._raw = new(size, dtype=self.low)
        self._exact: dict[str, torch.Tensor] = {}

    def _rooms_in(self, spare_VH: torch.Tensor) -> list[torch.Tensor]:
        """Rooms for as many tiles as fit, the last tile's first: each ends where the rooms and gradients of later tiles begin."""
        room_B = spare_VH.view(-1).view(torch.uint8)
        rooms, edge = [], len(room_B)
        for start, end in reversed(list(pairwise(self.bounds))):
            size = len(self.hidden_NH) * (end - start) * self.low.itemsize
            edge = (min(edge, len(room_B) // len(spare_VH) * end) - size) // ALIGNMENT * ALIGNMENT
            if edge < 0:
                break
            rooms.append(room_B[edge : edge + size].view(self.low))
        return rooms

    def product(self, number: int, weight_WH: torch.Tensor, again: bool = False) -> torch.Tensor:
        """h W^T [N, W] in the products' dtype; `again` where it may be kept from the first time."""
        from_last = len(self) - 1 - number
        kept = from_last < len(self._kept)
        raw_NW = self._shaped(self._kept[from_last], number) if kept else self.room(number)
        return raw_NW if again and kept else torch.mm(self.hidden_NH, weight_WH.T, out=raw_NW)

    def logits(self, number: int, raw_NW: torch.Tensor) -> torch.Tensor:
        """z [N, W] where the head has a bias or a softcap; else the product, whose multiple z is."""
        if not is_bent(self.head):
            return raw_NW
        return bend(self._buffer("z", number).copy_(raw_NW), self.head, self.words(number))

    def softened(self, number: int, z_NW: torch.Tensor) -> torch.Tensor:
        """A copy of what `logits` gave, to be turned into powers; y = z / (T ln 2) is this times `factor`."""
        return self._buffer("y", number).copy_(z_NW)

    def factor(self, temperature: float) -> float:
        return (1.0 if is_bent(self.head) else self.head.scale) / (temperature * math.log(2.0))

    def total(self, number: int) -> torch.Tensor:
        """A buffer for the sum of several groups' gradients."""
        return self._buffer("total", number)

    def room(self, number: int) -> torch.Tensor:
        """The place of a product that is not kept."""
        return self._shaped(self._raw, number)

    def lowered(self, number: int, dz_NW: torch.Tensor) -> torch.Tensor:
        """The gradient in the products' dtype, for which the product's place is taken where that was not kept."""
        return dz_NW if dz_NW.dtype == self.low else self.room(number).copy_(dz_NW)

    def _buffer(self, name: str, number: int) -> torch.Tensor:
        if name not in self._exact:
            self._exact[name] = torch.empty_like(self._raw, dtype=self.exact)
        return self._shaped(self._exact[name], number)

    def _shaped(self, buffer: torch.Tensor, number: int) -> torch.Tensor:
        words = self.words(number)
        width = words.stop - words.start
        return buffer[: len(self.hidden_NH) * width].view(len(self.hidden_NH), width)


def put_product(target: torch.Tensor, left: torch.Tensor, right: torch.Tensor, first: bool) -> None:
    """target = left @ right, or += where it is not the first; in the target's dtype where that is not the factors' own."""
    if target.dtype == left.dtype:
        torch.mm(left, right, out=target) if first else target.addmm_(left, right)
    elif left.is_cuda and target.dtype == torch.float32 and left.dtype.itemsize == 2:  # the sum stays in the product's fp32
        if first:
            torch.mm(left, right, out_dtype=torch.float32, out=target)
        else:
            torch.addmm(target, left, right, out_dtype=torch.float32, out=target)
    else:
        put(target, left @ right, first)


def put(target: torch.Tensor, value: torch.Tensor, first: bool) -> None:
    target.copy_(value) if first else target.add_(value)
