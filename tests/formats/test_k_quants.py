"""K-quants against the reader of the `gguf` package, which llama.cpp's own tests check."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

gguf = pytest.importorskip("gguf")
from gguf import GGMLQuantizationType as Kind  # noqa: E402
from gguf.quants import dequantize, quantize  # noqa: E402

from potstill.formats.k_quants import q4_k, q6_k  # noqa: E402

WRITERS = {Kind.Q4_K: q4_k, Kind.Q6_K: q6_k}
# Root mean square error over that of the weights: of normal weights 4.5 and 6.6 bits cannot do much better.
MOST_ERROR = {Kind.Q4_K: 0.075, Kind.Q6_K: 0.02}


def error(weights: np.ndarray, back: np.ndarray) -> float:
    return float(np.sqrt(((back - weights) ** 2).mean() / (weights**2).mean()))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_weights_are_read_back_with_a_small_error(kind: Kind, scale: float) -> None:
    weights = np.random.default_rng(0).normal(0, scale, (8, 1024)).astype(np.float32)
    data = WRITERS[kind](weights)
    assert data.shape == gguf.quant_shape_to_byte_shape(weights.shape, kind)
    assert error(weights, dequantize(data, kind)) < MOST_ERROR[kind]


def test_four_bits_are_better_than_the_plain_ones() -> None:
    weights = np.random.default_rng(1).laplace(0, 0.02, (16, 512)).astype(np.float32)
    plain = error(weights, dequantize(quantize(weights, Kind.Q4_0), Kind.Q4_0))
    assert error(weights, dequantize(q4_k(weights), Kind.Q4_K)) < 0.9 * plain


@pytest.mark.parametrize("kind", WRITERS)
def test_zeros_stay_zeros_and_parts_do_not_touch_each_other(kind: Kind) -> None:
    weights = np.zeros((3, 512), np.float32)
    weights[1, 256:] = np.random.default_rng(2).normal(size=256)
    back = dequantize(WRITERS[kind](weights), kind)
    assert not back[[0, 2]].any()
    assert not back[1, :256].any()
    assert error(weights[1, 256:], back[1, 256:]) < MOST_ERROR[kind]


@pytest.mark.parametrize("kind", WRITERS)
def test_many_super_blocks_are_those_one_by_one(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(3).normal(size=(5, 512)).astype(np.float32)
    whole = WRITERS[kind](weights)
    monkeypatch.setattr("potstill.formats.k_quants.AT_ONCE", 3)
    assert (WRITERS[kind](weights) == whole).all()


@settings(max_examples=40, deadline=None)
@given(of_numpy.arrays(np.float32, (2, 256), elements=st.floats(-4, 4, width=32)), st.sampled_from(list(WRITERS)))
def test_no_weight_is_off_by_more_than_a_step_of_its_block(weights: np.ndarray, kind: Kind) -> None:
    back = dequantize(WRITERS[kind](weights), kind)
    assert np.isfinite(back).all()
    # A block's step is a 15th (Q4_K) or 32nd (Q6_K) of its span; a search that weighs large weights more may clip small ones.
    width, steps = (32, 15) if kind == Kind.Q4_K else (16, 32)
    blocks, gaps = weights.reshape(-1, width), np.abs(back - weights).reshape(-1, width)
    span = np.maximum(blocks.max(axis=1), 0) - np.minimum(blocks.min(axis=1), 0)
    largest = np.abs(weights).reshape(-1, 256).max(axis=1).repeat(256 // width)
    assert (gaps.max(axis=1) <= 3 * span / steps + largest / 40 + 1e-6).all()
