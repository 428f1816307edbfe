"""Signals on disk: found by content, checked when read, whole after a kill, shared by processes."""

from __future__ import annotations

import hashlib
import os
import signal as signals
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from potstill.codec import WordSets
from potstill.errors import ModelError
from potstill.signals import SignalStore, levels_of, logp_of

DRAWS = 6


def name(row: str) -> str:
    return hashlib.sha256(row.encode()).hexdigest()[:32]


def drawn(num_tokens: int, seed: int) -> WordSets:
    random = np.random.default_rng(seed)
    pairs = [np.unique(random.integers(0, 300, size=DRAWS) // 7, return_counts=True) for _ in range(num_tokens)]
    words, counts = (np.concatenate(part).astype(np.int32) for part in zip(*pairs, strict=True))
    return WordSets(np.array([len(word) for word, _ in pairs], dtype=np.int32), words, counts)


def store(folder: Path, draws: int | None = DRAWS, **identity: object) -> SignalStore:
    return SignalStore(folder, {"teacher": "t", **identity}, draws=draws, num_words=300)


def listed(sets: WordSets) -> list[list[tuple[int, int]]]:
    token = np.repeat(np.arange(len(sets.sizes_N)), sets.sizes_N).tolist()
    found = sorted(zip(token, sets.words_U.tolist(), sets.numbers_U.tolist(), strict=True))
    return [[(word, number) for at, word, number in found if at == place] for place in range(len(sets.sizes_N))]


def test_rows_are_read_back_by_content_in_any_order(tmp_path: Path) -> None:
    rows = {name(f"row{i}"): drawn(1 + i, i) for i in range(5)}
    first = store(tmp_path)
    first.add(list(rows.items())[:3])
    first.add(list(rows.items())[3:])
    again = store(tmp_path)
    for row in reversed(rows):
        assert listed(again.read([row])) == listed(rows[row])
    some = list(rows)[4:0:-2]
    assert listed(again.read(some)) == [token for row in some for token in listed(rows[row])]
    assert again.num_tokens == 15


def test_another_temperature_number_of_draws_or_teacher_is_another_store(tmp_path: Path) -> None:
    store(tmp_path, temperature=1.0).add([(name("row"), drawn(2, 0))])
    assert name("row") not in store(tmp_path, temperature=2.0)
    assert name("row") not in store(tmp_path, draws=DRAWS + 1, temperature=1.0)
    assert name("row") not in store(tmp_path, draws=None, temperature=1.0)
    assert name("row") in store(tmp_path, temperature=1.0)


@pytest.mark.parametrize("torn", [b"", b"half a row", bytes(32), bytes(70)])
def test_bytes_that_no_index_names_are_cut_off_after_a_kill(tmp_path: Path, torn: bytes) -> None:
    one = store(tmp_path)
    one.add([(name("a"), drawn(3, 0))])
    for file in ("rows.data", "rows.index"):
        with (one.folder / file).open("ab") as opened:
            opened.write(torn)
    again = store(tmp_path)
    assert again.num_tokens == 3
    again.add([(name("b"), drawn(2, 1))])
    assert listed(store(tmp_path).read([name("b")])) == listed(drawn(2, 1))
    assert listed(store(tmp_path).read([name("a")])) == listed(drawn(3, 0))


@pytest.mark.parametrize("file", ["rows.data", "rows.index", "words.code"])
def test_changed_bytes_are_told_and_never_trained_on(tmp_path: Path, file: str) -> None:
    """Whichever byte it is; a record that is not the last one is no torn one either."""
    one = store(tmp_path)
    one.add([(name("a"), drawn(3, 0)), (name("b"), drawn(3, 1))])
    path = one.folder / file
    data = path.read_bytes()
    for place in range(0, len(data) if file != "rows.index" else 32, 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ModelError, match="are damaged; delete that folder and run again"):
            store(tmp_path).read([name("a"), name("b")])
    path.write_bytes(data)
    assert listed(store(tmp_path).read([name("a")])) == listed(drawn(3, 0))


def test_missing_bytes_are_told(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add([(name("a"), drawn(3, 0))])
    data = (one.folder / "rows.data").read_bytes()
    (one.folder / "rows.data").write_bytes(data[:-1])
    with pytest.raises(ModelError, match="damaged"):
        store(tmp_path)
    (one.folder / "rows.data").write_bytes(data)
    (one.folder / "words.code").unlink()
    with pytest.raises(ModelError, match="damaged"):
        store(tmp_path).read([name("a")])


def test_two_processes_add_to_one_store(tmp_path: Path) -> None:
    """Neither cuts off what the other wrote, and a row that both captured stands there once."""
    one, other = store(tmp_path), store(tmp_path)
    one.add([(name("a"), drawn(3, 0)), (name("b"), drawn(2, 1))])
    other.add([(name("b"), drawn(2, 1)), (name("c"), drawn(4, 2))])
    one.add([(name("d"), drawn(1, 3))])
    for each in (one, store(tmp_path)):
        assert [len(each.read([name(row)]).sizes_N) for row in "abcd"] == [3, 2, 4, 1]
        assert each.num_tokens == 10


WRITER = """
import sys
from pathlib import Path
from test_signals import drawn, name, store
one = store(Path(sys.argv[1]))
for number in range(10_000):
    one.add([(name(f"{number}.{part}"), drawn(3, number + part)) for part in range(3)])
    print(number, flush=True)
"""


@pytest.mark.parametrize("rows", [1, 4, 9])
def test_a_writer_that_is_killed_in_the_middle_leaves_whole_rows(tmp_path: Path, rows: int) -> None:
    """What it said was there is there, and the store goes on from it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(rows)]
        time.sleep(0.001 * rows)
        writer.send_signal(signals.SIGKILL)
    again = store(tmp_path)
    for number in told:
        for part in range(3):
            assert listed(again.read([name(f"{number}.{part}")])) == listed(drawn(3, number + part))
    again.add([(name("more"), drawn(5, 1))])
    assert listed(store(tmp_path).read([name("more")])) == listed(drawn(5, 1))
    assert store(tmp_path).num_tokens == again.num_tokens


def test_levels_keep_log_probabilities_to_a_thousandth_where_it_counts(tmp_path: Path) -> None:
    logp = -np.concatenate([[0.0, np.inf, 1e-9, 100.0, 64.0], np.geomspace(1e-6, 60, 5000)])
    back = logp_of(levels_of(logp))
    assert back[0] == 0
    assert np.isneginf(back[1])
    assert back[3] == back[4] == np.float32(-64)
    p, q = np.exp(logp), np.exp(back.astype(np.float64))
    assert np.abs(p - q).max() <= 3.2e-5
    seen = p > 1e-5
    assert np.abs(q[seen] / p[seen] - 1).max() <= 1e-3
    kept = store(tmp_path, draws=None)
    levels = levels_of(logp)
    sets = WordSets(np.array([5, 10], np.int32), np.arange(15, dtype=np.int32) * 17, levels[:15])
    kept.add([(name("row"), sets)])
    assert listed(store(tmp_path, draws=None).read([name("row")])) == listed(sets)
