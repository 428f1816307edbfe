"""Local teachers' log-probabilities for training: from the disk, or from the teachers while the student learns.

Both give the same cells: the top k words of each target token at the distillation temperature, and the tail. Several teachers
give one distribution, p = sum_t w_t p_t with their weights as shares, and the top k and the tail of that. Their token -> id
maps must be the same, and all of them stand in memory at once: the mixture's top k needs every teacher's whole distribution of
a token together, which for N tokens would be N x vocabulary numbers on the disk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import Batch, Row, batches_as_asked, make_batches
from .contracts import Teacher
from .errors import JobError
from .kernels.cells import Cells, Head, teacher_cells
from .kernels.mixtures import Voice, mixed_cells
from .progress import Progress
from .recipe import WIDTH_WORTH_BF16, uses_bf16
from .rendering import load_tokenizer, vocabulary_difference
from .runfolder import fingerprint
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
    def hidden(self, batch: Batch, rows: Sequence[Row]) -> torch.Tensor:
        """The last hidden states of the batch's target positions [N, H]."""
        found = []
        for part in batches_as_asked(batch, rows, self.shape.token_budget):
            moved = part.to(self.model.device)
            with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                hidden_BTH = hidden_states(self.model, moved.input_ids_BT, moved.position_ids_BT)
            found.append(hidden_BTH.flatten(0, 1).index_select(0, moved.at_N))
        return found[0] if len(found) == 1 else torch.cat(found)

    def head(self) -> Head:
        return head_of(self.model, self.num_words)

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells:
        return teacher_cells(self.hidden(batch, rows), self.head(), self.shape.top_k, self.shape.temperature)


class MixedSignals:
    """Several teachers answer together while the student learns, as one distribution; `shares` add up to 1."""

    def __init__(self, parts: Sequence[LiveSignals], shares: Sequence[float], shape: SignalShape) -> None:
        self.parts = parts
        self.shares = shares
        self.shape = shape
        self.takes_packed = all(part.takes_packed for part in parts)

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells:
        voices = [
            Voice(part.hidden(batch, rows), part.head(), share) for part, share in zip(self.parts, self.shares, strict=True)
        ]
        return mixed_cells(voices, self.shape.top_k, self.shape.temperature)


Teachers = Teacher | Sequence[Teacher]


def live_signals(
    teachers: Teachers, student_tokenizer: PreTrainedTokenizerBase, shape: SignalShape
) -> LiveSignals | MixedSignals:
    """Loads the teachers beside the student; raises JobError where their tokens differ."""
    problem = vocabulary_problem(teachers, student_tokenizer)
    if problem is not None:
        raise JobError(problem)
    num_words = _num_words(student_tokenizer)
    voices = _shares(teachers)
    parts = [LiveSignals(load_model(_weights_of(one), **one.loading()), num_words, shape) for one, _ in voices]
    return parts[0] if len(parts) == 1 else MixedSignals(parts, [share for _, share in voices], shape)


def open_store(teachers: Teachers, tokenizer: PreTrainedTokenizerBase, folder: Any, shape: SignalShape) -> SignalStore:
    """The signals of these teachers under this setting; identity covers weights, shares, precision and temperature."""
    device = best_device()
    bf16 = uses_bf16(shape.precision, device, WIDTH_WORTH_BF16)
    voices = [(dict(one.identity()), share) for one, share in _shares(teachers)]
    identity = {
        **({"teacher": voices[0][0]} if len(voices) == 1 else {"teachers": voices}),
        "temperature": shape.temperature,
        "precision": f"{device}, {'bf16 where it pays' if bf16 else 'fp32'}",
    }
    num_words = _num_words(tokenizer)
    return SignalStore(folder, identity, top_k=min(shape.top_k, num_words), num_words=num_words)


def capture(teachers: Teachers, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], store: SignalStore,
            shape: SignalShape, bar: Progress) -> int:  # fmt: skip
    """Scores the rows that the store does not hold yet, and returns how many; killed, it keeps what it has."""
    missing = [number for number, row in enumerate(rows) if row.digest() not in store]
    bar.advance(len(rows) - len(missing))
    if not missing:
        return 0
    live = live_signals(teachers, tokenizer, shape)
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


def vocabulary_problem(teachers: Teachers, student: PreTrainedTokenizerBase) -> str | None:
    """Why these teachers cannot teach this student token by token; None where all have the same token -> id map."""
    first, *others = _listed(teachers)
    tokenizers = [load_tokenizer(_weights_of(one), **one.loading()) for one in (first, *others)]
    for one, tokenizer in zip(others, tokenizers[1:], strict=True):
        difference = vocabulary_difference(tokenizers[0], tokenizer)
        if difference is not None:
            return (
                f"the teachers {first.label!r} and {one.label!r} have different vocabularies ({difference}), so their "
                f"log-probabilities cannot be mixed; name teachers of one tokenizer, or train on their text: "
                f"train.losses: [cross_entropy]"
            )
    difference = vocabulary_difference(tokenizers[0], student)
    return difference and (
        f"teacher and student have different vocabularies ({difference}): forward_kl and other losses on "
        f"log-probabilities are impossible; cross_entropy on the teacher's text works: train.losses: [cross_entropy]"
    )


def _listed(teachers: Teachers) -> Sequence[Teacher]:
    return (teachers,) if isinstance(teachers, Teacher) else teachers


def _shares(teachers: Teachers) -> list[tuple[Teacher, float]]:
    """Each model once, with its share of the mixture, in an order of their own: that of the job changes no signal."""
    if len(_listed(teachers)) == 1:
        return [(_listed(teachers)[0], 1.0)]
    models: dict[str, list[Teacher]] = {}
    for one in _listed(teachers):
        models.setdefault(fingerprint(dict(one.identity())), []).append(one)
    weights = {name: math.fsum(one.weight for one in same) for name, same in models.items()}
    total = math.fsum(weights.values())
    return [(models[name][0], weights[name] / total) for name in sorted(models)]


def _weights_of(teacher: Teacher) -> str:
    place = teacher.local_model()
    if place is None:
        raise JobError(f"the teacher {teacher.label} has no weights on this machine, so it gives no log-probabilities here")
    return place


def _num_words(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(max(tokenizer.get_vocab().values())) + 1
