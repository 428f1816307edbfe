"""On-policy distillation: some rows of a step get the student's own answer instead of the given one, for the teacher to score.

Algorithm 1 of GKD (Agarwal et al. 2023, arXiv 2306.13649): with probability lambda (`share`) a row's answer is sampled from the
student as it is at that step. No gradient goes through the sampling. Unlike there, lambda is decided row by row, and the first
steps learn from the given text (`cold_start`).

Which rows are replaced, and the random numbers of their answers, are decided by the seed, the step and the row alone, so that
a resumed run samples what the unbroken one did, from the same weights. Where answers of several steps are sampled at once, those
still to be learned stand in the checkpoint. Several processes sample a part each, and tell each other: all learn the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from .batches import Row
from .feeding import Feed
from .learner import Learner
from .lessons import longest_row
from .recipe import OnPolicySettings, StudentSettings, TrainSettings
from .refill import Ask, Writer, uniforms
from .types import Sampling

Drawn = dict[int, list[int]]
"""Own answers of one step: place of the row -> token ids."""


@dataclass
class OnPolicy:
    """A `Feed` that gives the rows of another one, some with the student's own answers from step `begins` on."""

    given: Feed
    settings: OnPolicySettings
    seed: int
    num_steps: int
    writer: Writer
    max_length: int
    accelerator: Accelerator
    _drawn: dict[int, Drawn] = field(default_factory=dict)

    @property
    def begins(self) -> int:
        return math.ceil(self.settings.cold_start * self.num_steps)

    @property
    def steps_per_epoch(self) -> int:
        return self.given.steps_per_epoch

    def rows_of(self, step: int) -> Sequence[Row]:
        """The rows of this step, its own answers sampled from the student as it is when they are first asked for."""
        rows = self.given.rows_of(step)
        if step < self.begins:
            return rows
        if step not in self._drawn:
            self._drawn = self._sampled(self._together(step))
        own = self._drawn[step]
        return [_with_own_answer(row, own[place]) if place in own else row for place, row in enumerate(rows)]

    def waiting(self, step: int) -> dict[str, Drawn]:
        """Answers that were sampled for steps that are not learned yet, for a checkpoint before `step`."""
        return {str(number): own for number, own in self._drawn.items() if number >= step}

    def restore(self, waiting: Mapping[str, Mapping[str, list[int]]]) -> None:
        """Takes what `waiting` gave, as JSON has kept it."""
        self._drawn = {int(step): {int(place): ids for place, ids in own.items()} for step, own in waiting.items()}

    def told(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What a step's event says of its own answers; nothing where it has none."""
        own = [row for row in rows if row.own]
        if not own:
            return {}
        cut = sum(int(row.answer[-1]) not in self.writer.stops for row in own)
        tokens = sum(len(row.answer) for row in own)
        return {"own_samples": len(own), "own_tokens": round(tokens / len(own), 1), "own_truncated": round(cut / len(own), 4)}

    def _together(self, step: int) -> range:
        """The steps that are sampled at once with this one."""
        at_once = self.settings.steps_at_once
        begun = self.begins + (step - self.begins) // at_once * at_once
        return range(step, min(begun + at_once, self.num_steps))

    def _sampled(self, steps: range) -> dict[int, Drawn]:
        chosen, asks = [], []
        for step in steps:
            rows = self.given.rows_of(step)
            chances = uniforms(f"which {self.seed} {step}", len(rows))
            for place in np.flatnonzero(chances < self.settings.share).tolist():
                chosen.append((step, place))
                asks.append(self._ask(rows[place], step))
        rank, num_processes = self.accelerator.process_index, self.accelerator.num_processes
        numbers = range(rank, len(asks), num_processes)
        written = self.writer.write([asks[number] for number in numbers])
        found = list(zip(numbers, written, strict=True))
        answers = dict(gather_object(found) if num_processes > 1 else found)
        drawn: dict[int, Drawn] = {step: {} for step in steps}
        for number, (step, place) in enumerate(chosen):
            drawn[step][place] = answers[number]
        return drawn

    def _ask(self, row: Row, step: int) -> Ask:
        room = self.max_length + 1 - len(row.prompt)  # the answer's last token is not fed to the model
        limit = min(self.settings.max_answer_tokens or room, room)
        return Ask(row.prompt.tolist(), limit, f"answer {self.seed} {step} {row.digest()}")


def on_policy(
    given: Feed, settings: TrainSettings, num_steps: int, learner: Learner, student: StudentSettings, accelerator: Accelerator
) -> OnPolicy:
    """The feed of a job with `train.on_policy`."""
    assert settings.on_policy is not None
    sampling = Sampling(temperature=settings.on_policy.temperature, top_p=settings.on_policy.top_p)
    writer = Writer(learner.model, learner.tokenizer, sampling, bf16=learner.bf16)
    context = getattr(learner.model.config.get_text_config(), "max_position_embeddings", None)
    longest = longest_row(student.max_length, context)
    return OnPolicy(given, settings.on_policy, settings.seed, num_steps, writer, longest, accelerator)


def _with_own_answer(row: Row, ids: Sequence[int]) -> Row:
    return row._replace(answer=np.array(ids, dtype=np.int32), own=True)
