"""Makes train, validation and test out of the rows taken in: no test row is ever trained on, and the choice is by hash.

Every choice depends on the rows' content alone, so that a rerun, on any machine, chooses the same. The rows taken in are
gone through several times, but never read as JSON where their keys are enough: those stand first in each line.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import NamedTuple

from ..runfolder import Json, write_lines
from ..types import SPLITS
from .rows import Keyed, bare_meta, digest


class Taken(NamedTuple):
    """A row that was taken in: its keys as hashes, and its line of JSON as it stands in the split."""

    prompt: bytes
    question: bytes
    has_gold: bool
    line: bytes

    def row(self) -> Json:
        found: Json = json.loads(self.line)
        return found


Rows = Callable[[], Iterator[Taken]]
Accept = Callable[[Taken], bool]

_encode = json.JSONEncoder(ensure_ascii=False).encode
_KEYS = len('{"keys": "')
_HASH = 32
_END = _KEYS + 2 * _HASH + len('1", ')


def taken_line(keyed: Keyed) -> bytes:
    """An example as a line of JSON that begins with its keys: the hashes of prompt and question, and whether it has gold."""
    prompt = digest(keyed.prompt).hex()
    question = prompt if keyed.question == keyed.prompt else digest(keyed.question).hex()
    has_gold = int(keyed.example.gold is not None)
    return f'{{"keys": "{prompt}{question}{has_gold}", {_encode(keyed.example.as_dict())[1:]}\n'.encode()


def read_taken(path: Path) -> Iterator[Taken]:
    """The rows of a file of `taken_line`s; none where there is no file."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            question = line[_KEYS + _HASH : _KEYS + 2 * _HASH]
            yield Taken(line[_KEYS : _KEYS + _HASH], question, line[_KEYS + 2 * _HASH] == ord("1"), b"{" + line[_END:])


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
    refused: int = 0
    adapt: Counter[str] = field(default_factory=Counter)


def make_splits(taken: Path, target: Path, wishes: SplitWishes) -> SplitCounts:
    """Writes `target`/{train,validation,test,adapt}.jsonl from `taken`, whose files `intake.take_in` wrote.

    A question (the prompt without its system message) of test is removed from validation and train, one of validation
    from train, and both from the rows that adapt the teacher; rows over a limit guard their questions too.
    """
    counts = SplitCounts()
    stays_in = _division(taken / "train.jsonl", wishes)
    test_questions: set[bytes] = set()
    validation_questions: set[bytes] = set()

    def rows(split: str) -> Rows:
        if split in wishes.own_files:
            return lambda: read_taken(taken / f"{split}.jsonl")
        return lambda: compress(read_taken(taken / "train.jsonl"), stays_in[split])

    def leak(row: Taken) -> str | None:
        return "test" if row.question in test_questions else "validation" if row.question in validation_questions else None

    test_questions.update(row.question for row in rows("test")())
    _write_held_out("test", rows("test"), target, wishes, counts)
    clean = _without_leaks("validation", rows("validation"), leak, counts)
    _write_held_out("validation", clean, target, wishes, counts)
    validation_questions.update(row.question for row in rows("validation")())
    _write_train(_without_leaks("train", rows("train"), leak, counts), target, wishes, counts)
    if (taken / "adapt.jsonl").is_file():
        write_lines(target / "adapt.jsonl", _adapting(taken / "adapt.jsonl", leak, counts.adapt))
    else:
        (target / "adapt.jsonl").unlink(missing_ok=True)
    return counts


def _adapting(taken: Path, leak: Callable[[Taken], str | None], counts: Counter[str]) -> Iterator[bytes]:
    """The gold rows for the teacher; a teacher that had seen the test would be no measure."""
    for row in read_taken(taken):
        fate = "without_gold" if not row.has_gold else "leakage" if leak(row) else "rows"
        counts[fate] += 1
        if fate == "rows":
            yield row.line


def _without_leaks(split: str, rows: Rows, leak: Callable[[Taken], str | None], counts: SplitCounts) -> Rows:
    """The rows whose question does not stand in a split that is kept for scoring; what is removed is counted once."""
    for row in rows():
        place = leak(row)
        if place is not None:
            counts.leakage[f"{split}_in_{place}"] += 1
    return lambda: (row for row in rows() if leak(row) is None)


def _write_held_out(split: str, rows: Rows, target: Path, wishes: SplitWishes, counts: SplitCounts) -> None:
    fits = _first_by_hash(rows, wishes.max_rows.get(split), "rows")
    write_lines(target / f"{split}.jsonl", (_counted(split, row, counts) for row in rows() if _fits(split, row, fits, counts)))


def _write_train(rows: Rows, target: Path, wishes: SplitWishes, counts: SplitCounts) -> None:
    fits = _first_by_hash(rows, wishes.max_rows.get("train"), "rows")
    keeps_gold = _first_by_hash(lambda: (row for row in rows() if row.has_gold and fits(row)), wishes.max_gold_rows, "gold")
    seen = {row.prompt for row in rows() if row.has_gold and fits(row) and keeps_gold(row)}

    def written() -> Iterator[bytes]:
        for row in rows():
            if not _fits("train", row, fits, counts):
                continue
            if row.has_gold and keeps_gold(row):
                yield _counted("train", row, counts)
                continue
            if row.prompt in seen:  # the same prompt already teaches, or is asked already
                counts.bare_duplicates += 1
                continue
            seen.add(row.prompt)
            counts.gold_withheld += row.has_gold
            yield _counted("train", row if wishes.max_gold_rows is None else _bare(row), counts)

    write_lines(target / "train.jsonl", written())


def _bare(taken: Taken) -> Taken:
    row = taken.row()
    bare = {**row, "gold": None, "meta": bare_meta(row["meta"])}
    return taken._replace(has_gold=False, line=_encode(bare).encode() + b"\n")


def _fits(split: str, row: Taken, fits: Accept, counts: SplitCounts) -> bool:
    if fits(row):
        return True
    counts.left_out[split] += 1
    return False


def _counted(split: str, row: Taken, counts: SplitCounts) -> bytes:
    counts.rows[split] += 1
    counts.gold[split] += row.has_gold
    return row.line


def _first_by_hash(rows: Rows, count: int | None, purpose: str) -> Accept:
    """Accepts `count` of the rows, those whose ids hash lowest; all where there is no limit."""
    if count is None:
        return lambda row: True
    lowest = heapq.nsmallest(count, (_rank(row, purpose) for row in rows()))
    if not lowest:
        return lambda row: False
    return lambda row: _rank(row, purpose) <= lowest[-1]


def _rank(row: Taken, purpose: str) -> bytes:
    return hashlib.sha256(f"{purpose}:{row.row()['id']}".encode()).digest()[:16]


def _place(question: bytes) -> float:
    """Where a question stands between 0 and 1, evenly."""
    return int.from_bytes(hashlib.sha256(b"split:" + question).digest()[:7]) / 2**56


def _division(train: Path, wishes: SplitWishes) -> dict[str, bytes]:
    """For each split, one byte for each row of the train files: 1 where the row goes to that split.

    Test takes the lowest questions and validation the highest. Where any train row has gold, rows without gold stay in
    train. In small files the lowest and the highest question go to test and validation even where the share would take none.
    """
    places, has_gold = array("d"), bytearray()
    needs = [split for split in ("test", "validation") if split not in wishes.own_files]
    for row in read_taken(train):
        places.append(_place(row.question) if needs else 0.0)
        has_gold.append(row.has_gold)
    any_gold = any(has_gold)
    eligible = [place for place, gold in zip(places, has_gold, strict=True) if gold or not any_gold]
    lowest, highest = min(eligible, default=1.0), max(eligible, default=0.0)
    test_below = max(wishes.test_share, lowest) if "test" in needs else -1.0
    validation_above = min(1 - wishes.validation_share, highest) if "validation" in needs else 2.0
    division = {split: bytearray(len(places)) for split in SPLITS}
    for number, (place, gold) in enumerate(zip(places, has_gold, strict=True)):
        stays = (any_gold and not gold) or test_below < place < validation_above
        division["train" if stays else "test" if place <= test_below else "validation"][number] = 1
    return {split: bytes(rows) for split, rows in division.items()}
