"""What is made ahead is what would be made in time."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_training import largest_gap, training, weights

from potstill.batches import Row
from potstill.errors import ModelError
from potstill.plugins import load_plugin
from potstill.prefetch import Prefetch
from potstill.progress import Progress
from potstill.rendering import load_tokenizer
from potstill.runfolder import RunFolder
from potstill.signals import SignalStore
from potstill.teacher_signals import SignalShape, StoredSignals, capture
from potstill.training import train

ROWS = [Row(np.arange(3, dtype=np.int32), np.arange(n + 1, dtype=np.int32)) for n in range(4)]


def test_what_was_begun_is_taken_and_anything_else_is_made_anew() -> None:
    made: list[tuple[int, int, str]] = []

    def make(rows: list[Row], budget: int) -> int:
        made.append((len(rows), budget, threading.current_thread().name))
        return sum(row.length for row in rows)

    ahead: Prefetch[int] = Prefetch(make)  # type: ignore[arg-type]
    ahead.begin(ROWS[:2], 10)
    assert ahead.take(ROWS[:2], 10) == sum(row.length for row in ROWS[:2])
    assert [one[:2] for one in made] == [(2, 10)]
    assert made[0][2].startswith("prefetch")
    for rows, budget in ((ROWS[2:], 10), (ROWS[:2], 5)):
        ahead.begin(ROWS[:2], 10)
        assert ahead.take(rows, budget) == sum(row.length for row in rows)
        assert made[-1] == (len(rows), budget, threading.main_thread().name)
    assert ahead.take(ROWS, 10) == sum(row.length for row in ROWS)


def test_a_fault_in_the_thread_is_the_steps_own() -> None:
    def make(rows: object, budget: int) -> int:
        raise ModelError("the signals are damaged")

    ahead: Prefetch[int] = Prefetch(make)
    ahead.begin(ROWS, 10)
    with pytest.raises(ModelError, match="damaged"):
        ahead.take(ROWS, 10)


def test_signals_are_read_a_step_ahead_with_the_same_weights(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(teacher_folder))
    teacher = load_plugin("teachers", {"kind": "huggingface", "model": str(teacher_folder)})
    shape = SignalShape(top_k=8, temperature=1.0, token_budget=512, draws=20)
    num_words = max(tokenizer.get_vocab().values()) + 1
    store = SignalStore(tmp_path / "signals", {"teacher": "t"}, draws=20, num_words=num_words)
    readers: list[str] = []

    class Watched(StoredSignals):
        def cells(self, batch, rows):  # type: ignore[no-untyped-def]
            readers.append(threading.current_thread().name)
            return super().cells(batch, rows)

    class InTime(Watched):
        on_disk = False

    for name, kind in (("ahead", Watched), ("in_time", InTime)):
        base = training(student_folder, tmp_path / name, temperature=1.0)
        with Progress(RunFolder(tmp_path / "x"), "capture", 20) as bar:
            capture(teacher, tokenizer, base.rows, store, shape, bar)
        readers.clear()
        train(replace(base, losses=(load_plugin("losses", "forward_kl"),), signals=kind(store)))
        in_thread = [reader for reader in readers if reader.startswith("prefetch")]
        assert len(in_thread) == (len(readers) - 1 if name == "ahead" else 0)
    assert largest_gap(weights(tmp_path / "ahead"), weights(tmp_path / "in_time")) == 0.0
