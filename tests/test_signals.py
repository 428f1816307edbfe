"""Signals on disk: found by content, checked when read, whole after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from potstill.errors import ModelError
from potstill.signals import SignalStore, TopK


def signal(num_tokens: int, seed: int, top_k: int = 4) -> TopK:
    random = np.random.default_rng(seed)
    logp = np.log(random.dirichlet(np.ones(top_k + 1), size=num_tokens)[:, :top_k]).astype(np.float32)
    return TopK(random.integers(0, 300, size=(num_tokens, top_k)), logp)


def store(folder: Path, **identity: object) -> SignalStore:
    return SignalStore(folder, {"teacher": "t", **identity}, top_k=4, num_words=300)


def test_rows_are_read_back_by_content_in_any_order(tmp_path: Path) -> None:
    rows = {f"row{i}": signal(1 + i, i) for i in range(5)}
    first = store(tmp_path)
    first.add(list(rows.items())[:3])
    first.add(list(rows.items())[3:])
    again = store(tmp_path)
    for name in reversed(rows):
        read = again.read(name)
        assert read.words_NK.tolist() == rows[name].words_NK.tolist()
        assert read.logp_NK.tolist() == rows[name].logp_NK.tolist()
    assert again.num_tokens == 15


def test_another_temperature_or_teacher_is_another_store(tmp_path: Path) -> None:
    store(tmp_path, temperature=1.0).add([("row", signal(2, 0))])
    assert "row" not in store(tmp_path, temperature=2.0)
    assert "row" in store(tmp_path, temperature=1.0)


def test_bytes_that_no_index_names_are_cut_off_after_a_kill(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add([("a", signal(3, 0))])
    with (one.folder / "words.bin").open("ab") as file:
        file.write(b"half a row")
    with (one.folder / "index.jsonl").open("ab") as file:
        file.write(b'{"row": "b", "sta')
    again = store(tmp_path)
    assert "b" not in again
    again.add([("b", signal(2, 1))])
    assert store(tmp_path).read("b").words_NK.tolist() == signal(2, 1).words_NK.tolist()
    assert store(tmp_path).read("a").words_NK.tolist() == signal(3, 0).words_NK.tolist()


def test_changed_bytes_are_told_and_never_trained_on(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add([("a", signal(3, 0))])
    path = one.folder / "logp.bin"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        store(tmp_path).read("a")
