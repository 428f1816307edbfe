"""Rows out of CSV, TSV and Parquet, streamed. A CSV cell that is empty is no value; a Parquet null is none either."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from .errors import DataError
from .types import Raw

MAX_CELL = 16 * 1024 * 1024
BATCH_ROWS = 512
SHOWN = 200


def read_csv(path: Path) -> Iterator[Raw]:
    """CSV with a header row; cells may span lines, and a row's number is the line it starts at."""
    # Bytes that are not UTF-8 come through as surrogates, so that they spoil their own row alone.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = _reader(path, file)
        header = _header(path, reader)
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                cut = "unexpected end" in str(error)
                yield Raw(start, None, "truncated: the file ends inside quotes" if cut else f"not CSV: {error}", "")
                continue
            if cells:
                yield _csv_row(start, header, cells)


def _reader(path: Path, file: IO[str]) -> Any:
    """A csv reader with the delimiter that the header uses: a tab, a comma, or Excel's semicolon."""
    csv.field_size_limit(MAX_CELL)
    first = file.readline(1024 * 1024)
    file.seek(0)
    delimiter = "\t" if path.suffix.lower() == ".tsv" or ("\t" in first and "," not in first) else ","
    if delimiter not in first and ";" in first:
        delimiter = ";"
    return csv.reader(file, delimiter=delimiter, strict=True)


def _header(path: Path, reader: Any) -> list[str]:
    try:
        header = [name.strip() for name in next(reader)]
    except (csv.Error, StopIteration):
        raise DataError(f"data file {path} has no readable header row; the first line must name the columns") from None
    if any(_foreign(name) for name in header):
        raise DataError(f"data file {path} is not UTF-8 in its header row; convert it, such as with iconv -t UTF-8")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"data file {path} names the column {twice[0]!r} twice; rename one")
    return header


def _csv_row(line: int, header: list[str], cells: list[str]) -> Raw:
    shown = ",".join(cells)[:SHOWN].encode(errors="replace").decode()
    for name, cell in zip(header, cells, strict=False):
        if _foreign(cell):
            first = next(letter for letter in cell if "\udc80" <= letter <= "\udcff")
            where = len(cell[: cell.index(first)].encode()) + 1
            return Raw(line, None, f"not UTF-8: byte 0x{ord(first) - 0xDC00:02x} at position {where} of column {name!r}", shown)
    if len(cells) != len(header):
        return Raw(line, None, f"wrong columns: {len(cells)} cells where the header has {len(header)}", shown)
    return Raw(line, {name: cell or None for name, cell in zip(header, cells, strict=True)}, None, shown)


def _foreign(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def read_parquet(path: Path) -> Iterator[Raw]:
    """Parquet, a few rows at a time; a row's number is its place in the file."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    plain = {name: _plain(value) for name, value in row.items()}
                    yield Raw(number, plain, None, json.dumps(plain, ensure_ascii=False)[:SHOWN])
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"data file {path} is not readable Parquet: {' '.join(str(error).split())[:200]}") from None


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
    return str(value) if isinstance(value, decimal.Decimal | datetime.timedelta) else value
