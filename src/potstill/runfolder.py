"""The run folder: where a run's files lie, who holds it, which stages are done, and what happened.

runs/<name>/  job.yaml state.json events.jsonl data/ answers/ signals/ checkpoints/ model/ evaluation/ exports/
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import ModelError, RunBusyError

Json = dict[str, Any]
MODEL_FILES = {".safetensors", ".json", ".jinja", ".txt", ".model", ".py"}
NOT_THE_MODEL = {"training_log.json", "trainer_state.json"}


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, and its small state. Stages get this and the job, and nothing else."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def answers(self) -> Path:
        return self.path / "answers"

    @property
    def signals(self) -> Path:
        return self.path / "signals"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def untouched(self) -> Path:
        """The student before it is trained, where it has not all of its model's layers."""
        return self.path / "untouched"

    @property
    def model(self) -> Path:
        """The distilled student."""
        return self.path / "model"

    @property
    def control(self) -> Path:
        """The student trained on plain text alone."""
        return self.path / "control"

    @property
    def teacher(self) -> Path:
        """The teacher after `teacher.adapt`."""
        return self.path / "teacher"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    def run_id(self) -> str:
        """What the journal knows this run by: made once, and gone with the folder."""
        if "run_id" not in self.state():
            self.update_state(run_id=uuid.uuid4().hex)
        return str(self.state()["run_id"])

    def state(self) -> Json:
        return read_json(self.path / "state.json") if (self.path / "state.json").is_file() else {}

    def update_state(self, **changes: Any) -> None:
        write_json(self.path / "state.json", {**self.state(), **changes, "updated_at": now()})

    def event(self, event: str, **fields: Any) -> None:
        """Appends one line to events.jsonl; a torn last line of a killed process is closed first."""
        line = json.dumps({"at": now(), "event": event, **fields}, ensure_ascii=False)
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "events.jsonl").open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode() + b"\n")

    def stage_is_done(self, stage: str, fingerprint: str) -> bool:
        """Whether the stage finished with the same inputs, and what it left is still there."""
        record = self.state().get("stages", {}).get(stage)
        if record is None or record["fingerprint"] != fingerprint:
            return False
        return all((self.path / name).exists() for name in record.get("left", ()))

    def mark_stage(self, stage: str, fingerprint: str, seconds: float, left: Sequence[str] = ()) -> None:
        """Notes that a stage is done; `left` are the paths in this folder without which it is not."""
        record = {"fingerprint": fingerprint, "seconds": seconds, "finished_at": now(), "left": list(left)}
        self.update_state(stages={**self.state().get("stages", {}), stage: record})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; raises RunBusyError when another one has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise RunBusyError(
                    f"run folder {self.path} is in use by process {holder}; wait for it, stop it, or give this job another name"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_json(path: Path, value: Any) -> None:
    """Writes atomically: a reader sees the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        raise ModelError(f"{path} is damaged; delete it and run again") from None


def write_rows(path: Path, rows: Iterable[Json]) -> int:
    """Writes JSON lines atomically, streaming; returns how many."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    return write_lines(path, (f"{encode(row)}\n".encode() for row in rows))


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Writes whole lines atomically, streaming; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    count = 0
    with part.open("wb") as file:
        for line in lines:
            file.write(line)
            count += 1
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return count


def read_rows(path: Path) -> Iterator[Json]:
    """Streams the JSON lines that `write_rows` or `event` wrote; a torn last line is left out."""
    if not path.is_file():
        return
    decode = json.JSONDecoder().raw_decode  # a third faster than `loads`, which looks for white space around
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield decode(line)[0]


def count_rows(path: Path) -> int:
    return sum(1 for _ in read_rows(path))


def fingerprint(*parts: Any) -> str:
    """A stable hash of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """sha256 of a file's content, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(path: Path) -> str:
    """sha256 over the names and contents of a model folder's files: its revision. A model card decides no answer.

    Computed once while names, sizes and times of the files stay.
    """
    stats = [(str(file), file.stat()) for file in _model_files(path)]
    return _folder_digest(path, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


@functools.cache
def _folder_digest(path: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    assert stamp, path
    digest = hashlib.sha256()
    for file in _model_files(path):
        digest.update(f"{file.relative_to(path)}:{file_digest(file)}".encode())
    return digest.hexdigest()


def _model_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.suffix in MODEL_FILES and file.name not in NOT_THE_MODEL)


@contextlib.contextmanager
def told_when_full() -> Iterator[None]:
    """safetensors and torch say that the disk is full in errors of their own; this raises the OSError that it is."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number)) from None
        if "inline_container" in str(error) or "iostream" in str(error):  # torch.save's writer, which hides the cause
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise


@contextlib.contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A fresh folder to write into that takes the place of `path` at the end, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with told_when_full():
            yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.replace(old)
    part.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
