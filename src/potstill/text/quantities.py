"""Numbers as people and models write them: 1,234.50, 1.234,5, 1 234, ½, 1 1/2, 3e5, 2 × 10^6, 50%, \\frac{1}{2}, １２, ٣."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹]+")
_DIGIT_AND_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_LATEX_FRACTION = re.compile(r"(\d?)\s*\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_LATEX_WORD = re.compile(r"\\(?:text|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_REPLACED = {
    "\\$": "$",
    "\\%": "%",
    "\\!": "",
    "{,}": ",",
    "\\,": ",",
    "\\times": "x",
    "\\cdot": "x",
    "×": "x",
    "·": "x",
    "−": "-",  # the minus sign of typesetters
    "⁄": "/",  # what NFKC puts into ½
    "٫": ".",  # the decimal and the thousands sign of Arabic
    "٬": ",",
    "’": "'",
}
# Where a point groups thousands, a comma begins the decimals; one point alone is a decimal point.
_PLAIN = (
    r"\d{1,3}(?:,\d{3})+(?!\d|,\d)(?:\.\d+)?|\d{1,2}(?:,\d{2})+,\d{3}(?!\d|,\d)(?:\.\d+)?"  # 1,234.5 and India's 12,34,567
    r"|\d{1,3}(?:\.\d{3})+,\d+(?!\d|,\d)|\d{1,3}(?:\.\d{3}){2,}(?!\d|\.\d)"  # 1.234,5 and 1.234.567
    r"|\d{1,3}(?: \d{3})+(?!\d)(?:[.,]\d+(?!\d))?|\d{1,3}(?:'\d{3})+(?!\d)(?:\.\d+)?"  # 1 234,5 and Switzerland's 1'234.5
    r"|(?<!\d,)(?:0,\d+|\d+,\d{1,2})(?!\d|,\d)|\d+(?:\.\d+)?|(?<!\d)\.\d+"  # 12,5 and 12.5
)
_POWER = r"(?:[eE](?P<power>[-+]?\d{1,2})(?!\d)| ?x ?10\^\{?(?P<ten>[-+]?\d{1,2})\}?(?!\d))"
_NUMBER = re.compile(
    r"(?<![\d^])(?P<sign>[-+]?)(?P<gap> ?)(?:[$€£¥₹] ?)?(?P<minus>-?)"
    r"(?:(?P<whole>\d+) (?:and )?(?P<over>\d+)/(?P<under>\d+)(?![\d/])"
    rf"|(?P<plain>{_PLAIN}){_POWER}?(?:[ ]?/[ ]?(?P<divisor>\d+)(?!\d|\.\d))?)"
    r"(?P<unit> ?%| ?(?:percent|per cent|thousand|million|billion|trillion)\b)?",
    re.IGNORECASE,
)
_SCALES = {
    "%": Fraction(1, 100),
    "percent": Fraction(1, 100),
    "per cent": Fraction(1, 100),
    "thousand": Fraction(10**3),
    "million": Fraction(10**6),
    "billion": Fraction(10**9),
    "trillion": Fraction(10**12),
}
_MAX_DIGITS = 100


class Quantity(NamedTuple):
    """A number, and what the sign or word behind it multiplies it by: 1/100 behind "%", 1,000,000 behind "million"."""

    value: Fraction
    scale: Fraction = Fraction(1)

    def equals(self, other: Quantity) -> bool:
        """Whether two people may mean the same: 50% is 50 (percent) and 0.5; 50 is not 0.5."""
        mine, others = {self.value, self.value * self.scale}, {other.value, other.value * other.scale}
        return bool(mine & others)


def quantities(text: str) -> list[Quantity]:
    """The numbers of a text, in their order.

    >>> [str(found.value) for found in quantities("$1,234.00 and 1.234,5 and 1 234 and 1½ and 50%")]
    ['1234', '2469/2', '1234', '3/2', '50']
    """
    plain = _plain(text)
    return [found for hit in _NUMBER.finditer(plain) if len(hit[0]) <= _MAX_DIGITS and (found := _quantity(hit, plain))]


def decimal(value: Fraction) -> str:
    """A number as a decimal, or as a fraction where no decimal ends.

    >>> decimal(Fraction(-1, 8)), decimal(Fraction(1, 3)), decimal(Fraction(40, 2))
    ('-0.125', '1/3', '20')
    """
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


def _plain(text: str) -> str:
    """The text with ASCII digits and signs, and LaTeX as people would type it."""
    spread = _DIGIT_AND_VULGAR_FRACTION.sub(" ", text)
    powers = _SUPERSCRIPT.sub(lambda run: "^" + unicodedata.normalize("NFKC", run[0]), spread)
    plain = unicodedata.normalize("NFKC", powers)
    if not plain.isascii():
        plain = "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in plain)
    plain = _LATEX_FRACTION.sub(_typed_fraction, _LATEX_WORD.sub(r"\1", plain))
    for written, meant in _REPLACED.items():
        plain = plain.replace(written, meant)
    return plain


def _typed_fraction(hit: re.Match[str]) -> str:
    return f"{hit[1]} {hit[2]}/{hit[3]}" if hit[1] else f"{hit[2]}/{hit[3]}"


def _quantity(hit: re.Match[str], text: str) -> Quantity | None:
    """None where it divides by zero."""
    try:
        value = _mixed(hit) if hit["whole"] else _number(hit)
    except ZeroDivisionError:
        return None
    negative = hit["minus"] == "-" or (
        hit["sign"] == "-" and _is_minus(text[max(0, hit.start() - 8) : hit.start()], gap=bool(hit["gap"]))
    )
    scale = _SCALES.get((hit["unit"] or "").strip().lower(), Fraction(1))
    return Quantity(-value if negative else value, scale)


def _is_minus(before: str, *, gap: bool) -> bool:
    """Whether a hyphen is a minus: not behind a letter or digit ("5-3", "covid-19"), and not as a list's bullet ("- 5")."""
    if gap:
        return before.rstrip(" ").endswith("=")
    return not before[-1:].isalnum() and before[-1:] != ")"


def _mixed(hit: re.Match[str]) -> Fraction:
    part = Fraction(int(hit["over"]), int(hit["under"]))
    return part + int(hit["whole"]) if part < 1 else part  # "in 3 10/5" is no mixed number


def _number(hit: re.Match[str]) -> Fraction:
    digits = hit["plain"].replace(" ", "").replace("'", "")
    comma, point = digits.rfind(","), digits.rfind(".")
    if comma > point >= 0 or re.fullmatch(r"0,\d+|\d+,\d{1,2}", digits):  # the comma begins the decimals
        digits = digits.replace(".", "").replace(",", ".")
    elif digits.count(".") > 1:
        digits = digits.replace(".", "")
    elif hit["plain"].count(" ") and comma >= 0:
        digits = digits.replace(",", ".")
    value = Fraction(digits.replace(",", ""))
    power = hit["power"] or hit["ten"]
    value = value * Fraction(10) ** int(power) if power else value
    return value / int(hit["divisor"]) if hit["divisor"] else value
