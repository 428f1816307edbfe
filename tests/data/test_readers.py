"""Reading the user's files: good rows go on, bad ones are named with line and reason, hopeless files in one sentence."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potstill.data import json_rows, table_rows
from potstill.data.readers import read_file
from potstill.errors import DataError
from potstill.types import Raw

ROW = '{"prompt": "a", "completion": "b"}'
FEW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path) -> list[Raw]:
    return list(read_file(path))


def test_json_lines_are_numbered_and_blank_lines_do_not_count_as_rows(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", f"{ROW}\n\n  \n{ROW}\r\n{ROW}"))
    assert [row.line for row in rows] == [1, 4, 5]
    assert all(row.problem is None and row.row == json.loads(ROW) for row in rows)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert read(write(tmp_path / "a.jsonl", mark + ROW.encode()))[0].problem is None
    assert read(write(tmp_path / "a.json", mark + f"[{ROW}]".encode()))[0].row == json.loads(ROW)
    assert read(write(tmp_path / "a.csv", mark + b"prompt,completion\na,b\n"))[0].row == json.loads(ROW)


def test_a_bad_line_harms_no_other(tmp_path: Path) -> None:
    lines = [
        ROW.encode(),
        b'{"prompt": "caf\xe9"}',
        b"[1]",
        b'{"a": 1',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        ROW.encode(),
    ]
    rows = read(write(tmp_path / "a.jsonl", b"\n".join(lines) + b"\n"))
    problems = [row.problem for row in rows]
    assert problems[0] is None
    assert problems[7] is None
    assert problems[1] == "not UTF-8: byte 0xe9 at position 16 of the line"
    assert [str(problem).partition(":")[0] for problem in problems[2:7]] == [
        "not an object",
        "not JSON",
        "not JSON",
        "not JSON",
        "not text",
    ]


def test_a_truncated_last_line_is_called_so(tmp_path: Path) -> None:
    good, cut = read(write(tmp_path / "a.jsonl", f'{ROW}\n{{"prompt": "a", "comp'))
    assert good.problem is None
    assert cut.line == 2
    assert str(cut.problem).startswith("truncated: the last line ends in the middle")
    assert read(write(tmp_path / "b.jsonl", f"{ROW}\n{ROW}"))[1].problem is None


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.jsonl", '{"a": 1, "a": 2}\n{}'))[0].problem == "not JSON: the key 'a' stands twice"


def test_a_line_without_end_is_refused_and_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_LINE", 100)
    monkeypatch.setattr(json_rows, "CHUNK", 10)
    long, good = read(write(tmp_path / "a.jsonl", f'{{"a": "{"x" * 500}"}}\n{ROW}\n'))
    assert str(long.problem).startswith("too long")
    assert (good.line, good.problem) == (2, None)


@pytest.mark.parametrize("shape", ["[{}]", '{{"version": 1, "data": [{}]}}'])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_read_with_lines_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, indent: int | None
) -> None:
    monkeypatch.setattr(json_rows, "CHUNK", 7)
    wanted = [{"prompt": f"question {number}\n[]", "n": number} for number in range(20)]
    path = write(tmp_path / "a.json", shape.format(",\n".join(json.dumps(row, indent=indent) for row in wanted)))
    rows = read(path)
    assert [row.row for row in rows] == wanted
    lines = path.read_text().splitlines()
    assert all("{" in lines[row.line - 1] for row in rows)
    assert [row.line for row in rows] == sorted({row.line for row in rows})


def test_json_lines_and_arrays_are_recognised_whatever_the_ending(tmp_path: Path) -> None:
    assert len(read(write(tmp_path / "a.json", f"{ROW}\n{ROW}\n"))) == 2
    assert len(read(write(tmp_path / "b.jsonl", f"[\n{ROW},\n{ROW}\n]"))) == 2
    assert len(read(write(tmp_path / "c.json", f'{{"data": [{ROW}]}}'))) == 1


def test_a_zero_byte_or_a_broken_first_line_spoils_its_own_row_alone(tmp_path: Path) -> None:
    many = f"{ROW}\n" * 3
    for name, first in [
        ("a.jsonl", '{"prompt": "\0"}'),
        ("b.jsonl", '[{"prompt": "cut o'),
        ("c.json", '[{"a": 1'),
        ("d.json", "?"),
    ]:
        rows = read(write(tmp_path / name, f"{first}\n{many}"))
        assert [row.problem is None for row in rows] == [False, True, True, True]


def test_an_array_on_each_line_is_a_bad_row_on_each_line(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", f"[{ROW}]\n[{ROW}]\n"))
    assert [str(row.problem).partition(":")[0] for row in rows] == ["not an object"] * 2
    assert len(read(write(tmp_path / "b.jsonl", f"[{ROW}, {ROW}]\n"))) == 2
    assert len(read(write(tmp_path / "c.json", f"[\n{ROW}\n]\n"))) == 1


def test_an_array_element_that_is_no_object_harms_no_other(tmp_path: Path) -> None:
    bad = ["1", '"x"', '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}', "[" * 70 + "]" * 70]
    rows = read(write(tmp_path / "a.json", f"[{ROW}, {', '.join(bad)}, {ROW}]"))
    assert [row.problem is None for row in rows] == [True, *([False] * len(bad)), True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"[{ROW}, {ROW[:-4]}", "truncated"),
        (f"[{ROW}", "truncated"),
        (f"[{ROW} {ROW}]", "a comma is missing"),
        ('{"rows": [\n]}', 'an object with one under "data"'),
        (f"[{ROW},]", "line 1"),
        ("7", "an array of rows"),
        (f"[\n{ROW}\n]\n[{ROW}]", "more follows"),
    ],
)
def test_a_broken_array_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=r"not a JSON array of rows, at line") as caught:
        read(write(tmp_path / "a.json", text))
    assert said in str(caught.value)


def test_csv_cells_may_span_lines_and_rows_keep_their_starting_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion"], ["one\ntwo, three", 'say "hi"'], ["four", ""], ["five", "six"]])
    rows = read(path)
    assert [row.line for row in rows] == [2, 4, 5]
    assert rows[0].row == {"prompt": "one\ntwo, three", "completion": 'say "hi"'}
    assert rows[1].row == {"prompt": "four", "completion": None}


def test_bad_csv_rows_harm_no_other(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.csv", b'prompt,completion\na,b\na\ncaf\xe9,b\na,b,c\nx,y\n"open,z'))
    assert [str(row.problem).partition(":")[0] for row in rows] == [
        "None",
        "wrong columns",
        "not UTF-8",
        "wrong columns",
        "None",
        "truncated",
    ]
    assert "byte 0xe9 at position 4 of column 'prompt'" in str(rows[2].problem)


def test_quotes_that_are_not_closed_cost_their_own_line_alone(tmp_path: Path) -> None:
    many = "".join(f"{number},yes\n" for number in range(2000))
    rows = read(write(tmp_path / "a.csv", f'prompt,completion\na,b\n"open,z\n{many}"also open,\n{many}"two\nlines",b\n'))
    bad = [(row.line, str(row.problem).partition(":")[0], row.text) for row in rows if row.problem]
    assert bad == [(3, "not CSV", '"open,z'), (2004, "not CSV", '"also open,')]
    assert [row.line for row in rows] == list(range(2, 4006))
    assert rows[-1].row == {"prompt": "two\nlines", "completion": "b"}


def test_a_csv_line_without_end_is_refused_and_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_rows, "MAX_CELL", 100)
    monkeypatch.setattr(table_rows, "CHUNK", 10)
    rows = read(write(tmp_path / "a.csv", f"prompt,completion\n{'x' * 500},b\na,b\n"))
    assert [(row.line, str(row.problem).partition(":")[0]) for row in rows] == [(2, "not CSV"), (3, "None")]


@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", ";"), ("b.csv", "\t")])
def test_other_delimiters_are_recognised(tmp_path: Path, name: str, mark: str) -> None:
    assert read(write(tmp_path / name, f"prompt{mark}completion\na{mark}b\n"))[0].row == json.loads(ROW)


def test_a_csv_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names the column 'a' twice"):
        read(write(tmp_path / "a.csv", "a,a\n1,2\n"))


def test_parquet_rows_come_in_batches_with_nested_messages(tmp_path: Path) -> None:
    wanted = [{"messages": [{"role": "user", "content": f"q{n}"}], "score": None if n else float("nan")} for n in range(1100)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(wanted), tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert [row.line for row in rows] == list(range(1, 1101))
    assert rows[0].row == {"messages": [{"role": "user", "content": "q0"}], "score": None}


def test_parquet_values_that_python_cannot_hold_are_text_or_spoil_their_own_row(tmp_path: Path) -> None:
    texts = pyarrow.StringArray.from_buffers(3, *map(pyarrow.py_buffer, (struct.pack("4i", 0, 1, 2, 3), b"a\xffb")))
    columns = {"prompt": texts, "at": pyarrow.array([1, 1_234_567_891, None], pyarrow.timestamp("ns"))}
    days = pyarrow.array([10**8, 0, 0], pyarrow.date32())
    nested = pyarrow.StructArray.from_arrays([pyarrow.array([0, 0, 1], pyarrow.time64("ns"))], ["t"])
    keys = pyarrow.array([bytes(16)] * 3, pyarrow.uuid())
    table = pyarrow.table({**columns, "day": days, "nested": nested, "key": keys})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    first, second, third = read(tmp_path / "a.parquet")
    assert first.row is not None
    assert first.row["at"] == "1970-01-01 00:00:00.000000001"
    assert (first.row["nested"], first.row["key"]) == ({"t": "00:00:00"}, "00000000-0000-0000-0000-000000000000")
    assert second.problem == "not UTF-8: byte 0xff at position 1 of column 'prompt'"
    assert str(third.problem).startswith("not readable: column 'nested' holds a struct<t: time64[ns]>")


def test_a_parquet_file_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["prompt", "prompt"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="names the column 'prompt' twice"):
        read(tmp_path / "a.parquet")


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not readable Parquet"):
        read(write(tmp_path / "a.parquet", b"PAR1 and then nothing of use PAR1"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "is empty"),
        ("b.jsonl", b" \n\n ", "is empty"),
        ("c.jsonl", b"\n" * 9000, "holds no rows"),
        ("d.json", b"[]", "holds no rows"),
        ("e.csv", b"prompt,completion\n", "holds no rows"),
        ("f.txt", b"x", "'.txt', which is not read; allowed: .jsonl"),
        ("g.jsonl", "{}".encode("utf-16"), "UTF-16"),
        ("h.jsonl", b"\x1f\x8b\x08\x00abc", "gzip"),
        ("i.jsonl", b"{}\0", "byte 3 is zero"),
        ("j.jsonl", b"caf\xe9\ncaf\xe9\n", "none of its 2 rows is"),
        ("k.csv", b"caf\xe9,b\n1,2\n", "not UTF-8 in its header row"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / name, content))
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path / "folder.jsonl")


@FUZZ
@given(st.lists(st.one_of(st.binary(max_size=60), st.just(ROW.encode()), st.text(max_size=30).map(str.encode)), max_size=8))
def test_broken_lines_never_raise_anything_but_our_errors(tmp_path: Path, lines: list[bytes]) -> None:
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        try:
            for row in read(write(tmp_path / name, b"\n".join(lines))):
                assert (row.row is None) == (row.problem is not None)
                row.text.encode()
        except DataError:
            pass


@FUZZ
@given(st.integers(0, 60), st.integers(1, 30))
def test_a_file_cut_anywhere_keeps_the_rows_before_the_cut(tmp_path: Path, cut: int, rows: int) -> None:
    whole = (ROW + "\n") * rows
    kept = whole[: max(len(whole) - cut, 1)]
    found = read(write(tmp_path / "a.jsonl", kept))
    assert sum(row.problem is None for row in found) >= kept.count("\n")


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_hostile_nesting_and_numbers_are_refused_rows(tmp_path: Path, deep: str) -> None:
    good, bad = read(write(tmp_path / "a.jsonl", f"{ROW}\n{deep}\n"))
    assert good.problem is None
    assert bad.problem is not None
    with pytest.raises(DataError):
        read(write(tmp_path / "a.json", f"[{deep}"))


WORD = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(WORD, VALUE, max_size=4), min_size=1, max_size=6)


@FEW
@given(ROWS, st.booleans(), st.sampled_from(["\n", "\r\n", "\n \n"]), st.sampled_from([None, 1]))
def test_whatever_json_can_say_is_read_as_it_was_written(
    tmp_path: Path, wanted: list[dict[str, Any]], is_ascii: bool, end: str, indent: int | None
) -> None:
    lines = [json.dumps(row, ensure_ascii=is_ascii) for row in wanted]
    found = read(write(tmp_path / "a.jsonl", end.join(lines)))
    assert [row.row for row in found] == wanted
    assert [row.line for row in found] == [1 + number * (2 if end == "\n \n" else 1) for number in range(len(wanted))]
    array = read(write(tmp_path / "a.json", json.dumps(wanted, ensure_ascii=is_ascii, indent=indent)))
    assert [row.row for row in array] == wanted


CELL = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=12)


@FEW
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5), st.sampled_from(",;\t"))
def test_whatever_csv_can_say_is_read_as_it_was_written(tmp_path: Path, cells: list[tuple[str, str]], mark: str) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=mark).writerows([("prompt", "completion"), *cells])
    assert [row.row for row in read(path)] == [{"prompt": one, "completion": other} for one, other in cells]
