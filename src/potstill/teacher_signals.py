"""Local teachers' log-probabilities for training: from the disk, or from the teachers while the student learns.

A teacher that stays gives its whole distribution. What is kept of one is cells of its distribution at the distillation
temperature, the same from the disk as from the teacher. Sampled: the words of n draws with replacement,
each with the share of the draws that fell on it, and nothing in the tail; the gradient of a loss that is linear in the
teacher's probabilities is that of the whole distribution on average (Sparse Logit Sampling, arXiv 2503.16870). Top k: the k
likeliest words, and the tail. The draws of a row are decided by its token ids, so they are the same in any order and batch.

Several teachers give one distribution, p = sum_t w_t p_t with their weights as shares, and the draws, or the top k and the
tail, of that. Their token -> id maps must be the same, and all of them stand in memory at once: the mixture needs every
teacher's whole distribution of a token together, which for N tokens would be N x vocabulary numbers on the disk.

Names of arrays carry their shape: N target tokens, K words of a token, D draws, U words of all tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import Batch, Row, batches_as_asked, make_batches
from .codec import WordSets
from .contracts import Teacher
from .errors import JobError
from .kernels.cells import Cells, Full, Head, teacher_cells
from .kernels.mixtures import Voice, cells_with_targets, mixed_cells, weighed
from .kernels.sampling import drawn_words
from .progress import Progress
from .recipe import WIDTH_WORTH_BF16, TrainSettings, uses_bf16
from .rendering import load_tokenizer, vocabulary_difference
from .row_attention import use_row_attention
from .runfolder import fingerprint
from .signals import SignalStore, levels_of, logp_of
from .student import best_device, head_of, hidden_states, keeps_packed_rows_apart, load_model

ROWS_AT_ONCE = 64
"""Rows captured between two syncs to the disk."""


@dataclass(frozen=True)
class SignalShape:
    """What is kept of a teacher at temperature T: the words of some draws, or else the k likeliest."""

    top_k: int
    temperature: float
    token_budget: int
    precision: str = "auto"
    """As `train.precision`: products in bf16 where that pays; the head's and the softmax' are fp32 either way."""
    draws: int | None = None
    """Draws of a token; None: top k."""
    whole: bool = False
    """A live teacher's whole distribution, where there is one teacher: nothing is left out, and nothing can be kept."""
    seed: int = 0
    """Of the draws; apart from `train.seed`, so that trainings of other seeds find the same signals."""
    mix_by: Literal["weight", "confidence", "gold"] = "weight"
    """What the shares of several teachers follow beside their weights."""
    gold: frozenset[str] = frozenset()
    """The digests of rows whose answer is gold, where `mix_by` is gold."""
    targets: bool = False
    """Whether the text's own words are kept beside the top k, for students of other tokens."""

    def key(self, row: Row) -> str:
        """Names a row's signals: the same tokens have others where they are gold and gold decides."""
        return fingerprint(row.digest(), "gold")[:32] if row.digest() in self.gold else row.digest()


def shape_of(settings: TrainSettings, *, sampled: bool, gold: frozenset[str] = frozenset()) -> SignalShape:
    """What a job's training keeps or asks of its teachers; `gold` as in the shape."""
    draws = settings.draws if sampled else None
    whole = settings.signals == "live"
    return SignalShape(
        settings.top_k, settings.temperature, settings.micro_batch_tokens, settings.precision, draws, whole,
        mix_by=settings.mix_by, gold=gold if settings.mix_by == "gold" else frozenset(),
    )  # fmt: skip


class StoredSignals:
    """Signals captured before, read by the content of each row."""

    takes_packed = True
    on_disk = True
    """So they may be read ahead, in a thread."""

    def __init__(self, store: SignalStore, key: Callable[[Row], str] = Row.digest) -> None:
        """`key` names a row's signals as they were captured (`SignalShape.key`)."""
        self.store = store
        self.key = key

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells:
        return cells_of(self.store.read([self.key(rows[number]) for number in batch.numbers]), self.store.draws)


class LiveSignals:
    """The teacher answers while the student learns: nothing on the disk, both models in memory."""

    def __init__(self, model: PreTrainedModel, num_words: int, shape: SignalShape) -> None:
        self.model = model
        self.num_words = num_words
        self.shape = shape
        use_row_attention(model)
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

    def soften(self, temperature: float) -> None:
        self.shape = replace(self.shape, temperature=temperature)

    def voices(self, batch: Batch, rows: Sequence[Row]) -> list[Voice]:
        return [Voice(self.hidden(batch, rows), self.head(), 1.0)]

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells | Full:
        if self.shape.whole:
            return Full(self.hidden(batch, rows), self.head())
        return _cells(self.voices(batch, rows), batch, rows, self.shape)


class MixedSignals:
    """Several teachers answer together while the student learns, as one distribution; `shares` add up to 1."""

    def __init__(self, parts: Sequence[LiveSignals], shares: Sequence[float], shape: SignalShape) -> None:
        self.parts = parts
        self.shares = shares
        self.shape = shape
        self.takes_packed = all(part.takes_packed for part in parts)

    def soften(self, temperature: float) -> None:
        self.shape = replace(self.shape, temperature=temperature)

    def voices(self, batch: Batch, rows: Sequence[Row]) -> list[Voice]:
        both = zip(self.parts, self.shares, strict=True)
        voices = [Voice(part.hidden(batch, rows), part.head(), share) for part, share in both]
        if self.shape.mix_by == "weight":
            return voices
        of_batch = [rows[number] for number in batch.numbers]
        is_gold_N = np.repeat([row.digest() in self.shape.gold for row in of_batch], [len(row.answer) for row in of_batch])
        return weighed(voices, self.shape.mix_by, batch.target_N.cpu(), torch.from_numpy(is_gold_N))

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells:
        return _cells(self.voices(batch, rows), batch, rows, self.shape)


def _cells(voices: Sequence[Voice], batch: Batch, rows: Sequence[Row], shape: SignalShape) -> Cells:
    """What is kept of the teachers' distribution of a batch, before it goes to the disk or into the student's loss."""
    if shape.draws is not None:
        return cells_of(draw(voices, batch, rows, shape), shape.draws)
    if len(voices) == 1:
        return teacher_cells(voices[0].hidden_NH, voices[0].head, shape.top_k, shape.temperature)
    return mixed_cells(voices, shape.top_k, shape.temperature)


def draw(voices: Sequence[Voice], batch: Batch, rows: Sequence[Row], shape: SignalShape) -> WordSets:
    """The words drawn for each target token, and how often; each row's by its own random numbers."""
    assert shape.draws is not None, "top-k signals draw nothing"
    keys = [hashlib.sha256(f"{shape.seed} {rows[number].digest()}".encode()).digest() for number in batch.numbers]
    uniforms_ND = np.concatenate([
        np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16]))).random((len(rows[number].answer), shape.draws))
        for key, number in zip(keys, batch.numbers, strict=True)
    ])  # fmt: skip
    return sets_of(drawn_words(voices, torch.from_numpy(uniforms_ND), shape.temperature).cpu().numpy())


def sets_of(words_ND: npt.NDArray[np.int64]) -> WordSets:
    """The different words of each token, and how often each was drawn."""
    sorted_ND = np.sort(words_ND, axis=1)
    is_new_ND = np.ones(sorted_ND.shape, dtype=bool)
    is_new_ND[:, 1:] = sorted_ND[:, 1:] != sorted_ND[:, :-1]
    counts_U = np.diff(np.flatnonzero(is_new_ND), append=is_new_ND.size)
    return WordSets(is_new_ND.sum(axis=1, dtype=np.int32), sorted_ND[is_new_ND].astype(np.int32), counts_U.astype(np.int32))


def cells_of(sets: WordSets, draws: int | None) -> Cells:
    """Cells of as many words as the token with the most has. A token with fewer gets some that were not drawn: like all of
    them they have probability 0, alone as well as in the tail, so they change no loss and no gradient."""
    if draws is None:
        shape = (len(sets.sizes_N), -1)
        index_NK, logp_NK = sets.words_U.reshape(shape).astype(np.int64), logp_of(sets.numbers_U).reshape(shape)
        return Cells(torch.from_numpy(index_NK), torch.from_numpy(logp_NK))
    num_tokens, width = len(sets.sizes_N), int(sets.sizes_N.max(initial=0))
    filled_NK = np.arange(width) < sets.sizes_N[:, None]
    index_NK, logp_NK = np.empty((num_tokens, width), np.int64), np.full((num_tokens, width), -np.inf, np.float32)
    index_NK[filled_NK], logp_NK[filled_NK] = sets.words_U, _log_shares(draws)[sets.numbers_U]
    # Of the first K words, K - size at least were not drawn: they fill the places left.
    low_U = sets.words_U < width
    free_NK = np.ones((num_tokens, width), dtype=bool)
    free_NK[np.repeat(np.arange(num_tokens), sets.sizes_N)[low_U], sets.words_U[low_U]] = False
    free_NK &= np.cumsum(free_NK, axis=1) <= width - sets.sizes_N[:, None]
    index_NK[~filled_NK] = np.nonzero(free_NK)[1]
    return Cells(torch.from_numpy(index_NK), torch.from_numpy(logp_NK))


def _log_shares(draws: int) -> npt.NDArray[np.float32]:
    """log(c / n) of c = 0 ... n draws, rounded up: shares that add up to less than 1 would leave the tail a probability."""
    with np.errstate(divide="ignore"):
        exact = np.log(np.arange(draws + 1) / draws).astype(np.float32)
    return np.append(np.nextafter(exact[:-1], np.float32(0)), np.float32(0)).astype(np.float32)


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
    """The signals of these teachers under this setting: weights, shares, precision, temperature, and what is kept."""
    device = best_device()
    bf16 = uses_bf16(shape.precision, device, WIDTH_WORTH_BF16)
    voices = [(dict(one.identity()), share) for one, share in _shares(teachers)]
    identity = {
        **({"teacher": voices[0][0]} if len(voices) == 1 else {"teachers": voices}),
        "temperature": shape.temperature,
        "precision": f"{device}, {'bf16 where it pays' if bf16 else 'fp32'}",
    }
    num_words = _num_words(tokenizer)
    kept: dict[str, Any] = {"top_k": min(shape.top_k, num_words)} if shape.draws is None else {"seed": shape.seed}
    if shape.mix_by != "weight" and len(voices) > 1:
        kept["mix_by"] = shape.mix_by
    if shape.targets:
        kept["targets"] = True
    return SignalStore(folder, {**identity, **kept}, draws=shape.draws, num_words=num_words)


def capture(teachers: Teachers, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], store: SignalStore,
            shape: SignalShape, bar: Progress) -> int:  # fmt: skip
    """Scores the rows that the store does not hold yet, and returns how many; killed, it keeps what it has."""
    missing = [number for number, row in enumerate(rows) if shape.key(row) not in store]
    bar.advance(len(rows) - len(missing))
    if not missing:
        return 0
    live = live_signals(teachers, tokenizer, shape)
    missing.sort(key=lambda number: -rows[number].length)
    for start in range(0, len(missing), ROWS_AT_ONCE):
        part = missing[start : start + ROWS_AT_ONCE]
        found: list[tuple[str, WordSets]] = []
        pad_id = int(tokenizer.pad_token_id)
        for batch in make_batches(rows, part, token_budget=shape.token_budget, packing=live.takes_packed, pad_id=pad_id):
            found += _by_row(_kept(live, batch, rows, shape), batch, rows, shape)
        store.add(found)
        bar.advance(len(part))
    return len(missing)


def _kept(live: LiveSignals | MixedSignals, batch: Batch, rows: Sequence[Row], shape: SignalShape) -> WordSets:
    if shape.draws is not None:
        return draw(live.voices(batch, rows), batch, rows, shape)
    if shape.targets:
        found = cells_with_targets(live.voices(batch, rows), batch.target_N, shape.top_k, shape.temperature)
        index_NK, logp_NK = (tensor.cpu().numpy() for tensor in found)
        is_word_NK = index_NK >= 0
        words_U, levels_U = index_NK[is_word_NK].astype(np.int32), levels_of(logp_NK[is_word_NK])
        return WordSets(is_word_NK.sum(axis=1, dtype=np.int32), words_U, levels_U)
    index_NK, logp_NK = (tensor.cpu().numpy() for tensor in _cells(live.voices(batch, rows), batch, rows, shape))
    sizes_N = np.full(len(index_NK), index_NK.shape[1], dtype=np.int32)
    return WordSets(sizes_N, index_NK.ravel().astype(np.int32), levels_of(logp_NK).ravel())


def _by_row(sets: WordSets, batch: Batch, rows: Sequence[Row], shape: SignalShape) -> list[tuple[str, WordSets]]:
    tokens = np.cumsum([len(rows[number].answer) for number in batch.numbers])[:-1]
    words = np.cumsum(sets.sizes_N)[tokens - 1]
    parts = zip(np.split(sets.sizes_N, tokens), np.split(sets.words_U, words), np.split(sets.numbers_U, words), strict=True)
    return [(shape.key(rows[number]), WordSets(*part)) for number, part in zip(batch.numbers, parts, strict=True)]


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
        f"teacher and student have different vocabularies ({difference}), so their tokens cannot be compared one by one; losses "
        f"on log-probabilities work with what is kept of the teacher, train.signals: top_k, and cross_entropy with its text alone"
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
