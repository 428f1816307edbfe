"""Teacher signals on disk: for each token of a row some words with numbers, found by content and checked when read.

    <folder>/<identity>/identity.json   what decided the numbers, for people
    <folder>/<identity>/words.code      the code of the words (codec.py), learned from the first rows and never changed
    <folder>/<identity>/rows.index      32 bytes a row: its name, tokens, bytes, checksums; written after its data is synced
    <folder>/<identity>/rows.data       the rows' bytes, in the order of the index

`identity` hashes everything that decides the numbers: teacher weights, precision, temperature, what is kept of a
distribution. Rows are named by their token ids, so they can be shuffled and packed at will and used by later jobs. Several
processes may use a folder at once: what one of them appends, the others see.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .codec import WordCode, WordSets, decode, encode, learn_code
from .errors import ModelError
from .runfolder import fingerprint, write_json

FORMAT = 1
RECORD = np.dtype([("row", "V16"), ("num_tokens", "<u4"), ("num_bytes", "<u4"), ("crc", "<u4"), ("own_crc", "<u4")])
"""`crc` is that of the data; `own_crc` that of the record before it."""


class _Place(NamedTuple):
    start: int
    num_bytes: int
    num_tokens: int
    crc: int


class SignalStore:
    """The signals of one teacher under one setting. Killed at any moment, it keeps every row that its index names."""

    def __init__(self, folder: Path, identity: dict[str, Any], *, draws: int | None, num_words: int) -> None:
        """`draws` is what the numbers of each token add up to; None: each is a level of `levels_of`."""
        self.draws = draws
        self.num_words = num_words
        described = {**identity, "draws": draws, "num_words": num_words, "format": FORMAT}
        self.folder = folder / fingerprint(described)[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "identity.json").is_file():
            write_json(self.folder / "identity.json", described)
        self._places: dict[bytes, _Place] = {}
        self._num_records = self._end = self.num_tokens = 0
        self._code: WordCode | None = None
        self._data: npt.NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        self._load()

    def __contains__(self, row: str) -> bool:
        return bytes.fromhex(row) in self._places

    @property
    def num_bytes(self) -> int:
        """All files of the store."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def add(self, signals: Sequence[tuple[str, WordSets]]) -> None:
        """Appends rows that are not there yet: data first, synced, then the index that names it."""
        with self._alone():
            self._load()
            new = {row: sets for row, sets in signals if row not in self}
            if not new:
                return
            tokens = [len(sets.sizes_N) for sets in new.values()]
            sets = WordSets(*(np.concatenate(part) for part in zip(*new.values(), strict=True)))
            blobs = encode(sets, tokens, self._code_for(sets), self.draws)
            _append(self.folder / "rows.data", self._end, b"".join(blobs))
            records = b"".join(
                _record(bytes.fromhex(row), size, blob) for row, size, blob in zip(new, tokens, blobs, strict=True)
            )
            _append(self.folder / "rows.index", self._num_records * RECORD.itemsize, records)
            self._load()

    def read(self, rows: Sequence[str]) -> WordSets:
        """These rows' signals, token after token; raises ModelError when the bytes are not those that were written."""
        places = [self._places[bytes.fromhex(row)] for row in rows]
        if max((place.start + place.num_bytes for place in places), default=0) > len(self._data):
            self._data = np.memmap(self.folder / "rows.data", dtype=np.uint8, mode="r")
        blobs = [self._data[place.start : place.start + place.num_bytes].tobytes() for place in places]
        if any(zlib.crc32(blob) != place.crc for blob, place in zip(blobs, places, strict=True)):
            raise self._damaged()
        return decode(blobs, [place.num_tokens for place in places], self._known_code(), self.draws)

    def _load(self) -> None:
        """Takes in the records that were appended since; what a killed process left half written is none."""
        path = self.folder / "rows.index"
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self._num_records * RECORD.itemsize)
            data = file.read()
        own = RECORD.itemsize - 4
        whole = [data[at : at + RECORD.itemsize] for at in range(0, len(data) - own - 3, RECORD.itemsize)]
        good = [zlib.crc32(line[:own]) == int.from_bytes(line[own:], "little") for line in whole]
        num_good = good.index(False) if False in good else len(good)
        if any(good[num_good:]):
            raise self._damaged()
        records = np.frombuffer(b"".join(whole[:num_good]), dtype=RECORD)
        numbers = (records[name].tolist() for name in ("num_bytes", "num_tokens", "crc"))
        for line, num_bytes, num_tokens, crc in zip(whole[:num_good], *numbers, strict=True):
            self._places[line[:16]] = _Place(self._end, num_bytes, num_tokens, crc)
            self._end += num_bytes
            self.num_tokens += num_tokens
        self._num_records += num_good
        data_file = self.folder / "rows.data"
        if self._end > (data_file.stat().st_size if data_file.is_file() else 0):
            raise self._damaged()

    def _code_for(self, sets: WordSets) -> WordCode:
        """The store's code; the first rows decide it."""
        path = self.folder / "words.code"
        if not path.is_file():
            self._code = learn_code(sets, self.num_words)
            _append(path.with_suffix(".new"), 0, self._code.to_bytes())
            path.with_suffix(".new").rename(path)
        return self._known_code()

    def _known_code(self) -> WordCode:
        if self._code is None:
            try:
                self._code = WordCode.from_bytes((self.folder / "words.code").read_bytes())
            except (ModelError, FileNotFoundError):
                raise self._damaged() from None
        return self._code

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _damaged(self) -> ModelError:
        return ModelError(f"the signals in {self.folder} are damaged; delete that folder and run again")


def _record(row: bytes, num_tokens: int, blob: bytes) -> bytes:
    record = np.zeros((), dtype=RECORD)
    record["row"] = np.frombuffer(row, dtype="V16")[0]
    record["num_tokens"], record["num_bytes"], record["crc"] = num_tokens, len(blob), zlib.crc32(blob)
    record["own_crc"] = zlib.crc32(record.tobytes()[: RECORD.itemsize - 4])
    return record.tobytes()


def _append(path: Path, size: int, data: bytes) -> None:
    """Writes at `size`, cutting off what a killed process left behind it, and syncs."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


FINEST = 2.0**-10
NUM_LEVELS = 2**16 - 1
LOWEST = 64.0
_STEPS = (NUM_LEVELS - 1) / np.log1p(LOWEST / FINEST)


def levels_of(logp: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Log-probabilities as 16 bits: level l stands for -(e^(l / 5,909) - 1) / 1,024, the last one for -inf.

    The finer the likelier the word: a probability p comes back within 3.2e-5 of itself, and within 0.1% from 1e-5 upwards.
    Below e^-64 it is e^-64.
    """
    with np.errstate(invalid="ignore"):
        level = np.rint(np.log1p(np.clip(-logp.astype(np.float64), 0.0, LOWEST) / FINEST) * _STEPS)
    return np.where(np.isneginf(logp), NUM_LEVELS, level).astype(np.int32)


def logp_of(levels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """What `levels_of` wrote."""
    logp: npt.NDArray[np.float32] = _LOGP[levels]
    return logp


_LOGP = np.append(-FINEST * np.expm1(np.arange(NUM_LEVELS) / _STEPS), -np.inf).astype(np.float32)
