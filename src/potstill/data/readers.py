"""Streams the user's files row by row: JSONL, JSON, CSV, TSV and Parquet, never whole in memory.

A file that cannot be used at all raises DataError; a row that cannot be read comes as a Raw with its problem.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from ..types import Raw
from .json_rows import MAX_LINE, parse_object, read_array, read_lines
from .table_rows import read_csv, read_parquet

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_ALLOWED = ", ".join(EXTENSIONS)
_HEAD = 8192
_ZERO_SHARE = 0.05
_OTHER_FILES = {
    codecs.BOM_UTF16_LE: "UTF-16 text",
    codecs.BOM_UTF16_BE: "UTF-16 text",
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip file or a spreadsheet",
}


def check_file(path: Path) -> None:
    """Raises DataError when a file is missing, a folder, empty, of an unknown kind, or no text where it should be."""
    if path.is_dir():
        raise DataError(f"data file {path} is a folder; name the files in it ({_ALLOWED})")
    if not path.is_file():
        raise DataError(f"data file {path} does not exist; relative paths start at data.folder, or else at the job file's folder")
    if path.suffix.lower() not in EXTENSIONS:
        raise DataError(f"data file {path} ends in {path.suffix!r}, which is not read; allowed: {_ALLOWED}")
    head = _head(path)
    if not head.removeprefix(codecs.BOM_UTF8).strip() and path.stat().st_size <= _HEAD:
        raise DataError(f"data file {path} is empty; it must hold one row at least")
    if path.suffix.lower() == ".parquet":
        return
    for mark, name in _OTHER_FILES.items():
        if head.startswith(mark):
            raise DataError(f"data file {path} is {name}, not UTF-8 text; convert it first")
    if head.count(0) > len(head) * _ZERO_SHARE:  # a few zeros spoil their own rows alone
        raise DataError(f"data file {path} is not UTF-8 text: byte {head.index(0) + 1} is zero; convert it to UTF-8")


def read_file(path: Path) -> Iterator[Raw]:
    """The rows of a file, by its ending. Raises DataError when the file as a whole cannot be used."""
    check_file(path)
    num_rows = num_undecodable = 0
    for raw in _rows(path):
        num_rows += 1
        num_undecodable += raw.problem is not None and raw.problem.startswith("not UTF-8")
        yield raw
    if num_rows == 0:
        raise DataError(f"data file {path} holds no rows; it must hold one at least")
    if num_undecodable == num_rows:
        raise DataError(f"data file {path} is not UTF-8: none of its {num_rows} rows is; convert it, such as with iconv -t UTF-8")


def _rows(path: Path) -> Iterator[Raw]:
    kind = path.suffix.lower()
    if kind == ".parquet":
        return read_parquet(path)
    if kind in (".csv", ".tsv"):
        return read_csv(path)
    return read_array(path) if _is_one_value(path) else read_lines(path)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise DataError(f"data file {path} cannot be read: {error.strerror}") from None


def _is_one_value(path: Path) -> bool:
    """Whether a file is one JSON value (an array, or an object around it) and not JSON lines; its ending may be wrong."""
    head = _head(path).removeprefix(codecs.BOM_UTF8).lstrip()
    with path.open("rb") as file:
        first, rest = (file.readline(MAX_LINE).removeprefix(codecs.BOM_UTF8).decode(errors="replace") for _ in range(2))
    is_json = path.suffix.lower() == ".json"
    row, problem = parse_object(first)
    if row is not None:
        return is_json and "data" in row and not rest.strip()
    if problem is not None and problem.startswith("not an object"):  # one value in one line, or a value a line
        return not rest.strip() and (is_json or head.startswith(b"["))
    if parse_object(rest)[0] is not None and not first.rstrip().endswith("["):
        return False  # the second line is a row of its own, so the first is a bad one
    return is_json or (head.startswith(b"[") and head[1:].lstrip().startswith(b"{"))
