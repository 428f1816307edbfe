"""95% intervals by the bootstrap: of a mean, a paired difference, a ratio, a quantile. A number never stands alone.

All of it is seeded, so a report that is made twice says the same. Resampling n rows with replacement is drawing how
often each DISTINCT row is taken, a multinomial: for right/wrong rows that is a handful of counts, whatever n is.

The bootstrap has one blind spot: when all rows are equal every resample is equal too and the interval collapses to a
point, as if 20 of 20 proved 100%. For 0/1 rows Wilson's interval (1927) is given there instead; for other rows none is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .types import Score

Floats = NDArray[np.float64]
SAMPLES = 2000
Z_95 = 1.959964
Z_POWER_80 = 0.841621
TAIL = 2.5
CELLS_AT_ONCE = 4_000_000


class Range(NamedTuple):
    """Both ends of an interval."""

    low: float
    high: float


def mean_score(values: Sequence[float | None], samples: int = SAMPLES, seed: int = 0) -> Score:
    """The mean of per-row values; rows without a value (None) are left out and do not count in `n`."""
    rows = np.array([value for value in values if value is not None], dtype=np.float64)
    if rows.size == 0:
        return Score(None, None, None, 0, "no row has a value")
    mean = float(rows.mean())
    if np.all(rows == rows[0]):
        return _of_equal_rows(mean, rows.size, _is_right_or_wrong(rows), wilson(rows.sum(), rows.size))
    ends = _ends(_resampled_means(rows[:, None], samples, seed)[:, 0])
    return Score(mean, ends.low, ends.high, rows.size)


def difference(first: Sequence[float | None], second: Sequence[float | None], samples: int = SAMPLES, seed: int = 0) -> Score:
    """Mean of `first` minus mean of `second` on the same rows; a row counts where both have a value."""
    pairs = _paired(first, second)
    if len(pairs) == 0:
        return Score(None, None, None, 0, "no row has a value for both systems")
    gaps = pairs[:, 0] - pairs[:, 1]
    if np.all(gaps == gaps[0]):
        ends = _ends_of_equal_gaps(float(gaps[0]), len(gaps))
        return _of_equal_rows(float(gaps[0]), len(gaps), _is_right_or_wrong(pairs), ends)
    ends = _ends(_resampled_means(gaps[:, None], samples, seed)[:, 0])
    return Score(float(gaps.mean()), ends.low, ends.high, len(gaps))


def retention(student: Sequence[float | None], teacher: Sequence[float | None], samples: int = SAMPLES, seed: int = 0) -> Score:
    """Mean of the student divided by mean of the teacher on the same rows: how much of the teacher is kept."""
    pairs = _paired(student, teacher)
    if len(pairs) == 0:
        return Score(None, None, None, 0, "no row has a value for both systems")
    student_mean, teacher_mean = (float(mean) for mean in pairs.mean(axis=0))
    if teacher_mean == 0:
        return Score(None, None, None, len(pairs), "the teacher is right on no row, so there is nothing to keep")
    ratio = student_mean / teacher_mean
    gaps = pairs[:, 0] - pairs[:, 1]
    if np.all(gaps == gaps[0]):
        ends = _ends_of_equal_gaps(float(gaps[0]), len(gaps))
        around = Range(max(0.0, 1 + ends.low / teacher_mean), 1 + ends.high / teacher_mean)
        return _of_equal_rows(ratio, len(pairs), _is_right_or_wrong(pairs), around)
    means = _resampled_means(pairs, samples, seed)
    usable = means[means[:, 1] > 0]
    if len(usable) < samples * (1 - TAIL / 100):
        return Score(ratio, None, None, len(pairs), "the teacher is right on too few rows for an interval")
    ends = _ends(usable[:, 0] / usable[:, 1])
    return Score(ratio, ends.low, ends.high, len(pairs))


def quantile_score(values: Sequence[float | None], share: float, samples: int = SAMPLES, seed: int = 0) -> Score:
    """The quantile `share` (0.5, 0.95) of per-row values such as seconds.

    With n rows an upper quantile near 1 - 1/n has the largest row as its upper end: read p95 of 32 rows so.
    """
    rows = np.array([value for value in values if value is not None], dtype=np.float64)
    if rows.size == 0:
        return Score(None, None, None, 0, "no row has a value")
    value = float(np.quantile(rows, share))
    if rows.size == 1:
        return Score(value, None, None, 1, "one row has no interval")
    rng = np.random.default_rng(seed)
    at_once = max(1, CELLS_AT_ONCE // rows.size)
    drawn = [
        np.quantile(rows[rng.integers(0, rows.size, (min(at_once, samples - start), rows.size))], share, axis=1)
        for start in range(0, samples, at_once)
    ]
    ends = _ends(np.concatenate(drawn))
    return Score(value, ends.low, ends.high, rows.size)


def resampled_score(value: Callable[[Sequence[int]], float | None], n: int, samples: int = 200, seed: int = 0) -> Score:
    """The interval of any statistic of rows, such as corpus BLEU: `value` gets row numbers, and is called samples + 1 times."""
    if n == 0:
        return Score(None, None, None, 0, "no row has a value")
    whole = value(range(n))
    if whole is None:
        return Score(None, None, None, n, "it does not apply to these rows")
    if n == 1:
        return Score(whole, None, None, 1, "one row has no interval")
    rng = np.random.default_rng(seed)
    drawn = [value(rng.integers(0, n, n).tolist()) for _ in range(samples)]
    usable = np.array([one for one in drawn if one is not None], dtype=np.float64)
    if len(usable) < samples * (1 - TAIL / 100):
        return Score(whole, None, None, n, "too many resamples have no value")
    if np.all(usable == usable[0]):
        return Score(whole, None, None, n, "every resample gives the same value")
    ends = _ends(usable)
    return Score(whole, ends.low, ends.high, n)


def wilson(right: float, n: int) -> Range:
    """Wilson's 95% interval of a proportion, which holds its level for small n and at 0 and 1.

    >>> [round(end, 3) for end in wilson(20, 20)]
    [0.839, 1.0]
    """
    z2 = Z_95 * Z_95
    share = right / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Range(0.0 if right == 0 else max(0.0, middle - half), 1.0 if right == n else min(1.0, middle + half))


def detectable_difference(n: int, deviation: float = math.sqrt(0.5)) -> float | None:
    """The smallest true difference that n paired rows would show in 80% of repetitions (two-sided, 5%).

    `deviation` is the standard deviation of the per-row differences; the default is the worst case of two
    independent systems that are right half the time.

    >>> round(detectable_difference(1000), 3)
    0.063
    """
    return (Z_95 + Z_POWER_80) * deviation / math.sqrt(n) if n > 0 else None


def deviation_of_difference(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """The standard deviation of the per-row differences, for `detectable_difference`; None below two rows or at zero."""
    pairs = _paired(first, second)
    if len(pairs) < 2:
        return None
    return float(np.std(pairs[:, 0] - pairs[:, 1], ddof=1)) or None


def _paired(first: Sequence[float | None], second: Sequence[float | None]) -> Floats:
    """[n, 2]: the rows where both have a value."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return np.array(both, dtype=np.float64).reshape(-1, 2)


def _resampled_means(rows: Floats, samples: int, seed: int) -> Floats:
    """[samples, columns]: the column means of `samples` resamples of rows [n, columns]."""
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    n = len(rows)
    rng = np.random.default_rng(seed)
    at_once = max(1, CELLS_AT_ONCE // len(distinct))
    parts = [
        rng.multinomial(n, counts / n, size=min(at_once, samples - start)) @ distinct / n for start in range(0, samples, at_once)
    ]
    return np.concatenate(parts)


def _ends(drawn: Floats) -> Range:
    low, high = np.percentile(drawn, [TAIL, 100 - TAIL])
    return Range(float(low), float(high))


def _ends_of_equal_gaps(gap: float, n: int) -> Range:
    """The interval of a difference of 0/1 rows when every row has the same one.

    Gap 0: no row of n differs, so at most Wilson's upper end of 0/n of all rows do, in either direction.
    """
    if gap == 0:
        bound = wilson(0, n).high
        return Range(-bound, bound)
    ends = wilson(n, n)
    return ends if gap > 0 else Range(-ends.high, -ends.low)


def _is_right_or_wrong(rows: Floats) -> bool:
    return bool(np.all((rows == 0) | (rows == 1)))


def _of_equal_rows(value: float, n: int, right_or_wrong: bool, ends: Range) -> Score:
    if right_or_wrong:
        return Score(value, ends.low, ends.high, n)
    return Score(value, None, None, n, "one row has no interval" if n == 1 else "all rows have the same value")
