from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from potstill.errors import PotstillError
from potstill.types import Reply
from potstill.wire.batch_ledger import Ledger, Row

SERVICE = "https://api.example.com/v1/batches"


def test_a_row_is_claimed_by_one_batch_whoever_opens_the_file(tmp_path: Path) -> None:
    with Ledger(tmp_path) as one, Ledger(tmp_path) as other:
        assert one.intend(SERVICE, "first", None, ["a", "b"]) == ["a", "b"]
        assert other.intend(SERVICE, "second", "batch_0", ["b", "c"]) == ["c"]
        assert {name: row.token for name, row in one.rows("abcd").items()} == {
            "a": "first",
            "b": "first",
            "c": "second",
            "d": None,
        }
        assert other.intend(SERVICE, "third", None, ["a"]) == []
        assert [(batch.size, batch.newest) for batch in one.open_batches(SERVICE).values()] == [(2, None), (1, "batch_0")]
        assert one.open_batches("https://other.example.com") == {}


def test_the_first_result_of_a_row_stays_and_a_strangers_is_let_go(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.intend(SERVICE, "t", None, ["a", "b"])
        ledger.accepted("t", "batch_1")
        ledger.keep("t", [("a", "one"), ("a", "two"), ("stranger", "three")])
        ledger.end("t")
        assert ledger.rows(["a", "b", "stranger"]) == {
            "a": Row("t", "one", 1),
            "b": Row(None, None, 1),
            "stranger": Row(),
        }
        assert ledger.open_batches(SERVICE) == {}
        assert ledger.known_ids(SERVICE) == {"batch_1"}
        assert ledger.intend(SERVICE, "u", None, ["a", "b"]) == ["b"]  # what is answered is not sent again
        assert ledger.rows(["b"])["b"].attempts == 2


def test_what_could_not_be_used_is_free_again_and_its_cost_is_remembered(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for token, cost in (("t", 0.5), ("u", 0.25)):
            ledger.intend(SERVICE, token, None, ["a"])
            ledger.keep(token, [("a", "nothing")])
            ledger.end(token)
            ledger.free({"a": Reply("", "stop", 10, 5, cost)})
        assert ledger.rows(["a"])["a"] == Row(None, None, 2, 0.75, 20, 10)
        ledger.free({"a": Reply("", "stop")})  # an unknown price stays unknown
        assert ledger.rows(["a"])["a"].cost_usd is None
        ledger.forget(["a"])
        assert ledger.rows(["a"])["a"] == Row()


def test_a_batch_that_was_never_sent_counts_for_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.intend(SERVICE, "t", None, ["a"])
        ledger.never_sent("t")
        assert ledger.rows(["a"])["a"] == Row()
        assert ledger.open_batches(SERVICE) == {}


def test_old_answers_are_let_go_and_open_batches_are_not(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for token, name in (("old", "a"), ("new", "b"), ("open", "c")):
            ledger.intend(SERVICE, token, None, [name])
            ledger.keep(token, [(name, "answer")] if token != "open" else [])
        ledger.end("old")
        ledger.end("new")
    record = sqlite3.connect(tmp_path / "batches.sqlite")
    with record:
        record.execute("UPDATE batches SET made_at = '2020-01-01' WHERE token IN ('old', 'open')")
    record.close()
    with Ledger(tmp_path) as ledger:
        assert {name: row.token for name, row in ledger.rows("abc").items()} == {"a": None, "b": "new", "c": "open"}


@pytest.mark.parametrize("text", ["no database at all, and longer than a page's head" * 4, None])
def test_a_file_that_cannot_be_used_is_told_in_one_sentence(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "batches.sqlite").write_text(text)
    else:
        newer = sqlite3.connect(tmp_path / "batches.sqlite")
        newer.execute("PRAGMA user_version=99")
        newer.close()
    with pytest.raises(PotstillError, match="state_folder" if text else "upgrade potstill"):
        Ledger(tmp_path)
