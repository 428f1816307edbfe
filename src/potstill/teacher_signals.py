"""A local teacher's log-probabilities for training: from the disk, or from the teacher while the student learns.

Both give the same cells: the top k words of each target token at the distillation temperature, and the tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import Batch, Row, make_batches
from .contracts import Teacher
from .errors import JobError
from .kernels.cells import Cells, teacher_cells
from .progress import Progress
from .recipe import WIDTH_WORTH_BF16, uses_bf16
from .rendering import load_tokenizer, vocabulary_difference
from .signals import SignalStore, TopK
from .student import best_device, head_of, hidden_states, keeps_packed_rows_apart, load_model

ROWS_AT_ONCE = 64
"""Rows captured between two syncs to the disk."""


@dataclass(frozen=True)
class SignalShape:
    """What is kept of a teacher: k words a token, at temperature T."""

    top_k: int
    temperature: float
    token_budget: int
    precision: str = "auto"
    """As `train.precision`: products in bf16 where that pays; the head's and the softmax' are fp32 either way."""


class StoredSignals:
    """Signals captured before, read by the content of each row."""

    takes_packed = True

    def __init__(self, store: SignalStore) -> None:
        self.store = store

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells:
        read = [self.store.read(rows[number].digest()) for number in batch.numbers]
        words_NK = np.concatenate([signal.words_NK for signal in read]).astype(np.int64)
        logp_NK = np.concatenate([signal.logp_NK for signal in read])
        return Cells(torch.from_numpy(words_NK), torch.from_numpy(logp_NK))


class LiveSignals:
    """The teacher answers while the student learns: nothing on the disk, both models in memory."""

    def __init__(self, model: PreTrainedModel, num_words: int, shape: SignalShape) -> None:
        self.model = model
        self.num_words = num_words
        self.shape = shape
        self.takes_packed = keeps_packed_rows_apart(model)
        hidden_size = model.config.get_text_config().hidden_size
        self.bf16 = uses_bf16(shape.precision, model.device.type, hidden_size)

    @torch.no_grad()
    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells:  # the batch holds all that a live teacher reads
        moved = batch.to(self.model.device)
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            hidden_BTH = hidden_states(self.model, moved.input_ids_BT, moved.position_ids_BT)
        hidden_NH = hidden_BTH.flatten(0, 1).index_select(0, moved.at_N)
        return teacher_cells(hidden_NH, head_of(self.model, self.num_words), self.shape.top_k, self.shape.temperature)


def live_signals(teacher: Teacher, student_tokenizer: PreTrainedTokenizerBase, shape: SignalShape) -> LiveSignals:
    """Loads the teacher beside the student; raises JobError where their tokens differ."""
    place = _weights_of(teacher)
    require_same_vocabulary(load_tokenizer(place, **teacher.loading()), student_tokenizer)
    return LiveSignals(load_model(place, **teacher.loading()), _num_words(student_tokenizer), shape)


def open_store(teacher: Teacher, tokenizer: PreTrainedTokenizerBase, folder: Any, shape: SignalShape) -> SignalStore:
    """The signals of this teacher under this setting; identity covers weights, precision and temperature."""
    device = best_device()
    bf16 = uses_bf16(shape.precision, device, WIDTH_WORTH_BF16)
    identity = {
        "teacher": dict(teacher.identity()),
        "temperature": shape.temperature,
        "precision": f"{device}, {'bf16 where it pays' if bf16 else 'fp32'}",
    }
    num_words = _num_words(tokenizer)
    return SignalStore(folder, identity, top_k=min(shape.top_k, num_words), num_words=num_words)


def capture(teacher: Teacher, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], store: SignalStore,
            shape: SignalShape, bar: Progress) -> int:  # fmt: skip
    """Scores the rows that the store does not hold yet, and returns how many; killed, it keeps what it has."""
    missing = [number for number, row in enumerate(rows) if row.digest() not in store]
    bar.advance(len(rows) - len(missing))
    if not missing:
        return 0
    place = _weights_of(teacher)
    require_same_vocabulary(load_tokenizer(place, **teacher.loading()), tokenizer)
    live = LiveSignals(load_model(place, **teacher.loading()), _num_words(tokenizer), shape)
    missing.sort(key=lambda number: -rows[number].length)
    for start in range(0, len(missing), ROWS_AT_ONCE):
        part = missing[start : start + ROWS_AT_ONCE]
        found: list[tuple[str, TopK]] = []
        pad_id = int(tokenizer.pad_token_id)
        for batch in make_batches(rows, part, token_budget=shape.token_budget, packing=live.takes_packed, pad_id=pad_id):
            cells = live.cells(batch, rows)
            sizes = [len(rows[number].answer) for number in batch.numbers]
            words = np.split(cells.index_NK.cpu().numpy(), np.cumsum(sizes)[:-1])
            logp = np.split(cells.logp_NK.float().cpu().numpy(), np.cumsum(sizes)[:-1])
            found += [(rows[n].digest(), TopK(w, p)) for n, w, p in zip(batch.numbers, words, logp, strict=True)]
        store.add(found)
        bar.advance(len(part))
    return len(missing)


def require_same_vocabulary(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    """Log-probabilities of tokens mean the same only where the token -> id maps are the same."""
    difference = vocabulary_difference(teacher, student)
    if difference is not None:
        raise JobError(
            f"teacher and student have different vocabularies ({difference}): forward_kl and other losses on "
            f"log-probabilities are impossible; cross_entropy on the teacher's text works: train.losses: [cross_entropy]"
        )


def _weights_of(teacher: Teacher) -> str:
    place = teacher.local_model()
    if place is None:
        raise JobError(f"the teacher {teacher.kind} has no weights on this machine, so it gives no log-probabilities here")
    return place


def _num_words(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(max(tokenizer.get_vocab().values())) + 1
