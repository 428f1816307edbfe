"""Lines that hold each row once and never too much, as few as best fit decreasing row by row needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.packing import pack


@st.composite
def lengths_and_capacity(draw: st.DrawFn) -> tuple[list[int], int]:
    """Few distinct lengths as often as many: the first meet whole groups of lines, the second partial ones."""
    capacity = draw(st.integers(1, 60))
    pool = draw(st.lists(st.integers(1, capacity), min_size=1, max_size=8))
    length = draw(st.sampled_from([st.integers(1, capacity), st.sampled_from(pool)]))
    return draw(st.lists(length, max_size=120)), capacity


def rooms_row_by_row(lengths: list[int], capacity: int) -> list[int]:
    """What is left in each line when rows go one by one, longest first, into the tightest line that holds them."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [(room, place) for place, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting)[1]] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@given(lengths_and_capacity())
def test_every_row_has_one_place_and_no_line_is_overfull(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    lines = pack(lengths, capacity)
    assert sorted(row for line in lines for row in line) == list(range(len(lengths)))
    fills = [sum(lengths[row] for row in line) for line in lines]
    assert all(0 < fill <= capacity for fill in fills)
    assert len(lines) >= -(-sum(lengths) // capacity)


@given(lengths_and_capacity())
def test_counted_by_lengths_the_lines_are_as_full_as_row_by_row(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    rooms = [capacity - sum(lengths[row] for row in line) for line in pack(lengths, capacity)]
    assert sorted(rooms) == rooms_row_by_row(lengths, capacity)


@given(lengths_and_capacity())
def test_lines_and_their_rows_stand_longest_first(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    lines = [[lengths[row] for row in line] for line in pack(lengths, capacity)]
    assert all(line == sorted(line, reverse=True) for line in lines)
    longest = [line[0] for line in lines]
    assert longest == sorted(longest, reverse=True)


def test_a_row_goes_into_the_tightest_line_that_holds_it() -> None:
    """6 and 5 begin lines of 10, with rooms 4 and 5; a 4 fits both and closes the first, the last 5 the second."""
    assert pack([5, 4, 6, 5], 10) == [[2, 1], [0, 3]]


def test_rows_of_one_length_share_lines_evenly() -> None:
    assert pack([3] * 7, 10) == [[0, 2, 4], [1, 3, 5], [6]]
    assert pack([10, 10], 10) == [[0], [1]]
    assert pack([], 10) == []


def test_many_rows_and_a_capacity_beyond_16_bits_are_packed_alike() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 100_000, 3_000)
    lines = pack(lengths, 100_000)
    assert sorted(row for line in lines for row in line) == list(range(3_000))
    fills = [int(lengths[line].sum()) for line in lines]
    assert max(fills) <= 100_000
    assert sorted(100_000 - fill for fill in fills) == rooms_row_by_row(lengths.tolist(), 100_000)
    assert lines == pack(lengths.tolist(), 100_000)


@pytest.mark.parametrize(("lengths", "wrong"), [([3, 11, 4], 11), ([3, 0], 0), ([-2, 12], -2)])
def test_a_length_that_no_line_holds_is_an_error_that_names_it(lengths: list[int], wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"length {wrong} cannot be packed: lengths are from 1 to .* 10$"):
        pack(lengths, 10)
