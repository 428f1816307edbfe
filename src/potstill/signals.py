"""Teacher signals on disk: top-k log-probabilities, per example, found by content and checked when read.

    signals/<identity>/index.jsonl   {"row", "start", "num_tokens", "crc"} a line, appended after its data is on the disk
    signals/<identity>/words.bin     [tokens, k] uint16 or int32
    signals/<identity>/logp.bin      [tokens, k] float32

`identity` hashes everything that decides the numbers: teacher weights, precision, temperature, k. Rows are named by
their token ids, so they can be shuffled and packed at will and used by later jobs.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .runfolder import fingerprint, read_rows, write_json


class TopK(NamedTuple):
    """The K likeliest words of each token of one row, with their log-probabilities."""

    words_NK: npt.NDArray[Any]
    logp_NK: npt.NDArray[np.float32]


class _Place(NamedTuple):
    start: int
    num_tokens: int
    crc: int


class SignalStore:
    """The signals of one teacher under one setting. Killed at any moment, it keeps every row that its index names."""

    def __init__(self, folder: Path, identity: dict[str, Any], *, top_k: int, num_words: int) -> None:
        self.top_k = top_k
        self.folder = folder / fingerprint(identity, top_k, num_words)[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.word_type: Any = np.uint16 if num_words <= 2**16 else np.int32
        write_json(self.folder / "identity.json", {**identity, "top_k": top_k, "num_words": num_words})
        _drop_torn_line(self.folder / "index.jsonl")
        self._places = {
            line["row"]: _Place(line["start"], line["num_tokens"], line["crc"]) for line in read_rows(self.folder / "index.jsonl")
        }
        self._words: npt.NDArray[Any] | None = None
        self._logp: npt.NDArray[Any] | None = None

    def __contains__(self, row: str) -> bool:
        return row in self._places

    @property
    def num_tokens(self) -> int:
        return max((place.start + place.num_tokens for place in self._places.values()), default=0)

    def add(self, signals: Iterable[tuple[str, TopK]]) -> None:
        """Appends rows: data first, synced, then the index that names it."""
        start = self.num_tokens
        lines = []
        with self._open("words.bin", self.word_type) as words, self._open("logp.bin", np.float32) as logp:
            for row, signal in signals:
                word_bytes = signal.words_NK.astype(self.word_type).tobytes()
                logp_bytes = signal.logp_NK.astype(np.float32).tobytes()
                words.write(word_bytes)
                logp.write(logp_bytes)
                crc = zlib.crc32(logp_bytes, zlib.crc32(word_bytes))
                lines.append({"row": row, "start": start, "num_tokens": len(signal.logp_NK), "crc": crc})
                start += len(signal.logp_NK)
            for file in (words, logp):
                file.flush()
                os.fsync(file.fileno())
        self._append_index(lines)
        self._words = self._logp = None

    def read(self, row: str) -> TopK:
        """One row's signals; raises ModelError when the bytes are not those that were written."""
        place = self._places[row]
        if self._words is None or self._logp is None:
            self._words = np.memmap(self.folder / "words.bin", dtype=self.word_type, mode="r").reshape(-1, self.top_k)
            self._logp = np.memmap(self.folder / "logp.bin", dtype=np.float32, mode="r").reshape(-1, self.top_k)
        rows = slice(place.start, place.start + place.num_tokens)
        words, logp = self._words[rows], self._logp[rows]
        if zlib.crc32(logp.tobytes(), zlib.crc32(words.tobytes())) != place.crc:
            raise ModelError(f"the signals in {self.folder} are damaged; delete that folder and run again")
        return TopK(words, logp)

    def _open(self, name: str, dtype: Any) -> Any:
        """The file, cut to what the index names: a killed process may have left unnamed bytes."""
        path = self.folder / name
        path.touch()
        file = path.open("r+b")
        file.truncate(self.num_tokens * self.top_k * np.dtype(dtype).itemsize)
        file.seek(0, os.SEEK_END)
        return file

    def _append_index(self, lines: list[dict[str, Any]]) -> None:
        with (self.folder / "index.jsonl").open("ab") as file:
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        for line in lines:
            self._places[line["row"]] = _Place(line["start"], line["num_tokens"], line["crc"])


def _drop_torn_line(path: Path) -> None:
    """Cuts a last line that a killed process left half written."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        tail_start = max(0, end - 4096)
        file.seek(tail_start)
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.truncate(tail_start + tail.rfind(b"\n") + 1)
