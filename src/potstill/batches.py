"""Examples to tensors: encoding, packing, and which position predicts which target.

A row is fed as prompt + answer without its last token; position P-1 predicts the answer's first token, and so on.
Several rows may share one line of a batch: their positions restart at 0, which keeps their attention apart.
Names of tensors carry their shape: B lines, T positions, N target tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from .errors import ModelError
from .packing import pack
from .rendering import answer_ids, prompt_ids
from .types import Message

# What a forward pass costs beside its positions, in positions: it reads every weight once, and on an accelerator that takes
# as long as some hundreds of tokens' arithmetic (an H100: 990 TFLOP/s in bf16 over 3.35 TB/s, so about 300).
PASS_COSTS = 256


class Sample(NamedTuple):
    """A prompt, the answer to be learned, how much each of its tokens counts, what a teacher is asked for that answer where it
    is more than the student's prompt, and the name of the lesson that it is."""

    messages: Sequence[Message]
    answer: str
    weight: float = 1.0
    asked: Sequence[Message] | None = None
    name: str = ""


class Row(NamedTuple):
    """One encoded training example."""

    prompt: npt.NDArray[np.int32]
    answer: npt.NDArray[np.int32]
    weight: float = 1.0
    asked: npt.NDArray[np.int32] | None = None
    name: str = ""
    """Of the lesson that it encodes, by its text; teachers of other tokens find it so."""
    own: bool = False
    """Whether the student wrote the answer itself: losses on text do not teach it."""

    @property
    def length(self) -> int:
        """Positions that are fed to the model."""
        return len(self.prompt) + len(self.answer) - 1

    @property
    def weighed_targets(self) -> float:
        """How many target tokens of weight 1 the row counts as."""
        return self.weight * len(self.answer)

    def digest(self) -> str:
        """Names the row by its token ids, so that signals are found by content and never by order, whatever it counts."""
        parts = [self.prompt, self.answer] if self.asked is None else [self.prompt, self.answer, self.asked]
        sizes = np.array([len(part) for part in parts], dtype=np.int32)
        return hashlib.sha256(b"".join(part.tobytes() for part in (sizes, *parts))).hexdigest()[:32]

    def as_asked(self) -> Row:
        """The row as a teacher sees it: the same answer, to the prompt that asks for it."""
        return self if self.asked is None else Row(self.asked, self.answer, self.weight)


class Encoded(NamedTuple):
    """The rows that fit, how many were left out as too long for the model, and how many its chat template refuses."""

    rows: list[Row]
    num_too_long: int
    num_refused: int = 0
    why_refused: str = ""


class Batch(NamedTuple):
    """One forward pass. `at_N` are flat indices into B*T; targets of one row stand together, in the order of `numbers`.

    `weight_N` is how much each target counts, `text_N` as what losses on text count it (0 where the student wrote the answer
    itself); None where all count 1.
    """

    input_ids_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    at_N: torch.Tensor
    target_N: torch.Tensor
    numbers: tuple[int, ...]
    weight_N: torch.Tensor | None = None
    text_N: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        ids, positions, at, target = (tensor.to(device, non_blocking=True) for tensor in self[:4])
        weight, text = (one if one is None else one.to(device, non_blocking=True) for one in (self.weight_N, self.text_N))
        return Batch(ids, positions, at, target, self.numbers, weight, text)


def encode(samples: Iterable[Sample], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Prompts with their answers as token ids. A row longer than `max_length` is left out and counted: cutting its
    answer would teach the student never to end. One that the chat template refuses is left out and counted too."""
    rows: list[Row] = []
    num_too_long = num_refused = 0
    why_refused = ""
    for messages, answer, weight, asked, name in samples:
        try:
            prompt, target = prompt_ids(tokenizer, messages), answer_ids(tokenizer, messages, answer)
            seen = None if asked is None else np.array(prompt_ids(tokenizer, asked), dtype=np.int32)
        except ModelError as error:
            num_refused, why_refused = num_refused + 1, why_refused or str(error)
            continue
        row = Row(np.array(prompt, dtype=np.int32), np.array(target, dtype=np.int32), weight, seen, name)
        if row.length > max_length:
            num_too_long += 1
        else:
            rows.append(row)
    return Encoded(rows, num_too_long, num_refused, why_refused)


def make_batches(rows: Sequence[Row], numbers: Sequence[int], *, token_budget: int, packing: bool, pad_id: int) -> list[Batch]:
    """The numbered rows as batches of at most `token_budget` positions, padding included (a longer row stands alone).

    Packed, lines are as long as the longest row: attention stays short, and little is padding. Either way lines of like
    length share a batch, which is as wide as its own longest: short lines are many to a batch, and little of it is padding.
    """
    if not numbers:
        return []
    lengths = [rows[number].length for number in numbers]
    if packing:
        lines = [[numbers[place] for place in line] for line in pack(lengths, max(lengths))]
    else:
        lines = [[number] for number in numbers]
    lines.sort(key=lambda line: -_width(rows, line))
    return _batches(rows, lines, token_budget, pad_id)


def batches_as_asked(batch: Batch, rows: Sequence[Row], token_budget: int) -> list[Batch]:
    """What a teacher scores for a batch: the batch itself, or where it is asked more than the student, lines of its own
    prompts. Targets keep their order."""
    if all(rows[number].asked is None for number in batch.numbers):
        return [batch]
    seen = [rows[number].as_asked() for number in batch.numbers]
    return _batches(seen, [[place] for place in range(len(seen))], token_budget, pad_id=0)


def _batches(rows: Sequence[Row], lines: Sequence[Sequence[int]], token_budget: int, pad_id: int) -> list[Batch]:
    """Neighbouring lines together, cut where it costs least."""
    cuts = least_cost_cuts([_width(rows, line) for line in lines], token_budget)
    return [_batch(rows, lines[start:end], pad_id) for start, end in pairwise(cuts)]


def least_cost_cuts(widths: Sequence[int], token_budget: int) -> list[int]:
    """Where to cut lines of these widths into batches, 0 and the number of lines included.

    A batch costs its positions (lines times the widest of them) and PASS_COSTS; the sum is the least that is possible
    without changing the order, and no batch of several lines has more than `token_budget` positions.
    """
    widest = np.array(widths, dtype=np.int64)  # of the lines from here to the one in hand
    least = np.zeros(len(widths) + 1, dtype=np.int64)
    begun = np.zeros(len(widths) + 1, dtype=np.int64)
    first = 0  # from here to the line in hand fits into one batch; from any earlier line on does not
    for end in range(1, len(widths) + 1):
        np.maximum(widest[first:end], widest[end - 1], out=widest[first:end])
        positions = widest[first:end] * np.arange(end - first, 0, -1)
        too_many = min(int(np.count_nonzero(positions > token_budget)), end - first - 1)
        first += too_many
        costs = least[first:end] + positions[too_many:]
        place = int(costs.argmin())
        least[end] = costs[place] + PASS_COSTS
        begun[end] = first + place
    cuts = [len(widths)]
    while cuts[-1]:
        cuts.append(int(begun[cuts[-1]]))
    return cuts[::-1]


def _width(rows: Sequence[Row], line: Sequence[int]) -> int:
    return sum(rows[number].length for number in line)


def _batch(rows: Sequence[Row], lines: Sequence[Sequence[int]], pad_id: int) -> Batch:
    width = max(_width(rows, line) for line in lines)
    whole = [rows[number] for line in lines for number in line]
    input_ids = np.full((len(lines), width), pad_id, dtype=np.int64)
    positions = np.zeros((len(lines), width), dtype=np.int64)
    at: list[npt.NDArray[np.int64]] = []
    targets: list[npt.NDArray[np.int32]] = []
    for index, line in enumerate(lines):
        start = 0
        for number in line:
            row = rows[number]
            end = start + row.length
            input_ids[index, start:end] = np.concatenate([row.prompt, row.answer[:-1]])
            positions[index, start:end] = np.arange(row.length)
            first = index * width + start + len(row.prompt) - 1
            at.append(np.arange(first, first + len(row.answer)))
            targets.append(row.answer)
            start = end
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(positions),
        torch.from_numpy(np.concatenate(at)),
        torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        tuple(number for line in lines for number in line),
        _counts(whole, [row.weight for row in whole]),
        _counts(whole, [0.0 if row.own else row.weight for row in whole]),
    )


def _counts(rows: Sequence[Row], counts: Sequence[float]) -> torch.Tensor | None:
    """Each row's count, once for each of its targets [N]."""
    if all(count == 1.0 for count in counts):
        return None
    return torch.tensor(counts).repeat_interleave(torch.tensor([len(row.answer) for row in rows]))
