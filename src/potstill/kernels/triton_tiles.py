"""What happens to a tile's logits between two products, each in one pass over the tile: Triton kernels, for `fused.py` alone.

Names of tensors carry their shape: N tokens, W words of the tile, M named (token, word) pairs of it. Logits are softened and in
base 2 as in `entries.py`: y = factor z, and z = the product with bias, scale and softcap.
"""

# mypy: ignore-errors
# Triton is not installed everywhere and its language has no types.
from __future__ import annotations

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

HAS_TRITON = triton is not None


def _jit(kernel):
    """Compiled where Triton is there; without it the module can be read, and is never asked for more."""
    return kernel if triton is None else triton.jit(kernel)


@_jit
def _bent(product, bias, scale, softcap, HAS_SOFTCAP: tl.constexpr):
    """z of products, in fp32."""
    z = (product + bias) * scale
    if HAS_SOFTCAP:
        z = softcap * (2.0 * tl.sigmoid(2.0 * z / softcap) - 1.0)
    return z


@_jit
def take(
    tile_NW, saved_M, y_M, row_M, word_M, bias_W, start, num_pairs, width, scale, softcap, factor,
    HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The named words' products are saved, their logits given to y, and -inf is put in their place."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = at < num_pairs
    word = tl.load(word_M + at, mask=here, other=0) - start
    place = tile_NW + tl.load(row_M + at, mask=here, other=0).to(tl.int64) * width + word
    product = tl.load(place, mask=here, other=0.0)
    tl.store(saved_M + at, product, mask=here)
    bias = tl.load(bias_W + word, mask=here, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
    tl.store(y_M + at, _bent(product.to(tl.float32), bias, scale, softcap, HAS_SOFTCAP) * factor, mask=here)
    tl.store(place, tl.full([BLOCK], -float("inf"), tl.float32).to(tile_NW.dtype.element_ty), mask=here)


@_jit
def put_back(tile_NW, value_M, row_M, word_M, start, num_pairs, width, ADD: tl.constexpr, BLOCK: tl.constexpr):
    """Values of the named words go into the tile, or are added to what is there."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = at < num_pairs
    word = tl.load(word_M + at, mask=here, other=0) - start
    place = tile_NW + tl.load(row_M + at, mask=here, other=0).to(tl.int64) * width + word
    value = tl.load(value_M + at, mask=here, other=0.0)
    if ADD:
        value += tl.load(place, mask=here, other=0.0)
    tl.store(place, value.to(tile_NW.dtype.element_ty), mask=here)


@_jit
def see(
    tile_NW, bias_W, top_N, mass_N, shrink_N, width, scale, softcap, factor,
    HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, POWERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a token: the running maximum of y and the sum of 2^(y - top) take in the tile.

    With POWERS the tile becomes these 2^(y - top), carried back through softcap, and `shrink` is what sums so far are to be
    multiplied by.
    """
    row = tl.program_id(0)
    tile_W = tile_NW + row.to(tl.int64) * width
    before = tl.load(top_N + row)
    top = before
    for first in range(0, width, BLOCK):
        at = first + tl.arange(0, BLOCK)
        here = at < width
        bias = tl.load(bias_W + at, mask=here, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
        product = tl.load(tile_W + at, mask=here, other=-float("inf")).to(tl.float32)
        y = _bent(product, bias, scale, softcap, HAS_SOFTCAP) * factor
        y = tl.where(product == -float("inf"), -float("inf"), y)  # softcap would lift it
        top = tl.maximum(top, tl.max(y, axis=0))
    shrink = tl.exp2(before - top)
    mass = tl.load(mass_N + row) * shrink
    for first in range(0, width, BLOCK):
        at = first + tl.arange(0, BLOCK)
        here = at < width
        bias = tl.load(bias_W + at, mask=here, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
        product = tl.load(tile_W + at, mask=here, other=-float("inf")).to(tl.float32)
        z = _bent(product, bias, scale, softcap, HAS_SOFTCAP)
        power = tl.where(product == -float("inf"), 0.0, tl.exp2(z * factor - top))
        mass += tl.sum(power, axis=0)
        if POWERS:
            if HAS_SOFTCAP:
                power *= 1.0 - (z / softcap) * (z / softcap)
            tl.store(tile_W + at, power.to(tile_NW.dtype.element_ty), mask=here)
    tl.store(top_N + row, top)
    tl.store(mass_N + row, mass)
    if POWERS:
        tl.store(shrink_N + row, shrink)


@_jit
def give(
    tile_NW, out_NW, bias_W, tail_N, outside_N, width, scale, softcap, factor,
    HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of the products, outside 2^(y - tail) carried back through softcap and scale, goes to `out` or is added."""
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = at < width
    offset = row.to(tl.int64) * width + at
    bias = tl.load(bias_W + at, mask=here, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
    product = tl.load(tile_NW + offset, mask=here, other=-float("inf")).to(tl.float32)
    z = _bent(product, bias, scale, softcap, HAS_SOFTCAP)
    power = tl.where(product == -float("inf"), 0.0, tl.exp2(z * factor - tl.load(tail_N + row)))
    gradient = tl.load(outside_N + row) * scale * power
    if HAS_SOFTCAP:
        gradient *= 1.0 - (z / softcap) * (z / softcap)
    if ADD:
        gradient += tl.load(out_NW + offset, mask=here, other=0.0)
    tl.store(out_NW + offset, gradient.to(out_NW.dtype.element_ty), mask=here)
