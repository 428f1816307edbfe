"""math: word problems with one number as the answer."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from pydantic import Field

from ..contracts import Task
from ..reading import unwrapped
from ..texts import without_thinking
from ..types import Example

_DIGITS = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_NUMBER = re.compile(rf"[-+−]?[$€£¥]?\s?(?:(?:{_DIGITS})(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,2}}(?!\d))?(?:\s?/\s?\d+(?!\d|\.\d))?")
_HASHES = re.compile(r"####\s*(.+)")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_FRACTION = re.compile(r"([-−]?)\s*\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_STATED = re.compile(r"\banswer\s*(?:is|:|=)+\s*(.+)", re.IGNORECASE)
_MAX_DIGITS = 100


class Math(Task):
    """Word problems: right when the number equals meta.answer, or the number of the gold, exactly."""

    max_answer_tokens: int = Field(default=320, ge=1, description="longest answer asked for, in tokens")

    def read(self, text: str) -> str | None:
        """The final number: after '####', in \\boxed{}, after "the answer is", or the last one of the last line.

        >>> Math().read("2 + 2 = 4\\n#### 1,234.0"), Math().read("\\\\boxed{\\\\frac{1}{2}}."), Math().read("Who knows")
        ('1234', '0.5', None)
        """
        plain = unicodedata.normalize("NFKC", without_thinking(text).replace("½", "1/2"))
        for pattern in (_HASHES, _BOXED, _STATED):
            marked = pattern.findall(plain)
            if marked and (found := _number(marked[-1], first=True)) is not None:
                return found
        lines = [line for line in unwrapped(plain).splitlines() if line.strip()]
        return _number(lines[-1], first=False) if lines else None

    def right(self, text: str, example: Example) -> float | None:
        answer = example.meta.get("answer")
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            answer = example.gold
        if answer is None:
            return None
        wanted = self.read(str(answer))
        return None if wanted is None else float(self.read(text) == wanted)


def _number(text: str, *, first: bool) -> str | None:
    """The first or the last number of a text, as a decimal, or as a fraction where it is no decimal."""
    plain = _FRACTION.sub(r"\1\2/\3", text).replace("\\$", "$").replace("\\!", "").replace("{,}", ",").replace("\\,", ",")
    found = [hit for hit in _NUMBER.finditer(plain) if len(hit[0]) <= _MAX_DIGITS]
    if not found:
        return None
    hit = found[0] if first else found[-1]
    return _plain_number(hit[0], glued=hit.start() > 0 and plain[hit.start() - 1].isalnum())


def _plain_number(text: str, *, glued: bool) -> str | None:
    """`glued`: a letter or digit stands before, so that a leading hyphen is no minus ("5-3", "covid-19")."""
    plain = re.sub(r"[\s,$€£¥]", "", text).replace("−", "-")
    try:
        value = Fraction(plain.lstrip("-+") if glued else plain)
    except (ValueError, ZeroDivisionError):
        return None
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    places = next(count for count in range(1, 4 * _MAX_DIGITS) if 10**count % value.denominator == 0)
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
