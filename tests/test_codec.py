"""Sets of words with numbers come back as they were given, and take the bytes that they should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.codec import WordCode, WordSets, decode, encode, learn_code
from potstill.errors import ModelError


def drawn(probabilities_NV: Any, draws: int, seed: int = 0) -> WordSets:
    """`draws` draws with replacement for each token, as sets."""
    random = np.random.default_rng(seed)
    sets = [np.unique(random.choice(len(p), size=draws, p=p), return_counts=True) for p in probabilities_NV]
    words, counts = zip(*sets, strict=True)
    sizes = np.array([len(word) for word in words], dtype=np.int32)
    return WordSets(sizes, np.concatenate(words).astype(np.int32), np.concatenate(counts).astype(np.int32))


def part(sets: WordSets, start: int, end: int) -> WordSets:
    below = np.concatenate([[0], np.cumsum(sets.sizes_N)])
    words = slice(below[start], below[end])
    return WordSets(sets.sizes_N[start:end], sets.words_U[words], sets.numbers_U[words])


def as_listed(sets: WordSets) -> list[list[tuple[int, int]]]:
    """Each token's words with their numbers, in the order of the words."""
    ends = np.cumsum(sets.sizes_N)[:-1]
    pairs = zip(np.split(sets.words_U, ends), np.split(sets.numbers_U, ends), strict=True)
    return [sorted(zip(words.tolist(), numbers.tolist(), strict=True)) for words, numbers in pairs] if len(sets.sizes_N) else []


@st.composite
def some_sets(draw: st.DrawFn) -> tuple[WordSets, list[int], int, int | None]:
    """Rows of tokens of any shape: the vocabulary, and what the numbers add up to, or None where they are levels."""
    num_words = draw(st.sampled_from([2, 3, 50, 1000, 32_000, 151_936, 200_000, 262_144]))
    total = draw(st.sampled_from([None, 1, 2, 5, 50, 64, 1000]))
    tokens = draw(st.lists(st.integers(0, 6), max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    most = min(num_words, 50 if total is None else total, 60)
    sizes, words, numbers = [], [], []
    for _ in range(sum(tokens)):
        size = int(random.choice(np.array([1, most, random.integers(1, most + 1)])))
        span = int(random.choice([num_words, max(size, min(num_words, 70))]))
        sizes.append(size)
        words.append(random.choice(span, size=size, replace=False) + int(random.choice([0, num_words - span])))
        if total is None:
            numbers.append(random.integers(0, 2**16, size=size))
        else:
            cuts: Any = np.sort(random.choice(total - 1, size=size - 1, replace=False)) + 1 if size > 1 else []
            numbers.append(np.diff(np.concatenate([[0], cuts, [total]])))
    empty = [np.zeros(0)]
    sets = WordSets(*(np.concatenate(given or empty).astype(np.int32) for given in ([sizes and np.array(sizes)], words, numbers)))
    return sets, tokens, num_words, total


@given(some_sets(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read(given_sets: tuple[WordSets, list[int], int, int | None], is_learned: bool) -> None:
    """Also with a code that was learned from nothing."""
    sets, tokens, num_words, total = given_sets
    learned = learn_code(sets if is_learned else part(sets, 0, 0), num_words)
    code = WordCode.from_bytes(learned.to_bytes())
    blobs = encode(sets, tokens, code, total)
    assert as_listed(decode(blobs, tokens, code, total)) == as_listed(sets)
    ends = np.cumsum(tokens)
    for blob, size, end in zip(blobs, tokens, ends, strict=True):  # each row alone too
        assert as_listed(decode([blob], [size], code, total)) == as_listed(part(sets, int(end) - size, int(end)))


def test_a_sure_token_takes_the_number_of_its_words_and_one_code() -> None:
    """Fifty draws of one word: 6 bits that there is one word, its bucket and rank; its count is what nothing else leaves."""
    sets = WordSets(np.ones(800, np.int32), np.zeros(800, np.int32), np.full(800, 50, np.int32))
    code = learn_code(sets, 151_936)
    (blob,) = encode(sets, [800], code, 50)
    assert code.starts_B[1] == 1, "the only word that was seen has a bucket of its own"
    assert len(blob) == 4 + 800 * (6 + 1) / 8


def test_words_take_what_their_frequency_tells() -> None:
    """Near the floor of sets drawn from a known Zipf distribution, and far from a fixed number of bits a word."""
    random = np.random.default_rng(1)
    num_words, num_tokens, draws = 20_000, 3000, 12
    zipf = 1.0 / np.arange(1, num_words + 1)
    zipf = random.permutation(zipf / zipf.sum())
    sets = drawn([zipf] * num_tokens, draws)
    code = learn_code(part(sets, 0, 1500), num_words)
    held_out = part(sets, 1500, 3000)
    size = sum(len(blob) for blob in encode(held_out, [150] * 10, code, draws)) / 1500
    log_factorial = np.array([math.lgamma(n + 1) for n in range(draws + 1)])
    token = np.repeat(np.arange(1500), held_out.sizes_N)
    log_likelihood = log_factorial[draws] + np.bincount(
        token, held_out.numbers_U * np.log(zipf[held_out.words_U]) - log_factorial[held_out.numbers_U]
    )
    floor = float(-log_likelihood.mean() / math.log(2) / 8)
    assert floor < size < 1.35 * floor
    assert size < 0.75 * held_out.sizes_N.mean() * (15 + 4) / 8


def test_frequent_words_never_seen_before_still_have_a_code() -> None:
    code = learn_code(WordSets(np.array([1]), np.array([7]), np.array([2])), 262_144)
    sets = WordSets(np.array([2]), np.array([262_143, 7]), np.array([1, 1]))
    assert as_listed(decode(encode(sets, [1], code, 2), [1], code, 2)) == [[(7, 1), (262_143, 1)]]
    assert max(code.bits_B) <= 16
    assert sum(2 ** code.bits_B.astype(int)) >= 262_144


def test_a_changed_code_is_told() -> None:
    data = bytearray(learn_code(WordSets(np.array([1]), np.array([7]), np.array([2])), 100).to_bytes())
    data[-6] ^= 4
    for broken in (bytes(data), b"", bytes(40)):
        with pytest.raises(ModelError, match="damaged"):
            WordCode.from_bytes(broken)
