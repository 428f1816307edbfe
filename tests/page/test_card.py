from __future__ import annotations

from potstill.page.card import card_tables


def test_single_values_come_first_and_costs_stand_elsewhere() -> None:
    tables = card_tables({"read": 12345, "valid_share": 0.973, "cost_usd": None, "rejected_by_reason": {"empty answer": 3}})
    assert tables[0].rows == [["rows read", "12,345"], ["usable share", "97.3%"]]
    assert (tables[1].title, tables[1].rows) == ("rejected, by reason", [["empty answer", "3"]])


def test_parts_with_the_same_keys_stand_side_by_side() -> None:
    splits = {"train": {"rows": 10, "gold": 4}, "test": {"rows": 5, "gold": 5}}
    table = card_tables({"splits": splits})[0]
    assert table.columns == ["", "rows", "gold"]
    assert table.rows == [["train", "10", "4"], ["test", "5", "5"]]


def test_files_are_rows_with_their_own_counts() -> None:
    table = card_tables({"files": [{"file": "a.jsonl", "read": 5, "rejected": {"not JSON": 1}}, {"file": "b.csv", "read": 2}]})[0]
    assert table.columns == ["", "read", "rejected"]
    assert table.rows == [["a.jsonl", "5", "1"], ["b.csv", "2", "unknown"]]


def test_a_part_of_zeros_is_one_zero() -> None:
    assert card_tables({"left_out": {"train": 0, "test": 0}})[0].rows == [["left out by a limit of the job", "0"]]


def test_a_card_within_a_card_keeps_its_name() -> None:
    nothing = {"value": None, "low": None, "high": None, "n": 0, "why": "no row has a value"}
    inner = {"input": 4, "reasons": {"length": 1}, "accepted_from": {"teacher": 3}, "teacher_accuracy_on_gold": nothing}
    tables = card_tables({"validation": inner})
    assert tables[0].title == "validation"
    assert tables[0].rows == [["rows asked", "4"], ["teacher's accuracy on gold", "no row has a value"]]
    assert [table.title for table in tables[1:]] == ["validation: rejected, by reason", "validation: accepted from"]


def test_a_score_is_told_with_its_interval_and_nothing_is_lost_when_empty() -> None:
    score = {"value": 0.8, "low": 0.75, "high": 0.85, "n": 100, "why": None}
    assert card_tables({"teacher_accuracy_on_gold": score})[0].rows == [["teacher's accuracy on gold", "80.0% [75.0, 85.0]"]]
    assert card_tables({}) == []
    assert card_tables({"reasons": {}}) == []
