"""Rows out of JSON lines and JSON arrays, streamed: a bad line never harms another.

The longest line or value allowed is MAX_LINE bytes. A line that cannot be read is a Raw with its problem, in the form
"category: detail"; an array cannot be read past its first mistake, so that one is a DataError.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from ..errors import DataError
from ..types import Raw

MAX_LINE = 16 * 1024 * 1024
MAX_DEPTH = 64
CHUNK = 1024 * 1024
SHOWN = 200
TOO_DEEP = f"not JSON: nested too deeply, over {MAX_DEPTH} levels"
_SPACE = re.compile(r"[ \t\r\n]*")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse_object(text: str) -> tuple[dict[str, Any] | None, str | None]:
    """A JSON object, or the problem: strict where Python is not (NaN, infinite numbers, duplicate keys, half characters).

    >>> parse_object('{"a": 1, "a": 2}')
    (None, "not JSON: the key 'a' stands twice")
    """
    value, problem = parse_value(text)
    if problem is None and not isinstance(value, dict):
        return None, f"not an object: the line is a JSON {_json_name(value)}, a row must be {{...}}"
    return value, problem


def parse_value(text: str) -> tuple[Any, str | None]:
    """Any JSON value, as strictly; or None and the problem."""
    try:
        text.encode()
        value = _DECODER.decode(text)
        if "\\u" in text and _HALF.search(text):  # writing every row once more would be a fifth of all the work
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at character {error.pos + 1}"
    except UnicodeEncodeError:
        return None, "not text: it holds half a character (a lone surrogate)"
    except RecursionError:
        return None, TOO_DEEP
    except ValueError as error:
        return None, f"not JSON: {error}"
    if text.count("{") + text.count("[") > MAX_DEPTH and is_deep(value):
        return None, TOO_DEEP
    return value, None


def is_deep(value: Any) -> bool:
    """Whether lists and objects stand in one another more than MAX_DEPTH deep: Python itself gives up near 1,000.

    >>> is_deep([[]]), is_deep(json.loads("[" * 70 + "]" * 70))
    (False, True)
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        lists = [inner for inner in level if isinstance(inner, list | dict)]
        level = [part for inner in lists for part in (inner.values() if isinstance(inner, dict) else inner)]
        if not lists:
            return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique_keys)


def _json_name(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names[type(value)]


def read_lines(path: Path) -> Iterator[Raw]:
    """JSON lines; blank ones do not count."""
    with path.open("rb") as file:
        for number, line in _lines(file):
            body = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if body.strip():
                yield _line(number, body)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one that is longer than MAX_LINE only the first MAX_LINE + 1 bytes are kept."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        part = line
        while not part.endswith(b"\n") and (part := file.readline(CHUNK)):
            pass
        yield number, line


def _line(number: int, line: bytes) -> Raw:
    shown = line[: 4 * SHOWN].decode(errors="replace").strip()[:SHOWN]
    if len(line) > MAX_LINE:
        return Raw(number, None, f"too long: a line may have {MAX_LINE:,} bytes", shown)
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return Raw(number, None, f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1} of the line", shown)
    row, problem = parse_object(text)
    if problem is not None and problem.startswith("not JSON") and not line.endswith(b"\n"):
        problem = f"truncated: the last line ends in the middle ({problem.removeprefix('not JSON: ')})"
    return Raw(number, row, problem, shown)


class _Text:
    """The text of a JSON file as a window that moves forward; knows the line it stands at."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file = path, file
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.window, self.at, self.line, self.ended = "", 0, 1, False

    def more(self) -> bool:
        """Reads on, as much again as there is, and drops what was taken; False at the file's end."""
        if self.ended:
            return False
        self.window, self.at = self.window[self.at :], 0
        data = self.file.read(max(CHUNK, len(self.window)))
        self.ended = not data
        try:
            self.window += self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            self.fail(f"it is not UTF-8 (byte 0x{error.object[error.start]:02x}); convert it")
        return True

    def take(self, end: int) -> None:
        self.line += self.window.count("\n", self.at, end)
        self.at = end

    def peek(self) -> str:
        """The next letter that is not white space; empty at the end."""
        while True:
            space = _SPACE.match(self.window, self.at)
            assert space is not None
            self.take(space.end())
            if self.at < len(self.window) or not self.more():
                return self.window[self.at : self.at + 1]

    def value(self) -> tuple[int, str]:
        """Takes the text of the next JSON value, with its line."""
        self.peek()
        line = self.line
        while True:
            try:
                _, end = _LENIENT.raw_decode(self.window, self.at)
            except json.JSONDecodeError as error:
                if len(self.window) - self.at > MAX_LINE or not self.more():
                    cut = error.pos >= len(self.window.rstrip()) or error.msg.startswith("Unterminated")
                    self.take(min(error.pos, len(self.window)))
                    self.fail(f"{error.msg}{'; the file looks truncated' if cut else ''}")
            except RecursionError:
                self.fail("nested too deeply")
            else:
                if end < len(self.window) or not self.more():  # a number may go on behind the window's edge
                    text = self.window[self.at : end]
                    self.take(end)
                    return line, text

    def expect(self, letters: str, why: str) -> str:
        """Takes the next letter, which must be one of these."""
        found = self.peek()
        if not found:
            self.fail("it ends in the middle; the file looks truncated")
        if found not in letters:
            self.fail(why)
        self.take(self.at + 1)
        return found

    def fail(self, why: str) -> NoReturn:
        raise DataError(
            f"data file {self.path} is not a JSON array of rows, at line {self.line}: {why}; "
            "mend it, or use JSONL, where a bad line harms no other"
        )


_LENIENT = json.JSONDecoder(parse_int=len, parse_float=len)  # finds where a value ends; `parse_object` reads it
_NO_ARRAY = 'it must hold an array of rows, or an object with one under "data"'


def read_array(path: Path) -> Iterator[Raw]:
    """The elements of a top-level array, or of the array under "data", decoded one after another."""
    with path.open("rb") as file:
        text = _Text(path, file)
        is_bare = text.expect("[{", _NO_ARRAY) == "["
        if not is_bare:
            _find_data(text)
            text.expect("[", _NO_ARRAY)
        after = text.expect("]", "") if text.peek() == "]" else ","
        while after == ",":
            line, value = text.value()
            row, problem = parse_object(value)
            yield Raw(line, row, problem, value[:SHOWN])
            after = text.expect(",]", "a comma is missing between two rows")
        if is_bare and text.peek():
            text.fail("the array ends here, and more follows")


def _find_data(text: _Text) -> None:
    """Moves to the value of the key "data" of the object whose first letter was just taken."""
    while text.peek() == '"':
        _, key = text.value()
        text.expect(":", "a colon is missing after a key")
        if json.loads(key) == "data":
            return
        text.value()
        text.expect(",", _NO_ARRAY)
    text.fail(_NO_ARRAY)
