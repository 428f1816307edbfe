"""Words with small numbers, as few bytes: what a teacher says of a row's tokens, on its way to the disk and back.

Every token has a set of words, and every word a number: how often it was drawn, or a level that stands for its
log-probability. The order of a set tells nothing, so it is not kept:

- words are ranked by how often they were seen (`WordCode.order_V`), and sorted by rank. The ranks are cut into B buckets of
  2^e ranks each, small where words are frequent. A word costs its step from the bucket before (unary) and e bits: what Elias
  and Fano do for sorted numbers, with buckets that follow the distribution instead of equal ones;
- draws add up to n, so the first word's number is what the others leave, and those are in Elias' gamma code. Levels take 16
  bits each.

All of it is coded by numpy over the words of many rows at once: the k-th one of a unary stream ends the k-th code, and once
the lengths are known a running sum says where each code's bits stand. No loop over tokens.

A row's bytes: 4 with the length of its unary stream; log2(n) bits a token, how many words it has; the unary stream (words,
then numbers); the bits of words, then of numbers. Each part ends on a whole byte. Names of arrays carry their shape: R rows,
N tokens of all rows, U words of all tokens, S codes of all rows, V vocabulary, B buckets.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ModelError

Array = npt.NDArray[Any]
RANKED_WORDS = 2**15
"""Words whose rank is learned and kept in the code; the others follow in the order of their ids, which byte-pair encoding
makes an order of frequency too."""
MOST_BITS = 16
"""Of one code: it is read from a window of 32 bits that begins at any 16th bit."""
CODED_AT_ONCE = 2048
"""Tokens whose arrays stay in the cache: a third faster than four times as many."""
NUM_BUCKETS = (8, 12, 16, 20, 24, 32)
MAGIC = b"PSW1"


class WordSets(NamedTuple):
    """The words of N tokens, token after token, each with its number (below 65,536); `sizes_N` words a token, at least one."""

    sizes_N: Array
    words_U: Array
    numbers_U: Array


class WordCode:
    """A static code for words, learned from some and kept beside what was coded with it."""

    def __init__(self, ranked: Array, bits_B: Array, num_words: int) -> None:
        rest_V = np.ones(num_words, dtype=bool)
        rest_V[ranked] = False
        self.num_ranked = len(ranked)
        self.order_V = np.concatenate([ranked, np.flatnonzero(rest_V)]).astype(np.int32)
        """The word of each rank."""
        self.rank_V = np.empty(num_words, dtype=np.int32)
        self.rank_V[self.order_V] = np.arange(num_words, dtype=np.int32)
        self.bits_B = np.asarray(bits_B, dtype=np.int32)
        """Each bucket holds 2^bits ranks; the last one may reach beyond V."""
        sizes_B = np.left_shift(1, self.bits_B)
        self.starts_B = np.cumsum(sizes_B, dtype=np.int32) - sizes_B
        self.bucket_V = np.repeat(np.arange(len(sizes_B), dtype=np.int32), sizes_B)[:num_words]
        """The bucket of each rank."""

    def to_bytes(self) -> bytes:
        """Inside a bucket the words stand by number, so most of their steps are small, and their high bytes 0."""
        steps = np.diff(self.order_V[: self.num_ranked], prepend=0).astype("<i4")
        packed = zlib.compress(steps.view(np.uint8).reshape(-1, 4).T.tobytes(), 9)
        head = MAGIC + struct.pack("<III", len(self.order_V), self.num_ranked, len(self.bits_B))
        body = head + self.bits_B.astype(np.uint8).tobytes() + packed
        return body + struct.pack("<I", zlib.crc32(body))

    @staticmethod
    def from_bytes(data: bytes) -> WordCode:
        """Raises ModelError where these are not the bytes of `to_bytes`."""
        if len(data) < 20 or data[:4] != MAGIC or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise ModelError("the code of the words is damaged")
        num_words, num_ranked, num_buckets = struct.unpack("<III", data[4:16])
        bits_B = np.frombuffer(data, np.uint8, num_buckets, 16).astype(np.int32)
        planes = np.frombuffer(zlib.decompress(data[16 + num_buckets : -4]), np.uint8).reshape(4, num_ranked)
        ranked = np.cumsum(np.ascontiguousarray(planes.T).view("<i4").ravel(), dtype=np.int32)
        return WordCode(ranked, bits_B, num_words)


def learn_code(sets: WordSets, num_words: int) -> WordCode:
    """The code that is shortest for these sets, among those of a few numbers of buckets.

    Words that were seen once are not ranked: like them are those that will come and were not seen yet, so what they cost here
    is what those will (Good and Turing's estimate of the unseen).
    """
    seen_V = np.bincount(sets.words_U, minlength=num_words)
    ranked = np.flatnonzero(seen_V > 1)
    ranked = ranked[np.argsort(-seen_V[ranked], kind="stable")][:RANKED_WORDS].astype(np.int32)
    code = WordCode(ranked, np.array(_buckets(np.full(num_words, 1 / num_words), 1)), num_words)
    if not len(sets.sizes_N):
        return code
    mass_V = seen_V[code.order_V].astype(np.float64)
    mass_V[len(ranked) :] = _smoothed(mass_V[len(ranked) :])
    mass_V /= mass_V.sum()
    codes = [WordCode(ranked, np.array(_buckets(mass_V, wanted)), num_words) for wanted in NUM_BUCKETS]
    rank_U, firsts_N = code.rank_V[sets.words_U], _firsts(sets.sizes_N)

    def cost(code: WordCode) -> int:
        bucket_U = code.bucket_V[rank_U]
        return int(np.maximum.reduceat(bucket_U, firsts_N).sum() + code.bits_B[bucket_U].sum())

    best = min(codes, key=cost)
    by_number = np.lexsort((ranked, best.bucket_V[: len(ranked)]))
    return WordCode(ranked[by_number], best.bits_B, num_words)


def _smoothed(seen_V: Array) -> Array:
    """The same number of words, spread evenly over each of 16 equal parts of the vocabulary; none is without any."""
    parts = np.array_split(seen_V, 16)
    return np.concatenate([np.full(len(part), (part.sum() + 0.5) / max(1, len(part))) for part in parts])


def _buckets(mass_V: Array, wanted: int) -> tuple[int, ...]:
    """Powers of two: each bucket the largest whose share of the words is at most 1/wanted of all."""
    below = np.concatenate([[0.0], np.cumsum(mass_V)])
    num_words, start, found = len(mass_V), 0, []
    while start < num_words:
        end = int(np.searchsorted(below, below[start] + 1 / wanted, side="right")) - 1
        bits = max(1, end - start).bit_length() - 1 if end < num_words else (num_words - start - 1).bit_length()
        found.append(min(bits, MOST_BITS))
        start += 2 ** found[-1]
    return tuple(found)


def encode(sets: WordSets, tokens_R: Sequence[int], code: WordCode, draws: int | None) -> list[bytes]:
    """Each row's bytes. `draws` is what the numbers of a token add up to; None: they are levels of 16 bits."""
    below_N, ends_R = np.concatenate([[0], np.cumsum(sets.sizes_N, dtype=np.int64)]), np.cumsum([0, *tokens_R])
    blobs: list[bytes] = []
    for rows in _groups(tokens_R):
        first, last = int(ends_R[rows.start]), int(ends_R[rows.stop])
        words = slice(int(below_N[first]), int(below_N[last]))
        part = WordSets(sets.sizes_N[first:last], sets.words_U[words], sets.numbers_U[words])
        blobs += _encode(part, tokens_R[rows], code, draws)
    return blobs


def decode(blobs: Sequence[bytes], tokens_R: Sequence[int], code: WordCode, draws: int | None) -> WordSets:
    """What `encode` was given, each token's words by rank; undefined where the bytes are others (a checksum tells that)."""
    parts = [_decode(blobs[rows], tokens_R[rows], code, draws) for rows in _groups(tokens_R)]
    return parts[0] if len(parts) == 1 else WordSets(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _groups(tokens_R: Sequence[int]) -> list[slice]:
    """Rows that are coded at once; at least one group."""
    found, start, size = [], 0, 0
    for row, tokens in enumerate(tokens_R):
        size += tokens
        if size >= CODED_AT_ONCE:
            found.append(slice(start, row + 1))
            start, size = row + 1, 0
    return found if found and start == len(tokens_R) else [*found, slice(start, len(tokens_R))]


def _encode(sets: WordSets, tokens_R: Sequence[int], code: WordCode, draws: int | None) -> list[bytes]:
    if not len(sets.sizes_N):
        return [b"" for _ in tokens_R]
    firsts_N, token_U = _firsts(sets.sizes_N), np.repeat(np.arange(len(sets.sizes_N)), sets.sizes_N)
    rank_U = code.rank_V[sets.words_U]
    key_U = (token_U << 40) | (rank_U.astype(np.int64) << 16) | sets.numbers_U.astype(np.int64)
    key_U.sort()
    rank_U, number_U = ((key_U >> 16) & 0xFFFFFF).astype(np.int32), (key_U & 0xFFFF).astype(np.int32)
    bucket_U = code.bucket_V[rank_U]
    step_U = np.diff(bucket_U, prepend=0)
    step_U[firsts_N] = bucket_U[firsts_N]
    words = _Codes(step_U, code.bits_B[bucket_U], rank_U - code.starts_B[bucket_U])
    rows = _Rows.of(np.asarray(tokens_R), sets.sizes_N)
    if draws is None:
        codes, counts_R, levels = words, rows.words_R, np.split(number_U.astype("<u2"), np.cumsum(rows.words_R)[:-1])
    else:
        rest_U = _all_but(firsts_N, len(number_U))
        gamma = _gamma(number_U[rest_U])
        is_word_S, counts_R = _turns(rows, True), rows.words_R * 2 - rows.tokens_R
        codes = _Codes(*(_woven(a, b, is_word_S) for a, b in zip(words, gamma, strict=True)))
        levels = [np.zeros(0, "<u2") for _ in tokens_R]
    zeros_N = np.zeros_like(sets.sizes_N)
    widths_N = np.full_like(sets.sizes_N, _size_bits(draws))
    sizes = _packed_bits(_Codes(zeros_N, widths_N, sets.sizes_N - 1), rows.tokens_R)
    unary, low = _unary(codes.step_S, counts_R), _packed_bits(codes, counts_R)
    return [
        b"" if not tokens else struct.pack("<I", len(u)) + s + u + b + level.tobytes()
        for tokens, s, u, b, level in zip(tokens_R, sizes, unary, low, levels, strict=True)
    ]


def _decode(blobs: Sequence[bytes], tokens_R: Sequence[int], code: WordCode, draws: int | None) -> WordSets:
    blobs, tokens = [blob for blob in blobs if blob], np.array([size for size in tokens_R if size], dtype=np.int64)
    if not blobs:
        return WordSets(*(np.zeros(0, dtype=np.int32) for _ in range(3)))
    width = _size_bits(draws)
    ends_R = 4 + (tokens * width + 7) // 8
    lengths_R = np.array([struct.unpack_from("<I", blob)[0] for blob in blobs]) + ends_R
    heads = b"".join(blob[4:end] for blob, end in zip(blobs, ends_R, strict=True))
    sizes_N = 1 + _read_bits(heads, np.full(int(tokens.sum()), width, dtype=np.int32), tokens, ends_R - 4).astype(np.int32)
    rows, firsts_N = _Rows.of(tokens, sizes_N), _firsts(sizes_N)
    counts_R = rows.words_R if draws is None else rows.words_R * 2 - rows.tokens_R
    step_S = _unary_steps(
        b"".join(b[s:e] for b, s, e in zip(blobs, ends_R, lengths_R, strict=True)), counts_R, lengths_R - ends_R
    )
    is_word_S = _turns(rows, draws is not None)
    step_U = step_S[is_word_S] if draws is not None else step_S
    bucket_U = np.cumsum(step_U, dtype=np.int32)
    bucket_U -= np.repeat(bucket_U[firsts_N] - step_U[firsts_N], sizes_N)
    bits_S = step_S.copy()  # a gamma code has as many bits as its unary part
    bits_S[is_word_S] = code.bits_B[bucket_U]
    level_bytes_R = 2 * rows.words_R if draws is None else np.zeros_like(rows.words_R)
    rest_R = np.array([len(blob) for blob in blobs]) - level_bytes_R
    low = b"".join(b[s:e] for b, s, e in zip(blobs, lengths_R, rest_R, strict=True))
    low_S = _read_bits(low, bits_S, counts_R, rest_R - lengths_R)
    rank_U = code.starts_B[bucket_U] + low_S[is_word_S].astype(np.int32)
    if draws is None:
        number_U = np.frombuffer(b"".join(b[e:] for b, e in zip(blobs, rest_R, strict=True)), "<u2").astype(np.int32)
    else:
        number_U = _counts(step_S[~is_word_S], low_S[~is_word_S], firsts_N, rows, draws)
    return WordSets(sizes_N, code.order_V[rank_U], number_U)


class _Codes(NamedTuple):
    """Codes in order: `step_S` zeros and a one in the unary stream, and the low `bits_S` bits of `low_S`."""

    step_S: Array
    bits_S: Array
    low_S: Array


class _Rows(NamedTuple):
    tokens_R: Array
    words_R: Array

    @staticmethod
    def of(tokens_R: Array, sizes_N: Array) -> _Rows:
        below = np.concatenate([[0], np.cumsum(sizes_N, dtype=np.int64)])
        ends = np.cumsum(tokens_R)
        return _Rows(tokens_R, below[ends] - below[ends - tokens_R])


def _size_bits(draws: int | None) -> int:
    """Bits of the number of words less one: at most `draws` words, or 2^16 levels."""
    return 16 if draws is None else (draws - 1).bit_length()


def _firsts(sizes_N: Array) -> Array:
    return np.cumsum(sizes_N, dtype=np.int64) - sizes_N


def _all_but(firsts_N: Array, num_words: int) -> Array:
    rest_U = np.ones(num_words, dtype=bool)
    rest_U[firsts_N] = False
    return rest_U


def _turns(rows: _Rows, has_numbers: bool) -> Array:
    """Which codes are words' [S]: each row's words stand before its numbers, one fewer a token than words."""
    if not has_numbers:
        return np.ones(int(rows.words_R.sum()), dtype=bool)
    lengths = np.stack([rows.words_R, rows.words_R - rows.tokens_R], axis=1).ravel()
    return np.repeat(np.tile([True, False], len(rows.words_R)), lengths)


def _woven(word: Array, number: Array, is_word_S: Array) -> Array:
    both = np.empty(len(is_word_S), dtype=np.int32)
    both[is_word_S], both[~is_word_S] = word, number
    return both


def _gamma(number: Array) -> _Codes:
    """Elias' gamma code of numbers from 1: floor(log2) in unary, then that many low bits."""
    log2 = (np.frexp(number.astype(np.float32))[1] - 1).astype(np.int32)
    return _Codes(log2, log2, number - np.left_shift(1, log2))


def _counts(step: Array, low: Array, firsts_N: Array, rows: _Rows, draws: int) -> Array:
    """The numbers of all words: those that were coded, and the first of each token is what they leave of `draws`."""
    number_U = np.zeros(int(rows.words_R.sum()), dtype=np.int32)
    number_U[_all_but(firsts_N, len(number_U))] = np.left_shift(1, step) + low.astype(np.int32)
    number_U[firsts_N] = draws - np.add.reduceat(number_U, firsts_N)
    return number_U


def _unary(step_S: Array, counts_R: Array) -> list[bytes]:
    """Each row's unary stream."""
    ends_S = np.cumsum(step_S + 1, dtype=np.int64)
    last_R = np.concatenate([[0], ends_S])[np.cumsum(counts_R)]
    length_R = np.diff(last_R, prepend=0)
    bytes_R = (length_R + 7) // 8
    pad_R = _firsts(bytes_R) * 8 - (last_R - length_R)
    bits = np.zeros(int(bytes_R.sum()) * 8, dtype=np.uint8)
    bits[ends_S - 1 + np.repeat(pad_R, counts_R)] = 1
    return _cut(np.packbits(bits, bitorder="little").tobytes(), bytes_R)


def _unary_steps(stream: bytes, counts_R: Array, bytes_R: Array) -> Array:
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")
    ones_S = np.flatnonzero(bits.view(np.bool_))
    if len(bits) < 2**30:
        ones_S = ones_S.astype(np.int32)
    step_S = (np.diff(ones_S, prepend=ones_S.dtype.type(-1)) - 1).astype(np.int32, copy=False)
    has = counts_R > 0
    first_R = _firsts(counts_R)[has]
    step_S[first_R] = ones_S[first_R] - _firsts(bytes_R)[has] * 8
    return step_S


def _packed_bits(codes: _Codes, counts_R: Array) -> list[bytes]:
    """Each row's low bits, one code after the other."""
    below = np.concatenate([[0], np.cumsum(codes.bits_S, dtype=np.int64)])
    ends = np.cumsum(counts_R)
    length_R = below[ends] - below[ends - counts_R]
    bytes_R = (length_R + 7) // 8
    at_S = below[:-1] + np.repeat(_firsts(bytes_R) * 8 - below[ends - counts_R], counts_R)
    num_units = int(bytes_R.sum()) // 4 + 2
    moved_S = codes.low_S.astype(np.uint64) << (at_S & 31).astype(np.uint64)
    unit_S = at_S >> 5
    begins = np.flatnonzero(np.concatenate([[True], unit_S[1:] != unit_S[:-1]]))[: len(unit_S)]
    halves = np.zeros((2, num_units), dtype=np.uint64)
    if len(begins):
        halves[0, unit_S[begins]] = np.add.reduceat(moved_S & np.uint64(0xFFFFFFFF), begins)
        halves[1, unit_S[begins] + 1] = np.add.reduceat(moved_S >> np.uint64(32), begins)
    return _cut((halves[0] | halves[1]).astype("<u4").tobytes(), bytes_R)


def _read_bits(stream: bytes, bits_S: Array, counts_R: Array, bytes_R: Array) -> Array:
    """The codes of `bits_S` (at most 17) bits each; row r's begin at its first byte."""
    units = np.frombuffer(stream + bytes(4 + len(stream) % 2), "<u2").astype(np.uint32)
    windows = units[:-1] | units[1:] << np.uint32(16)
    kind = np.int32 if len(stream) < 2**27 else np.int64
    ends_S = np.cumsum(bits_S, dtype=kind)
    last_R = np.concatenate([[0], ends_S])[np.cumsum(counts_R)]
    pad_R = (_firsts(bytes_R) * 8 - np.concatenate([[0], last_R[:-1]])).astype(kind)
    at_S = ends_S - bits_S + np.repeat(pad_R, counts_R)
    found_S: Array = windows[at_S >> 4] >> (at_S & 15).astype(np.uint32)
    return found_S & (np.left_shift(np.uint32(1), bits_S.astype(np.uint32)) - np.uint32(1))


def _cut(stream: bytes, bytes_R: Array) -> list[bytes]:
    ends = np.cumsum(bytes_R)
    return [stream[end - size : end] for end, size in zip(ends.tolist(), bytes_R.tolist(), strict=True)]
