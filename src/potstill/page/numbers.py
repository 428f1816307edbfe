"""Numbers as people say them: 671B parameters, 1.2 TB, 3.2 s, 94.5%, +4.1 points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

UNKNOWN = "unknown"
DECIMAL_STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def count_in_words(value: float | None, unknown: str = UNKNOWN) -> str:
    """A count with three significant digits and its decimal letter.

    >>> [count_in_words(n) for n in (671e9, 3836021760, 1_900_000, 950, None)]
    ['671B', '3.84B', '1.9M', '950', 'unknown']
    """
    return unknown if value is None else _scaled(value, "")


def bytes_in_words(value: float | None, unknown: str = UNKNOWN) -> str:
    """Bytes in decimal units, as disks and networks count them.

    >>> [bytes_in_words(n) for n in (1.2e12, 7_654_321, 512, None)]
    ['1.2TB', '7.65MB', '512B', 'unknown']
    """
    return unknown if value is None else _scaled(value, "B").replace("BB", "GB")


def seconds_in_words(value: float | None, unknown: str = UNKNOWN) -> str:
    """
    >>> [seconds_in_words(s) for s in (3.2, 0.0456, 0.00071, 312, 7300, None)]
    ['3.2s', '46ms', '0.71ms', '5m 12s', '2h 1m', 'unknown']
    """
    if value is None:
        return unknown
    if value < 0.9995:
        return f"{_digits(value * 1000, 2 if value < 0.1 else 3)}ms"
    if value < 60:
        return f"{_digits(value, 2 if value < 10 else 3)}s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes}m {seconds}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60}m"


def short_rate(per_second: float | None, unknown: str = UNKNOWN) -> str:
    """
    >>> [short_rate(r) for r in (0.0139, 84.0, None)]
    ['50/hour', '84/s', 'unknown']
    """
    return rate_in_words(per_second, unknown).replace(" queries/", "/").replace("/second", "/s").replace("/minute", "/min")


def rate_in_words(per_second: float | None, unknown: str = UNKNOWN) -> str:
    """Queries in the unit that keeps the number between 1 and a few thousand.

    >>> [rate_in_words(r) for r in (0.0139, 0.5, 12.34, 2000.0, None)]
    ['50 queries/hour', '30 queries/minute', '12 queries/second', '2,000 queries/second', 'unknown']
    """
    if per_second is None:
        return unknown
    for factor, unit in ((1, "second"), (60, "minute")):
        if per_second * factor >= 1:
            return f"{_digits(per_second * factor, 2)} queries/{unit}"
    return f"{_digits(per_second * 3600, 2)} queries/hour"


def percent(value: float | None, unknown: str = UNKNOWN) -> str:
    """
    >>> [percent(v) for v in (0.945, 1.0, 0.9996, 0.0, 0.87, None)]
    ['94.5%', '100%', '99.9%', '0%', '87.0%', 'unknown']
    """
    if value is None:
        return unknown
    tenths = math.floor(abs(value) * 1000 + 1e-9) if 0.9995 <= abs(value) < 1 else round(abs(value) * 1000)
    sign = "-" if value < 0 and tenths else ""
    return f"{sign}{tenths / 10:g}%" if tenths in (0, 1000) else f"{sign}{tenths / 10:.1f}%"


def points(value: float | None, unknown: str = UNKNOWN) -> str:
    """A difference of two shares in percentage points, with its sign.

    >>> [points(v) for v in (0.041, -0.1234, 0.0, None)]
    ['+4.1', '-12.3', '0.0', 'unknown']
    """
    if value is None:
        return unknown
    rounded = round(value * 100, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}"


def interval(score: Mapping[str, Any] | None, scale: float = 100.0, digits: int = 1) -> str:
    """The two ends of a score in brackets, times `scale`; empty when it has none.

    >>> interval({"value": 0.9, "low": 0.881, "high": 0.919})
    '[88.1, 91.9]'
    """
    if score is None or score.get("low") is None or score.get("high") is None:
        return ""
    low, high = (f"{round(score[end] * scale, digits) + 0:.{digits}f}" for end in ("low", "high"))
    return f"[{low}, {high}]"


def dollars(value: float | None, unknown: str = UNKNOWN) -> str:
    """
    >>> [dollars(d) for d in (12.5, 0.0031, 0.0, None)]
    ['$12.50', '$0.0031', '$0.00', 'unknown']
    """
    if value is None:
        return unknown
    return f"${value:,.2f}" if value == 0 or value >= 0.01 else f"${value:.2g}"


def _scaled(value: float, unit: str) -> str:
    for factor, letter in DECIMAL_STEPS:
        if abs(value) >= factor * 0.9995:
            return f"{_digits(value / factor, 3)}{letter}{unit}"
    return f"{_digits(value, 3)}{unit}"


def _digits(value: float, significant: int) -> str:
    """
    >>> [_digits(v, 3) for v in (3.84, 671.0, 1.9, 1234.5, 0.0)]
    ['3.84', '671', '1.9', '1,234', '0']
    """
    if value == 0:
        return "0"
    places = max(0, significant - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
