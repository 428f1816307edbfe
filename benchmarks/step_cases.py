"""Potstill's cases of steps.py, one in a process of its own: prints JSON with seconds, CPU seconds, tokens a step, and memory.

python benchmarks/step_cases.py "C5 potstill" --folder MODEL --targets 511 --threads 1 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step_models import LENGTH, ROWS, config_vocabulary, device, ids_of, make, options_of, timed

from potstill.batches import Row, make_batches
from potstill.codec import WordSets
from potstill.plugins import load_plugin
from potstill.recipe import StudentSettings, TrainSettings
from potstill.runfolder import RunFolder, read_rows
from potstill.signals import SignalStore
from potstill.student import load_model
from potstill.teacher_signals import LiveSignals, SignalShape, StoredSignals, _by_row, _kept
from potstill.training import Training, _Loop

CAPTURED = 16
"""Rows that C6 scores."""
DRAWS = 50


def own_rows(vocabulary: int, targets: int, count: int) -> list[Row]:

    return [Row(ids[:-targets], ids[-targets:]) for ids in ids_of(vocabulary, count)]


def own_step(folder: Path, targets: int, repeats: int, kept: bool) -> dict[str, Any]:
    """`training.py`'s own step: batches, signals from the disk, losses, gradients, clipping, AdamW, the event of the step."""

    vocabulary = config_vocabulary(folder)
    rows = own_rows(vocabulary, targets, ROWS)
    kinds = [{"kind": "cross_entropy", "weight": 0.25}, "forward_kl"] if kept else ["cross_entropy"]
    losses = tuple(load_plugin("losses", kind) for kind in kinds)
    with tempfile.TemporaryDirectory() as place:
        signals = StoredSignals(made_store(Path(place), vocabulary, rows)) if kept else None
        run = RunFolder(Path(place) / "run")
        settings = TrainSettings(epochs=1000, batch_size=ROWS, learning_rate=5e-5, schedule="constant", warmup_share=0.0)
        loop = _Loop(Training("student", StudentSettings(model=str(folder)), settings, losses, rows, [], run, run.model, signals))

        def once(step: int) -> float:
            loop._step(step)
            return float(list(read_rows(run.path / "events.jsonl"))[-1]["loss"])

        found = timed(once, repeats, ROWS * LENGTH)
    return {**found, "loss": None if kept else found["loss"]}


def made_store(place: Path, vocabulary: int, rows: list[Row]) -> SignalStore:
    """Draws from a distribution by 1 / rank, as of a teacher that is fairly sure: 14.5 different words of 50."""

    store = SignalStore(place / "signals", {"teacher": "made"}, draws=DRAWS, num_words=vocabulary)
    random = np.random.default_rng(0)
    below = np.cumsum(1.0 / np.arange(1, vocabulary + 1))
    for row in rows:
        drawn = np.searchsorted(below, random.random((len(row.answer), DRAWS)) * below[-1])
        found = [np.unique(one, return_counts=True) for one in drawn]
        sizes = np.array([len(words) for words, _ in found], dtype=np.int32)
        sets = WordSets(sizes, np.concatenate([w for w, _ in found]).astype(np.int32), np.concatenate([c for _, c in found]))
        store.add([(row.digest(), sets._replace(numbers_U=sets.numbers_U.astype(np.int32)))])
    return store


def scoring(name: str, folder: Path, targets: int, repeats: int) -> dict[str, Any]:

    vocabulary = config_vocabulary(folder)
    rows = own_rows(vocabulary, targets, CAPTURED)
    shape = SignalShape(top_k=64, temperature=1.0, token_budget=2048, draws=DRAWS)
    model = load_model(str(folder))
    live = None if name.startswith("transformers") else LiveSignals(model, vocabulary, shape)
    batches = make_batches(rows, range(len(rows)), token_budget=2048, packing=False, pad_id=0)

    @torch.no_grad()
    def bare(step: int) -> None:
        del step
        for batch in batches:
            if live is None:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    model(input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT, use_cache=False)
                continue
            hidden_NH = live.hidden(batch, rows)
            if "logits" in name:
                _ = hidden_NH.bfloat16() @ live.head().weight_VH.bfloat16().T

    def kept(step: int) -> None:
        assert live is not None
        with tempfile.TemporaryDirectory() as place:
            store = SignalStore(Path(place), {"step": step}, draws=DRAWS, num_words=vocabulary)
            for batch in batches:  # as `capture` does, for every ROWS_AT_ONCE rows
                store.add(_by_row(_kept(live, batch, rows, shape), batch, rows, shape))

    return timed(kept if name.startswith("potstill") else bare, repeats, len(rows) * LENGTH)


def found_of(options: argparse.Namespace) -> dict[str, Any]:
    group, _, name = options.case.partition(" ")
    if group == "cuda":
        return {"cuda": torch.cuda.is_available()}
    if group == "make":
        return make(options.size, options.folder)
    if group == "C6":
        return scoring(name, options.folder, options.targets, options.repeats)
    return own_step(options.folder, options.targets, options.repeats, kept="kept" in name)


def main() -> None:
    options = options_of(__doc__)
    print(json.dumps({**found_of(options), "device": device()}))


if __name__ == "__main__":
    main()
