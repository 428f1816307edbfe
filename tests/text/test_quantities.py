"""Numbers as people and models of any country write them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.text.quantities import Quantity, decimal, quantities


def read(text: str) -> list[str]:
    return [decimal(found.value) for found in quantities(text)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("$1,234.00", ["1234"]),
        ("1,234,567.89, or 1,000, or 1,000.", ["1234567.89", "1000", "1000"]),
        ("12,34,567", ["1234567"]),
        ("1.234,5", ["1234.5"]),
        ("1.234.567.", ["1234567"]),
        ("1.234", ["1.234"]),
        ("1 234", ["1234"]),
        ("1\u202f234,5", ["1234.5"]),
        ("1'234.50 and 1’234", ["1234.5", "1234"]),
        ("12,5, not 12.5.", ["12.5", "12.5"]),
        ("0,125", ["0.125"]),
        ("1,2,3", ["1", "2", "3"]),
        ("in 2023 100 people", ["2023", "100"]),
        ("½ and 1½ and -2¾", ["0.5", "1.5", "-2.75"]),
        ("1/3 and 2 1/2 and 2 and 1/2", ["1/3", "2.5", "2.5"]),
        (r"\frac{3}{4}, 2\frac{1}{2}, 1{,}000, 5\%", ["0.75", "2.5", "1000", "5"]),
        ("1e3, 2 × 10^6, 2\\times 10^{-1}", ["1000", "2000000", "0.2"]),
        ("25 m² and 10²", ["25", "10"]),
        ("-7, −7, $-7, -$7, (-7), x = - 7", ["-7"] * 6),
        ("5-3, covid-19, 3-(-5)", ["5", "3", "19", "3", "-5"]),
        ("- 5 apples", ["5"]),
        ("12 apples", ["12"]),
        ("९ and ٣٫٥ and １２", ["9", "3.5", "12"]),
        ("1/0", []),
        ("no number", []),
        ("9" * 5000, []),
    ],
)
def test_a_number_is_read_in_every_dress(text: str, numbers: list[str]) -> None:
    assert read(text) == numbers


def test_a_percentage_may_mean_its_number_or_its_share_and_a_million_too() -> None:
    (percent,) = quantities("50%")
    assert percent.equals(Quantity(Fraction(50)))
    assert percent.equals(Quantity(Fraction(1, 2)))
    assert Quantity(Fraction(1, 2)).equals(percent)
    assert not Quantity(Fraction(50)).equals(Quantity(Fraction(1, 2)))
    assert quantities("3 million")[0].equals(Quantity(Fraction(3_000_000)))
    assert quantities("50 percent")[0] == quantities("50 %")[0] == percent


@given(st.integers(-(10**12), 10**12), st.sampled_from([",", " ", "\u00a0", "\u202f", "'"]), st.integers(0, 99))
def test_grouped_thousands_are_the_number_without_groups(number: int, sign: str, cents: int) -> None:
    grouped = f"{abs(number):,}".replace(",", sign)
    minus = "-" if number < 0 else ""
    assert read(f"{minus}{grouped}") == [str(number)]
    assert read(f"{minus}{grouped}.{cents:02d}") == read(f"{minus}{abs(number)}.{cents:02d}")


@given(st.integers(0, 10**9), st.integers(1, 999))
def test_a_decimal_comma_behind_grouping_points_is_a_decimal_comma(number: int, thousandths: int) -> None:
    grouped = f"{number + 1000:,}".replace(",", ".")
    assert read(f"{grouped},{thousandths:03d}") == [decimal(Fraction(1000 * (number + 1000) + thousandths, 1000))]


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=999))
def test_what_is_written_as_a_decimal_or_a_fraction_is_read_as_itself(value: Fraction) -> None:
    assert [found.value for found in quantities(decimal(value))] == [value]


@given(st.text(alphabet=st.sampled_from("0123456789.,-/ e%$½²\\{}frac'x^") | st.characters(), max_size=60))
def test_no_text_breaks_the_reading(text: str) -> None:
    for found in quantities(text):
        assert [again.value for again in quantities(decimal(found.value))] == [found.value]


@pytest.mark.parametrize("text", ["1," * 20_000, "1 111" * 20_000, "½" * 20_000, "-" * 50_000, "1/" * 20_000, "9" * 50_000])
def test_hostile_texts_are_read_quickly(text: str) -> None:
    quantities(text)
