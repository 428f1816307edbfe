"""Makes train, validation and test out of the rows taken in: no test row is ever trained on, and the choice is by hash.

Every choice depends on the rows' content alone, so that a rerun, on any machine, chooses the same.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .rows import bare_meta
from .runfolder import Json, read_rows, write_rows

Rows = Callable[[], Iterator[Json]]
Accept = Callable[[Json], bool]


@dataclass(frozen=True, slots=True)
class SplitWishes:
    """What the job asks of the splits. A share is used where `own_files` does not name the split."""

    own_files: frozenset[str]
    validation_share: float
    test_share: float
    max_gold_rows: int | None
    max_rows: dict[str, int | None]


@dataclass(slots=True)
class SplitCounts:
    """How many rows ended where; `left_out` are those over a limit; `adapt` counts the rows for the teacher, apart."""

    rows: Counter[str] = field(default_factory=Counter)
    gold: Counter[str] = field(default_factory=Counter)
    leakage: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    gold_withheld: int = 0
    bare_duplicates: int = 0
    adapt: Counter[str] = field(default_factory=Counter)


def make_splits(taken: Path, target: Path, wishes: SplitWishes) -> SplitCounts:
    """Writes `target`/{train,validation,test,adapt}.jsonl from `taken`, whose files `intake.take_in` wrote.

    A question (the prompt without its system message) of test is removed from validation and train, one of validation
    from train, and both from the rows that adapt the teacher; rows over a limit guard their questions too.
    """
    counts = SplitCounts()
    split_of = _divider(taken / "train.jsonl", wishes)
    test_questions: set[bytes] = set()
    validation_questions: set[bytes] = set()

    def rows(split: str) -> Rows:
        if split in wishes.own_files:
            return lambda: read_rows(taken / f"{split}.jsonl")
        return lambda: (row for row in read_rows(taken / "train.jsonl") if split_of(row) == split)

    def leak(row: Json) -> str | None:
        question = bytes.fromhex(row["question_key"])
        return "test" if question in test_questions else "validation" if question in validation_questions else None

    test_questions.update(bytes.fromhex(row["question_key"]) for row in rows("test")())
    _write_held_out("test", rows("test"), target, wishes, counts)
    clean = _without_leaks("validation", rows("validation"), leak, counts)
    _write_held_out("validation", clean, target, wishes, counts)
    validation_questions.update(bytes.fromhex(row["question_key"]) for row in rows("validation")())
    _write_train(_without_leaks("train", rows("train"), leak, counts), target, wishes, counts)
    if (taken / "adapt.jsonl").is_file():
        write_rows(target / "adapt.jsonl", _adapting(taken / "adapt.jsonl", leak, counts.adapt))
    else:
        (target / "adapt.jsonl").unlink(missing_ok=True)
    return counts


def _adapting(taken: Path, leak: Callable[[Json], str | None], counts: Counter[str]) -> Iterator[Json]:
    """The gold rows for the teacher; a teacher that had seen the test would be no measure."""
    for row in read_rows(taken):
        fate = "without_gold" if row["gold"] is None else "leakage" if leak(row) else "rows"
        counts[fate] += 1
        if fate == "rows":
            yield _plain(row)


def _without_leaks(split: str, rows: Rows, leak: Callable[[Json], str | None], counts: SplitCounts) -> Rows:
    """The rows whose question does not stand in a split that is kept for scoring; what is removed is counted once."""
    for row in rows():
        place = leak(row)
        if place is not None:
            counts.leakage[f"{split}_in_{place}"] += 1
    return lambda: (row for row in rows() if leak(row) is None)


def _write_held_out(split: str, rows: Rows, target: Path, wishes: SplitWishes, counts: SplitCounts) -> None:
    fits = _first_by_hash(rows, wishes.max_rows.get(split), "rows")
    write_rows(target / f"{split}.jsonl", (_counted(split, row, counts) for row in rows() if _fits(split, row, fits, counts)))


def _write_train(rows: Rows, target: Path, wishes: SplitWishes, counts: SplitCounts) -> None:
    fits = _first_by_hash(rows, wishes.max_rows.get("train"), "rows")
    keeps_gold = _first_by_hash(
        lambda: (row for row in rows() if row["gold"] is not None and fits(row)), wishes.max_gold_rows, "gold"
    )
    taught = (row for row in rows() if row["gold"] is not None and fits(row) and keeps_gold(row))
    seen = {bytes.fromhex(row["prompt_key"]) for row in taught}

    def written() -> Iterator[Json]:
        for row in rows():
            if not _fits("train", row, fits, counts):
                continue
            if row["gold"] is not None and keeps_gold(row):
                yield _counted("train", row, counts)
                continue
            key = bytes.fromhex(row["prompt_key"])
            if key in seen:  # the same prompt already teaches, or is asked already
                counts.bare_duplicates += 1
                continue
            seen.add(key)
            counts.gold_withheld += row["gold"] is not None
            bare = row if wishes.max_gold_rows is None else {**row, "gold": None, "meta": bare_meta(row["meta"])}
            yield _counted("train", bare, counts)

    write_rows(target / "train.jsonl", written())


def _fits(split: str, row: Json, fits: Accept, counts: SplitCounts) -> bool:
    if fits(row):
        return True
    counts.left_out[split] += 1
    return False


def _counted(split: str, row: Json, counts: SplitCounts) -> Json:
    counts.rows[split] += 1
    counts.gold[split] += row["gold"] is not None
    return _plain(row)


def _plain(row: Json) -> Json:
    return {key: value for key, value in row.items() if key not in ("prompt_key", "question_key")}


def _first_by_hash(rows: Rows, count: int | None, purpose: str) -> Accept:
    """Accepts `count` of the rows, those whose ids hash lowest; all where there is no limit."""
    if count is None:
        return lambda row: True
    lowest = heapq.nsmallest(count, (_rank(row, purpose) for row in rows()))
    if not lowest:
        return lambda row: False
    return lambda row: _rank(row, purpose) <= lowest[-1]


def _rank(row: Json, purpose: str) -> bytes:
    return hashlib.sha256(f"{purpose}:{row['id']}".encode()).digest()[:16]


def _place(row: Json) -> float:
    """Where a question stands between 0 and 1, evenly."""
    return int.from_bytes(hashlib.sha256(f"split:{row['question_key']}".encode()).digest()[:7]) / 2**56


def _divider(train: Path, wishes: SplitWishes) -> Callable[[Json], str]:
    """Which split a row of the train files goes to: test takes the lowest questions and validation the highest.

    Where any train row has gold, rows without gold stay in train. In small files the lowest and the highest question go
    to test and validation even where the share would take none.
    """
    needs_test, needs_validation = ("test" not in wishes.own_files), ("validation" not in wishes.own_files)
    if not (needs_test or needs_validation):
        return lambda row: "train"
    any_gold = any(row["gold"] is not None for row in read_rows(train))

    def is_eligible(row: Json) -> bool:
        return not any_gold or row["gold"] is not None

    lowest, highest = 1.0, 0.0
    for row in read_rows(train):
        if is_eligible(row):
            lowest, highest = min(lowest, _place(row)), max(highest, _place(row))
    test_below = max(wishes.test_share, lowest) if needs_test else -1.0
    validation_above = min(1 - wishes.validation_share, highest) if needs_validation else 2.0

    def split_of(row: Json) -> str:
        place = _place(row)
        if not is_eligible(row) or test_below < place < validation_above:
            return "train"
        return "test" if place <= test_below else "validation"

    return split_of
