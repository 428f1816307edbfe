"""Easy rows first: rows are drawn from a pool that begins with the easiest ones and grows until it holds all.

The schedule is that of competence-based curriculum learning (Platanios et al. 2019, arXiv 1903.09848): after the share t of the
growing steps the pool holds the share sqrt(t (1 - c0^2) + c0^2) of the rows, c0 = 0.01, easiest first. Unlike there, rows are
drawn without replacement: one that is new to the pool comes first, so that every row is seen, and the others take turns.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch

from .aligned_terms import Aligned
from .batches import Row, make_batches
from .kernels.cells import Full, tail_logp
from .kernels.spans import starts_of
from .objective import Signals
from .recipe import TrainSettings
from .types import Signal

FIRST_SHARE = 0.01
"""Platanios et al.'s c0: the share of the rows that the first step chooses from."""
TOKENS_AT_ONCE = 65_536


class Paced:
    """A `Feed` whose rows are as hard as the step is late; decided by the rows' hardness and the seed alone.

    Where a run has one epoch or more, every row is seen. Once all rows are in the pool, each pass has every row once.
    """

    def __init__(self, rows: Sequence[Row], hardness: Sequence[float], batch_size: int, seed: int, growing_steps: int) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.growing_steps = growing_steps
        self._random = random.Random(seed)
        self._order = list(range(len(rows)))
        self._random.shuffle(self._order)  # rows that are equally hard stand in no order
        self._order.sort(key=lambda number: hardness[number])
        self._steps: list[list[int]] = []
        self._num_in_pool = 0
        self._new: list[int] = []  # in the pool, never seen
        self._waiting: list[int] = []  # seen before, and not yet in this pass

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def rows_of(self, step: int) -> Sequence[Row]:
        while len(self._steps) <= step:  # a resumed run draws again what it drew before
            self._steps.append(self._drawn(len(self._steps)))
        return [self.rows[number] for number in self._steps[step]]

    def _drawn(self, step: int) -> list[int]:
        share = competence(step, self.growing_steps)
        size = min(len(self.rows), max(self.batch_size, math.ceil(share * len(self.rows))))
        self._new += self._order[self._num_in_pool : size]
        self._num_in_pool = size
        wanted = min(self.batch_size, size)
        drawn = self._taken(self._new, wanted)
        drawn += self._taken(self._waiting, wanted - len(drawn))
        if len(drawn) < wanted:  # all of the pool had its turn: another pass
            here = set(drawn)
            self._waiting = [number for number in self._order[:size] if number not in here]
            drawn += self._taken(self._waiting, wanted - len(drawn))
        return drawn

    def _taken(self, numbers: list[int], count: int) -> list[int]:
        """So many of them at random, taken out."""
        taken = []
        for _ in range(min(count, len(numbers))):
            place = self._random.randrange(len(numbers))
            numbers[place], numbers[-1] = numbers[-1], numbers[place]
            taken.append(numbers.pop())
        return taken


def competence(step: int, growing_steps: int) -> float:
    """The share of the rows, easiest first, that step 0, 1, ... may learn from; 1 from the last growing step on.

    >>> [round(competence(step, 5), 3) for step in range(6)]
    [0.01, 0.5, 0.707, 0.866, 1.0, 1.0]
    """
    if step >= growing_steps - 1:
        return 1.0
    return math.sqrt(step / (growing_steps - 1) * (1 - FIRST_SHARE**2) + FIRST_SHARE**2)


def paced(rows: Sequence[Row], settings: TrainSettings, num_steps: int, signals: Signals | None) -> Paced:
    """The rows in the order that `train.curriculum` names."""
    if settings.curriculum == "confidence":
        assert signals is not None
        hardness = unsureness(signals, rows)
    else:
        hardness = lengths(rows)
    return Paced(rows, hardness, settings.batch_size, settings.seed, max(1, round(settings.curriculum_share * num_steps)))


def lengths(rows: Sequence[Row]) -> list[float]:
    """Tokens of the answer; of rows with equal ones, the shorter prompt is easier."""
    longest = max((len(row.prompt) for row in rows), default=0)
    return [len(row.answer) + len(row.prompt) / (longest + 1) for row in rows]


def unsureness(signals: Signals, rows: Sequence[Row]) -> list[float]:
    """The mean entropy of the teacher's kept distributions over a row's answer, in nats: 0 where it is sure of every token.

    The entropy is that of the cells that are kept, the tail counting as one, at the distillation temperature. Of a teacher with
    other tokens it is taken at the first token of each group, and a row of which it says nothing comes last.
    """
    found = [0.0] * len(rows)
    for batch in make_batches(rows, range(len(rows)), token_budget=TOKENS_AT_ONCE, packing=False, pad_id=0):
        cells = signals.cells(batch, rows)
        assert not isinstance(cells, Full), "a live teacher has no kept signals, and curriculum_problem refuses it"
        if isinstance(cells, Aligned):
            says_N = starts_of(cells.span_N) & (cells.told_N > 0)
            all_N = entropies(cells.ranks_NK).where(says_N, torch.nan)
        else:
            all_N = entropies(cells.logp_NK)
        parts = all_N.split([len(rows[number].answer) for number in batch.numbers])
        for number, entropy_N in zip(batch.numbers, parts, strict=True):
            found[number] = float(entropy_N.nanmean().nan_to_num(torch.inf))
    return found


def entropies(logp_NK: torch.Tensor) -> torch.Tensor:
    """-sum p log p [N] over the K words and what they leave."""
    p_NK = logp_NK.double().exp()
    tail_N = tail_logp(logp_NK).double().exp()
    entropy_N: torch.Tensor = torch.special.entr(p_NK).sum(dim=1) + torch.special.entr(tail_N)
    return entropy_N


def curriculum_problem(settings: TrainSettings) -> str | None:
    """Why rows cannot be ordered as the job says; None where they can."""
    if settings.curriculum != "confidence":
        return None
    if all(loss.needs in (Signal.TEXT, Signal.HIDDEN) for loss in settings.losses):
        return (
            "train.curriculum is confidence, and the job keeps no teacher's log-probabilities to know its confidence by; set it "
            "to length, or add a loss on distributions such as forward_kl, with a teacher that gives log-probabilities"
        )
    if settings.signals == "live":
        return (
            "train.curriculum is confidence, which is read from kept signals, and train.signals is live; set train.signals to "
            "auto, sampled or top_k, or the curriculum to length"
        )
    return None
