"""The table of teachers: every count, sums, and what is unknown stays unknown."""

from __future__ import annotations

from typing import Any

from potstill.page.contributions import contribution_tables

CHEAP = {"asked": 1200, "accepted": 1000, "rejected": 200, "chosen": 300, "prompt_tokens": 60_000, "completion_tokens": 5000}
DEAR = {**CHEAP, "accepted": 1150, "rejected": 50, "chosen": 900, "cost_usd": 12.5}


def test_each_teacher_is_a_row_and_the_last_row_is_their_sum() -> None:
    (table,) = contribution_tables({"cheap": {**CHEAP, "cost_usd": 0.03}, "dear": DEAR})
    assert table.title == "what each teacher contributed and cost"
    assert table.columns == [
        "", "answers asked", "accepted", "rejected", "chosen to teach", "share of the chosen", "tokens in", "tokens out", "cost",
        "cost of a chosen one",
    ]  # fmt: skip
    assert table.rows == [
        ["cheap", "1,200", "1,000", "200", "300", "25.0%", "60,000", "5,000", "$0.03", "$0.0001"],
        ["dear", "1,200", "1,150", "50", "900", "75.0%", "60,000", "5,000", "$12.50", "$0.01"],
        ["together", "2,400", "2,150", "250", "1,200", "100%", "120,000", "10,000", "$12.53", "$0.01"],
    ]


def test_an_unknown_cost_makes_the_sum_unknown_and_is_never_zero() -> None:
    (table,) = contribution_tables({"local": {"chosen": 2, "cost_usd": 0.0}, "far": {"chosen": 0, "cost_usd": None}, "new": {}})
    assert table.rows == [
        ["local", "2", "unknown", "$0.00", "$0.00"],
        ["far", "0", "unknown", "unknown", "–"],
        ["new", "unknown", "unknown", "unknown", "unknown"],
        ["together", "unknown", "unknown", "unknown", "unknown"],
    ]


def test_what_nobody_knows_is_left_out_and_a_teacher_alone_needs_no_table() -> None:
    (table,) = contribution_tables({"a": {"asked": 3, "cost_usd": None}, "b": {"asked": 4}})
    assert (table.columns, table.rows[-1]) == (["", "answers asked"], ["together", "7"])
    nobody: dict[str, Any] = {}
    assert contribution_tables({"a": CHEAP}) == contribution_tables(nobody) == []


def test_where_nothing_was_chosen_no_share_is_made_up() -> None:
    (table,) = contribution_tables({"a": {"chosen": 0}, "b": {"chosen": 0}})
    assert [row[2] for row in table.rows] == ["–", "–", "–"]
