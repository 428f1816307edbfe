"""100,000 broken lines: each ends as a row or as a rejection with its number and reason, and nothing but our error is raised."""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from potstill.data.intake import Source, take_in
from potstill.data.readers import read_file
from potstill.data.rows import ColumnNames, read_row
from potstill.data.splits import SplitWishes, make_splits
from potstill.errors import DataError
from potstill.runfolder import read_rows
from potstill.types import SPLITS, Example, Raw

NUM_LINES = 100_000
WISHES = SplitWishes(frozenset(), 0.1, 0.1, None, {})


def chat(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


GOOD: list[dict[str, Any]] = [
    {"messages": chat(("system", "Du bist nett."), ("user", "Wie geht's, NR? 东京 🙂"), ("assistant", "Gut."))},
    {"messages": chat(("user", "a"), ("assistant", "b"), ("user", "NR"))},
    {"messages": chat(("user", [{"type": "text", "text": "part NR"}]))},
    {"prompt": "What is 2+NR?", "completion": 4, "id": 7, "meta": {"topic": "math", "n": [1, 2.5, None, True]}},
    {"question": "NR", "answer": "a", "system": "s"},
    {"prompt": chat(("user", "x NR")), "completion": chat(("assistant", "y"))},
    {"messages": json.dumps(chat(("user", "NR in a cell"))), "meta": '{"id": "k"}'},
]
ODD: list[Any] = [None, True, 0, -1, 1.5, 1e308, 10**30, "", " ", "\0", [], {}, [[]], [None], "[{", "{", "x" * 2000]
ODD += [{"role": "user"}, '[{"role": "user"}]', '{"a":' * 500 + "1" + "}" * 500]
RAW = [b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"9" * 4300, b"01", b"'a'", b"undefined", b'"\\ud800"', b'"\\udc00\\ud800"']
RAW += [b"[" * 200 + b"]" * 200, b'{"a":' * 70 + b"1" + b"}" * 70, b'{"a":' * 60 + b"1" + b"}" * 60, b"[" * 3000, b'"\\u0000"']
RAW += [b'"\0"', b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3", b'{"role":"user","role":"system"}', b"/*c*/", b"\x85"]
PLACE = b'"here"'


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a row."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*way, key)
        yield from places(value[key], (*way, key))


def replaced(value: Any, way: tuple[Any, ...], by: Any) -> Any:
    if not way:
        return by
    copy = value.copy()
    copy[way[0]] = replaced(value[way[0]], way[1:], by)
    return copy


WAYS = [list(places(row)) for row in GOOD]


def wrong_types(chance: random.Random) -> bytes:
    number = chance.randrange(len(GOOD))
    row = replaced(GOOD[number], chance.choice(WAYS[number]), chance.choice(ODD))
    return json.dumps(row, ensure_ascii=chance.random() < 0.5).encode()


def wrong_json(chance: random.Random) -> bytes:
    number = chance.randrange(len(GOOD))
    return json.dumps(replaced(GOOD[number], chance.choice(WAYS[number]), "here")).encode().replace(PLACE, chance.choice(RAW), 1)


def good(chance: random.Random) -> bytes:
    return json.dumps(chance.choice(GOOD), ensure_ascii=chance.random() < 0.5).encode()


def cut(chance: random.Random) -> bytes:
    line = good(chance)
    return line[: chance.randrange(1, len(line))]


def flipped(chance: random.Random) -> bytes:
    line = bytearray(good(chance))
    for _ in range(chance.randint(1, 4)):
        line[chance.randrange(len(line))] = chance.randrange(256)
    return bytes(line)


def shuffled(chance: random.Random) -> bytes:
    line = good(chance)
    start, end = sorted(chance.randrange(len(line)) for _ in range(2))
    return chance.choice([line[:start] + line[end:], line[:end] + line[start:], line[:start] + chance.choice(RAW) + line[start:]])


def noise(chance: random.Random) -> bytes:
    return chance.choice([*RAW, b"", b" \t", b"[]", b"7", b"null", b'"text"', chance.randbytes(30)])


WAYS_TO_BREAK: list[Callable[[random.Random], bytes]] = [wrong_types, wrong_json, cut, flipped, shuffled, noise, good]


def broken(chance: random.Random, number: int) -> bytes:
    line = chance.choice(WAYS_TO_BREAK)(chance) + chance.choice([b"", b"", b"\r", b" "])
    return line.replace(b"NR", b"%d" % number)


def test_every_one_of_100_000_broken_lines_is_a_row_or_a_rejection_with_its_number_and_reason(tmp_path: Path) -> None:
    chance = random.Random(20261124)
    content = b"\n".join(broken(chance, number) for number in range(NUM_LINES))
    content += b'\n{"prompt": "' + b"x" * 17 * 1024 * 1024 + b'"}\n'
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    numbers = {number for number, line in enumerate(content.split(b"\n"), 1) if line.strip()}
    (count,) = take_in([Source("a.jsonl", path, "train")], None, tmp_path / "taken", tmp_path / "rejected.jsonl")

    assert count.read == len(numbers) == count.kept + count.duplicates + count.rejected.total()
    assert count.kept > 5_000
    assert count.rejected.total() > 50_000
    assert set(count.rejected) == {
        "not JSON",
        "not UTF-8",
        "not text",
        "not an object",
        "too long",
        "missing keys",
        "wrong role",
    } | {
        "wrong order",
        "empty message",
        "empty answer",
    }
    rejected = list(read_rows(tmp_path / "rejected.jsonl"))
    assert Counter(row["reason"].partition(":")[0] for row in rejected) == count.rejected
    counts = make_splits(tmp_path / "taken", tmp_path / "data", WISHES)
    kept = [Example.from_dict(row) for split in SPLITS for row in read_rows(tmp_path / "data" / f"{split}.jsonl")]
    assert len(kept) == counts.rows.total()
    assert count.kept == counts.rows.total() + counts.bare_duplicates + counts.leakage.total() + counts.left_out.total()
    assert all(row.messages[-1].role == "user" and row.messages[-1].content.strip() and row.id for row in kept)
    named = [int(source.rpartition(":")[2]) for source in [row["source"] for row in rejected] + [row.source for row in kept]]
    assert len(named) == len(set(named))
    assert set(named) <= numbers


def as_csv(chance: random.Random, lines: list[bytes]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=chance.choice(",;\t"))
    writer.writerow(["prompt", "completion", "meta"])
    for line in lines:
        writer.writerow([line.decode(errors="replace")[:300], "a", chance.choice(['{"a": 1}', "[[", ""])])
    content = bytearray(file.getvalue().encode())
    for _ in range(chance.randint(0, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_small_broken_files_are_read_or_refused_as_a_whole(tmp_path: Path, name: str) -> None:
    chance = random.Random(name)
    ended = Counter[str]()
    path = tmp_path / name
    for number in range(700):
        lines = [broken(chance, number) for _ in range(chance.randint(1, 6))]
        shapes = [b"\n".join(lines), b"[" + b",\n".join(lines) + b"]", b'{"data": [' + b",".join(lines), as_csv(chance, lines)]
        path.write_bytes(shapes[3] if name.endswith("sv") and chance.random() < 0.8 else chance.choice(shapes))
        columns = ColumnNames("prompt", None, None, "completion") if chance.random() < 0.2 else None
        try:
            ended.update(fate_of(raw, columns) for raw in read_file(path))
        except DataError as error:
            ended["refused" if name in str(error) else "refused without its name"] += 1
    assert set(ended) == {"refused", "kept", "rejected"}
    assert min(ended["refused"], ended["kept"], ended["rejected"]) > 20


def fate_of(raw: Raw, columns: ColumnNames | None) -> str:
    """Whether a row is kept or rejected; either way it can be written down."""
    assert (raw.row is None) == (raw.problem is not None)
    f"{raw.text} {raw.problem}".encode()
    if raw.row is None:
        return "rejected"
    try:
        example = read_row(raw.row, f"file:{raw.line}", columns)
    except DataError as error:
        str(error).encode()
        return "rejected"
    written = json.dumps(example.as_dict(), ensure_ascii=False, allow_nan=False).encode()
    assert Example.from_dict(json.loads(written)) == example
    return "kept"
