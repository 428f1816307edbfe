"""Batches hold each row once and whole, within the budget of positions at their own width."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.batches import PASS_COSTS, Batch, Row, batches_as_asked, least_cost_cuts, make_batches


def row(prompt: int, answer: int, start: int = 0) -> Row:
    """Tokens that name their row and place, so that none can be taken for another."""
    ids = np.arange(start + 1, start + 1 + prompt + answer, dtype=np.int32)
    return Row(ids[:prompt], ids[prompt:])


def rows_of(sizes: list[tuple[int, int]]) -> list[Row]:
    return [row(prompt, answer, 1000 * number) for number, (prompt, answer) in enumerate(sizes)]


SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 15)), min_size=1, max_size=40)


def assert_whole(batch: Batch, rows: list[Row]) -> None:
    """Each row's tokens stand together from position 0 on, and its targets follow in the order of `numbers`."""
    ids, positions = batch.input_ids_BT.flatten(), batch.position_ids_BT.flatten()
    sizes = [len(rows[number].answer) for number in batch.numbers]
    for number, at, target in zip(batch.numbers, batch.at_N.split(sizes), batch.target_N.split(sizes), strict=True):
        own = rows[number]
        start, end = int(at[-1]) + 1 - own.length, int(at[-1]) + 1
        assert ids[start:end].tolist() == [*own.prompt, *own.answer[:-1]]
        assert positions[start:end].tolist() == list(range(own.length))
        assert at.tolist() == list(range(end - len(own.answer), end))
        assert target.tolist() == own.answer.tolist()


@given(sizes=SIZES, token_budget=st.integers(1, 400), packing=st.booleans())
def test_every_row_is_whole_in_one_batch_and_no_batch_passes_the_budget(
    sizes: list[tuple[int, int]], token_budget: int, packing: bool
) -> None:
    rows = rows_of(sizes)
    batches = make_batches(rows, range(len(rows)), token_budget=token_budget, packing=packing, pad_id=0)
    assert sorted(number for batch in batches for number in batch.numbers) == list(range(len(rows)))
    longest = max(row.length for row in rows)
    for batch in batches:
        assert_whole(batch, rows)
        num_lines, width = batch.input_ids_BT.shape
        assert num_lines == 1 or num_lines * width <= token_budget
        assert width <= longest
        assert int((batch.input_ids_BT != 0).sum(1).max()) == width, "wider than its longest line"
        assert packing or num_lines == len(batch.numbers)


def cost(widths: list[int], cuts: list[int]) -> int:
    return sum((end - start) * max(widths[start:end]) + PASS_COSTS for start, end in pairwise(cuts))


def every_way_to_cut(widths: list[int], token_budget: int) -> list[list[int]]:
    """All cuts whose batches hold one line, or no more positions than the budget."""
    num = len(widths)
    ways = [[0, *inner, num] for size in range(num) for inner in combinations(range(1, num), size)]
    return [way for way in ways if all(b - a == 1 or (b - a) * max(widths[a:b]) <= token_budget for a, b in pairwise(way))]


@given(st.lists(st.one_of(st.integers(1, 900), st.integers(1, 20)), min_size=1, max_size=8), st.integers(1, 3000))
def test_no_other_way_to_cut_costs_less(widths: list[int], token_budget: int) -> None:
    cuts = least_cost_cuts(widths, token_budget)
    ways = every_way_to_cut(widths, token_budget)
    assert cuts in ways
    assert cost(widths, cuts) == min(cost(widths, way) for way in ways)


def test_lines_are_parted_where_that_saves_more_than_a_pass_costs() -> None:
    assert least_cost_cuts([500, *[10] * 8], 5000) == [0, 1, 9]
    assert least_cost_cuts([40, *[10] * 8], 5000) == [0, 9], "240 positions of padding cost less than one more pass"
    assert least_cost_cuts([], 10) == [0]


def test_short_rows_are_many_to_a_batch_when_one_is_long() -> None:
    rows = rows_of([(4, 2), (90, 11), (4, 1), (4, 2), (4, 2)])
    padded = make_batches(rows, range(5), token_budget=100, packing=False, pad_id=0)
    assert [batch.numbers for batch in padded] == [(1,), (0, 3, 4, 2)]
    assert [tuple(batch.input_ids_BT.shape) for batch in padded] == [(1, 100), (4, 5)]
    (packed,) = make_batches(rows, range(5), token_budget=200, packing=True, pad_id=0)
    assert packed.numbers == (1, 0, 3, 4, 2)
    assert tuple(packed.input_ids_BT.shape) == (2, 100)


def test_only_the_numbered_rows_are_in_the_batches() -> None:
    rows = rows_of([(9, 3), (5, 2), (2, 2), (7, 1)])
    for packing in (True, False):
        batches = make_batches(rows, [3, 1], token_budget=64, packing=packing, pad_id=0)
        assert sorted(number for batch in batches for number in batch.numbers) == [1, 3]
        for batch in batches:
            assert_whole(batch, rows)
    assert make_batches(rows, [], token_budget=64, packing=True, pad_id=0) == []


@pytest.mark.parametrize("token_budget", [1, 20, 61, 1000])
def test_what_a_teacher_is_asked_keeps_the_order_of_the_targets_within_the_budget(token_budget: int) -> None:
    rows = [one._replace(asked=row(3 + 7 * (i % 4), 1, 50_000 + 1000 * i).prompt) for i, one in enumerate(rows_of([(5, 3)] * 9))]
    (batch,) = make_batches(rows, range(9), token_budget=10_000, packing=False, pad_id=0)
    parts = batches_as_asked(batch, rows, token_budget)
    assert [token for part in parts for token in part.target_N.tolist()] == batch.target_N.tolist()
    seen = [rows[number].as_asked() for number in batch.numbers]
    assert [place for part in parts for place in part.numbers] == list(range(9))
    for part in parts:
        assert_whole(part, seen)
        num_lines, width = part.input_ids_BT.shape
        assert num_lines == 1 or num_lines * width <= token_budget
