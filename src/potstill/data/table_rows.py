"""Rows out of CSV, TSV and Parquet, streamed. A CSV cell that is empty is no value; a Parquet null is none either."""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from ..errors import DataError
from ..types import Raw

MAX_CELL = 16 * 1024 * 1024
CHUNK = 1024 * 1024
BATCH_ROWS = 512
SHOWN = 200
_UNREADABLE = (ValueError, OverflowError, pyarrow.ArrowException)


class _Lines:
    """The lines of a file for a csv reader. What a broken row swallowed is given back, all but its first line."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.waiting: deque[str] = deque()
        self.taken: list[str] = []
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else self.file.readline(MAX_CELL + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        if len(line) > MAX_CELL:
            while line and not line.endswith(("\n", "\r")):
                line = self.file.readline(CHUNK)
            raise csv.Error(f"a line may have {MAX_CELL:,} letters")
        return line

    def begin_row(self) -> int:
        """The number of the line at which the next row begins."""
        self.taken.clear()
        return self.number + 1

    def give_back(self) -> None:
        self.number -= len(self.taken[1:])
        self.waiting.extendleft(reversed(self.taken[1:]))


def read_csv(path: Path) -> Iterator[Raw]:
    """CSV with a header row; cells may span lines, and a row's number is the line it starts at.

    Where quotes are not closed, the line that opens them is a bad row, and reading goes on with the next line.
    """
    # Bytes that are not UTF-8 come through as surrogates, so that they spoil their own row alone.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = _delimiter(path, file)
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _header(path, reader)
        while True:
            start = lines.begin_row()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                shown = _shown(lines.taken[0])
                cut = "unexpected end" in str(error)
                yield Raw(start, None, "truncated: quotes are opened and not closed" if cut else f"not CSV: {error}", shown)
                lines.give_back()
                continue
            if cells:
                yield _csv_row(start, header, cells)


def _delimiter(path: Path, file: IO[str]) -> str:
    """The delimiter that the header uses: a tab, a comma, or Excel's semicolon."""
    csv.field_size_limit(MAX_CELL)
    first = file.readline(CHUNK)
    file.seek(0)
    delimiter = "\t" if path.suffix.lower() == ".tsv" or ("\t" in first and "," not in first) else ","
    return ";" if delimiter not in first and ";" in first else delimiter


def _header(path: Path, reader: Any) -> list[str]:
    try:
        header = [name.strip() for name in next(reader)]
    except (csv.Error, StopIteration):
        raise DataError(f"data file {path} has no readable header row; the first line must name the columns") from None
    if any(_foreign(name) for name in header):
        raise DataError(f"data file {path} is not UTF-8 in its header row; convert it, such as with iconv -t UTF-8")
    _refuse_twice(path, header)
    return header


def _refuse_twice(path: Path, names: list[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"data file {path} names the column {twice[0]!r} twice; rename one")


def _csv_row(line: int, header: list[str], cells: list[str]) -> Raw:
    shown = _shown(",".join(cells))
    for name, cell in zip(header, cells, strict=False):
        if _foreign(cell):
            first = next(letter for letter in cell if "\udc80" <= letter <= "\udcff")
            where = len(cell[: cell.index(first)].encode()) + 1
            return Raw(line, None, f"not UTF-8: byte 0x{ord(first) - 0xDC00:02x} at position {where} of column {name!r}", shown)
    if len(cells) != len(header):
        return Raw(line, None, f"wrong columns: {len(cells)} cells where the header has {len(header)}", shown)
    return Raw(line, {name: cell or None for name, cell in zip(header, cells, strict=True)}, None, shown)


def _shown(text: str) -> str:
    return text[:SHOWN].encode(errors="replace").decode().strip()


def _foreign(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def read_parquet(path: Path) -> Iterator[Raw]:
    """Parquet, a few rows at a time; a row's number is its place in the file."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _refuse_twice(path, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row, problem in _batch_rows(batch):
                    number += 1
                    yield Raw(number, row, problem, json.dumps(row, ensure_ascii=False)[:SHOWN] if row is not None else "")
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"data file {path} is not readable Parquet: {' '.join(str(error).split())[:200]}") from None


def _batch_rows(batch: Any) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
    """Each row, or why it cannot be read; the values are looked at one by one only where not all are readable."""
    try:
        rows = batch.to_pylist()
    except _UNREADABLE:
        yield from (_row_alone(batch, number) for number in range(batch.num_rows))
        return
    yield from (({name: _plain(value) for name, value in row.items()}, None) for row in rows)


def _row_alone(batch: Any, number: int) -> tuple[dict[str, Any] | None, str | None]:
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = _plain(_value(column[number]))
        except UnicodeDecodeError as error:
            byte, place = error.object[error.start], error.start + 1
            return None, f"not UTF-8: byte 0x{byte:02x} at position {place} of column {name!r}"
        except _UNREADABLE:
            return None, f"not readable: column {name!r} holds a {column.type} that has no form in Python"
    return row, None


def _value(scalar: Any) -> Any:
    """A value in Python's form; a time that Python cannot hold (nanoseconds, the year 10,000) as Arrow writes it."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        if not pyarrow.types.is_temporal(scalar.type):
            raise
        return scalar.cast(pyarrow.string()).as_py()


def _plain(value: Any) -> Any:
    """A Parquet value as JSON knows it; NaN is no value."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str | int | None) else str(value)
