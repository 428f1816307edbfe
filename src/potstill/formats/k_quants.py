"""Weights as llama.cpp's K-quants: Q4_K (4.5 bits a weight) and Q6_K (6.6 bits), which the `gguf` package reads but cannot write.

A super-block is 256 neighbours of a row. Q4_K parts it into 8 blocks of 32, w = d s q - m t with q of 4 bits and s, t of 6; Q6_K
into 16 blocks of 16, w = d s q with q of 6 bits and s of 8. What a block's scale is comes from a search for the least weighted
error, as in ggml-quants.c (make_qkx2_quants, make_qx_quants), all blocks of a tensor at once.

Names of arrays carry their shape: S super-blocks, B blocks of each, W weights of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SUPER = 256
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
NOTHING = 1e-12
"""The smallest step that half precision holds is 6e-8: what is much below it is 0 in any case, and would overflow a division."""
AT_ONCE = 4096
"""Super-blocks in hand: 4 MiB of weights, and some copies of it."""


def q4_k(weights: Floats) -> Bytes:
    """The rows' bytes [..., 144 for each 256 weights]; the last axis must be a multiple of 256."""
    return _by_parts(weights, _q4_k, 144)


def q6_k(weights: Floats) -> Bytes:
    """The rows' bytes [..., 210 for each 256 weights]; the last axis must be a multiple of 256."""
    return _by_parts(weights, _q6_k, 210)


def _by_parts(weights: Floats, quantise: Callable[[Floats], Bytes], num_bytes: int) -> Bytes:
    assert weights.shape[-1] % SUPER == 0, weights.shape
    all_SW = np.ascontiguousarray(weights, dtype=np.float32).reshape(-1, SUPER)
    all_SW = np.where(np.abs(all_SW) < NOTHING, np.float32(0), all_SW)
    parts = [quantise(all_SW[start : start + AT_ONCE]) for start in range(0, len(all_SW), AT_ONCE)]
    return np.concatenate(parts).reshape(*weights.shape[:-1], weights.shape[-1] // SUPER * num_bytes)


class _Steps(NamedTuple):
    """Of each block: w = scale q - low."""

    scale_SB: Floats
    low_SB: Floats


def _q4_k(w_SW: Floats) -> Bytes:
    w_SBW = w_SW.reshape(-1, 8, 32)
    steps = _least_error_steps(w_SBW, most=15)
    d_S, scales_SB = _shared(steps.scale_SB, 63)
    m_S, lows_SB = _shared(steps.low_SB, 63)
    scale_SBW = (d_S[:, None] * scales_SB)[..., None]
    low_SBW = (m_S[:, None] * lows_SB)[..., None]
    safe_SBW = np.where(scale_SBW > 0, scale_SBW, 1)
    q_SBW = np.where(scale_SBW > 0, np.clip(np.rint((w_SBW + low_SBW) / safe_SBW), 0, 15), 0).astype(np.uint8)
    pairs_SBW = q_SBW.reshape(-1, 4, 2, 32)
    nibbles = (pairs_SBW[:, :, 0] | pairs_SBW[:, :, 1] << 4).reshape(-1, 128)
    return np.concatenate([_halves(d_S), _halves(m_S), _six_bits(scales_SB, lows_SB), nibbles], axis=1)


def _least_error_steps(w_SBW: Floats, most: int) -> _Steps:
    """For each block the scale and the low end (0 or more) with the least error, weighted by a weight's own size."""
    weigh = np.sqrt(np.mean(w_SBW**2, axis=-1, keepdims=True)) + np.abs(w_SBW)
    low = np.minimum(w_SBW.min(axis=-1, keepdims=True), 0)
    span = np.maximum(w_SBW.max(axis=-1, keepdims=True) - low, np.float32(1e-30))
    sum_w, sum_x = weigh.sum(axis=-1), (weigh * w_SBW).sum(axis=-1)
    best_scale, best_low = (span / most)[..., 0], -low[..., 0]
    q = np.clip(np.rint((w_SBW - low) * (most / span)), 0, most)
    best_error = _error(w_SBW, q, best_scale, best_low, weigh)
    for number in range(21):
        q = np.clip(np.rint((w_SBW - low) * ((most - 1 + 0.1 * number) / span)), 0, most)
        sum_l, sum_l2, sum_xl = ((weigh * part).sum(axis=-1) for part in (q, q * q, q * w_SBW))
        determinant = sum_w * sum_l2 - sum_l * sum_l
        is_solved = determinant > 0
        safe = np.where(is_solved, determinant, 1)
        scale = (sum_w * sum_xl - sum_x * sum_l) / safe
        least = (sum_l2 * sum_x - sum_l * sum_xl) / safe
        above = least > 0  # the low end is subtracted and cannot be negative: then the scale alone is fitted
        scale = np.where(above, sum_xl / np.maximum(sum_l2, np.float32(1e-30)), scale)
        least = np.where(above, 0, least)
        error = _error(w_SBW, q, scale, -least, weigh)
        is_better = is_solved & (error < best_error) & (scale > 0)
        best_scale, best_low = np.where(is_better, scale, best_scale), np.where(is_better, -least, best_low)
        best_error = np.where(is_better, error, best_error)
    return _Steps(best_scale.astype(np.float32), best_low.astype(np.float32))


def _error(w_SBW: Floats, q: Floats, scale_SB: Floats, low_SB: Floats, weigh: Floats) -> Floats:
    gap = scale_SB[..., None] * q - low_SB[..., None] - w_SBW
    found: Floats = (weigh * gap * gap).sum(axis=-1)
    return found


def _shared(values_SB: Floats, most: int) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Values of 0 and more as a half-precision step of the super-block and whole numbers of it."""
    step_S = _as_half(values_SB.max(axis=1) / most)
    safe_S = np.where(step_S > 0, step_S, 1)
    numbers = np.where(step_S[:, None] > 0, np.clip(np.rint(values_SB / safe_S[:, None]), 0, most), 0)
    return step_S, numbers.astype(np.uint8)


def _six_bits(scales_SB: Bytes, lows_SB: Bytes) -> Bytes:
    """Eight scales and eight lows of 6 bits in 12 bytes, as get_scale_min_k4 takes them apart."""
    first = scales_SB[:, :4] | (scales_SB[:, 4:] >> 4) << 6
    second = lows_SB[:, :4] | (lows_SB[:, 4:] >> 4) << 6
    third = (scales_SB[:, 4:] & 0xF) | (lows_SB[:, 4:] & 0xF) << 4
    return np.concatenate([first, second, third], axis=1)


def _q6_k(w_SW: Floats) -> Bytes:
    w_SBW = w_SW.reshape(-1, 16, 16)
    scale_SB = _least_error_scale(w_SBW)
    place = np.abs(scale_SB).argmax(axis=1)
    largest_S = np.take_along_axis(scale_SB, place[:, None], axis=1)[:, 0]
    d_S = _as_half((largest_S / np.float32(-128)).astype(np.float32))
    safe_S = np.where(d_S != 0, d_S, 1)
    scales_SB = np.where(d_S[:, None] != 0, np.clip(np.rint(scale_SB / safe_S[:, None]), -128, 127), 0).astype(np.int8)
    step_SBW = (d_S[:, None] * scales_SB)[..., None]
    safe_SBW = np.where(step_SBW != 0, step_SBW, 1)
    q_SBW = np.where(step_SBW != 0, np.clip(np.rint(w_SBW / safe_SBW), -32, 31), 0)
    q = (q_SBW + 32).astype(np.uint8).reshape(-1, 2, 4, 32)  # halves of 128, quarters of them, 32 weights
    low, high = q & 0xF, q >> 4
    ql = np.stack([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2).reshape(-1, 128)
    qh = (high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6).reshape(-1, 64)
    return np.concatenate([ql, qh, scales_SB.view(np.uint8), _halves(d_S)], axis=1)


def _least_error_scale(w_SBW: Floats) -> Floats:
    """For each block the scale of w = scale q, q from -32 to 31, with the least error, weighted by the weights' squares."""
    place = np.abs(w_SBW).argmax(axis=-1)
    largest = np.take_along_axis(w_SBW, place[..., None], axis=-1)
    safe = np.where(largest != 0, largest, 1)
    weigh = w_SBW * w_SBW
    best, best_gain = np.zeros(w_SBW.shape[:2], np.float32), np.full(w_SBW.shape[:2], -1.0, np.float32)
    for number in range(-9, 10):
        q = np.clip(np.rint(-(32 + 0.1 * number) / safe * w_SBW), -32, 31)
        sum_lx, sum_l2 = (weigh * w_SBW * q).sum(axis=-1), (weigh * q * q).sum(axis=-1)
        scale = sum_lx / np.maximum(sum_l2, np.float32(1e-30))
        gain = scale * sum_lx
        is_better = gain > best_gain
        best, best_gain = np.where(is_better, scale, best), np.where(is_better, gain, best_gain)
    return best.astype(np.float32)


def _as_half(values_S: Floats) -> Floats:
    """Rounded to half precision, as it will be read."""
    return values_S.astype(np.float16).astype(np.float32)


def _halves(values_S: Floats) -> Bytes:
    return values_S.astype("<f2")[:, None].view(np.uint8)
