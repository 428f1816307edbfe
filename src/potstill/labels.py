"""Labels as a student with a classification head learns them: rows, what teachers give to each label, and the quiz.

A row is what the classifier reads and the number of its label, as a `Row` with an answer of one "token": so batches, weights,
steps, checkpoints and losses are those of every other student. Shapes: N rows of a batch, L labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import Batch, Encoded, Row
from .classifier import classify
from .contracts import Task
from .errors import JobFailedError, ModelError
from .kernels.cells import Cells
from .rendering import read_ids
from .runfolder import fingerprint
from .statistics import mean_score
from .types import REASONED_ANSWER, Example, Lesson, Message, Score

LabelLogp = npt.NDArray[np.float32]
"""One log-probability for each label [L], in the order of the task."""
SMOOTHING = 0.01
"""Share of the probability that is spread evenly over all labels where a teacher's is counted or rounded: votes, served
probabilities, a label alone. So no label is impossible, every divergence is finite, and a temperature has something to soften;
servers round their probabilities by as much."""
TAUGHT = ("answer", REASONED_ANSWER)


def read_of(task: Task, example: Example) -> tuple[Message, ...]:
    """What a classifier reads of a row: its messages, its own system message with them, without `task.system_prompt`.

    That prompt tells a model that writes which answers there are, the same for every row; a head of labels knows them.
    """
    return task.model_copy(update={"system_prompt": None}).prompt(example)


def asked_key(task: Task, example: Example) -> str:
    """Names what a teacher is asked about a row, by content: its scores are found again by every later job."""
    return fingerprint([message.as_dict() for message in task.prompt(example)])


def gold_labels(lessons: Iterable[Lesson], task: Task) -> dict[str, int]:
    """The number of the gold label of what was asked, where there is one."""
    number_of = {label: number for number, label in enumerate(task.labels_asked())}
    told = ((asked_key(task, one.example), task.read(one.target)) for one in lessons if one.target_source == "gold")
    return {key: number_of[label] for key, label in told if label in number_of}


@dataclass(frozen=True)
class SoftLabels:
    """What teachers give to each label of a lesson, at the distillation temperature: log softmax(log p / T).

    `scored` holds the scores of teachers on this machine, softened, by `asked_key`; a lesson that is not among them has its own
    `label_probabilities` (a decisions teacher's, or votes), and one that has none is sure of its label.
    """

    task: Task
    temperature: float
    scored: Mapping[str, LabelLogp]

    def of(self, lesson: Lesson, number: int) -> LabelLogp:
        scored = self.scored.get(asked_key(self.task, lesson.example))
        if scored is not None:
            return scored
        labels = self.task.labels_asked()
        given = lesson.label_probabilities or {labels[number]: 1.0}
        shares = np.array([given.get(label, 0.0) for label in labels], dtype=np.float64)
        smooth = (1 - SMOOTHING) * shares / shares.sum() + SMOOTHING / len(labels)
        return softened(np.log(smooth), self.temperature)


def softened(logp: npt.NDArray[np.floating], temperature: float) -> LabelLogp:
    """log softmax(log p / T) [L].

    >>> [round(float(p), 4) for p in np.exp(softened(np.log([0.8, 0.2]), 2.0))]
    [0.6667, 0.3333]
    """
    scaled = logp.astype(np.float64) / temperature
    found: LabelLogp = (scaled - np.logaddexp.reduce(scaled)).astype(np.float32)
    return found


class LabelRows(NamedTuple):
    """Rows for training, and what teachers give to the labels of each, by its digest; nothing where no loss asks."""

    encoded: Encoded
    told: Mapping[str, LabelLogp]


def encode_labels(
    lessons: Iterable[Lesson], task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int, soft: SoftLabels | None = None
) -> LabelRows:
    """Lessons as rows of a classifier. One that is longer than `max_length` is left out and counted, never cut; so is one whose
    text gives no label of the task. Raises JobFailedError when there are lessons and none is left."""
    number_of = {label: number for number, label in enumerate(task.labels_asked())}
    rows: list[Row] = []
    told: dict[str, LabelLogp] = {}
    num_too_long = num_refused = 0
    why_refused = ""
    for lesson in lessons:
        if lesson.weight == 0 or lesson.aim not in TAUGHT:
            continue
        try:
            number = number_of[_label(lesson, task)]
            ids = read_ids(tokenizer, read_of(task, lesson.example))
        except ModelError as error:
            num_refused, why_refused = num_refused + 1, why_refused or str(error)
            continue
        row = Row(np.array(ids, dtype=np.int32), np.array([number], dtype=np.int32), lesson.weight)
        if row.length > max_length:
            num_too_long += 1
            continue
        rows.append(row)
        if soft is not None:
            told[row.digest()] = soft.of(lesson, number)
    encoded = Encoded(rows, num_too_long, num_refused, why_refused)
    _refuse_nothing_left(encoded, max_length)
    return LabelRows(encoded, told)


@dataclass(frozen=True)
class LabelSignals:
    """What teachers give to the labels of a batch's rows, each found by the row's content."""

    told: Mapping[str, LabelLogp]
    takes_packed = False

    def digest(self) -> str:
        """Names all of it by content: a training that was told other things is another one."""
        return fingerprint([[row, logp.tolist()] for row, logp in sorted(self.told.items())])

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells:
        logp_NL = torch.from_numpy(np.stack([self.told[rows[number].digest()] for number in batch.numbers]))
        return Cells(torch.arange(logp_NL.shape[1]).expand_as(logp_NL).contiguous(), logp_NL)


@dataclass(frozen=True)
class LabelQuiz:
    """The task's accuracy of a classifier in training on a few validation rows."""

    task: Task
    examples: tuple[Example, ...]
    max_length: int

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Score | None:
        asked: list[int] = []
        texts: list[list[int]] = []
        for number, example in enumerate(self.examples):
            with contextlib.suppress(ModelError):  # a row that cannot be read, or is too long, stays wrong
                ids = read_ids(tokenizer, read_of(self.task, example))
                if len(ids) <= self.max_length:
                    texts.append(ids)
                    asked.append(number)
        labels = self.task.labels_asked()
        right: list[float | None] = [0.0] * len(self.examples)
        for one in classify(model, texts):
            right[asked[one.number]] = self.task.right(labels[one.best], self.examples[asked[one.number]])
        score = mean_score(right)
        return score if score.n else None


def _label(lesson: Lesson, task: Task) -> str:
    label = task.read(lesson.target)
    if label not in task.labels_asked():
        known = ", ".join(task.labels_asked()[:5])
        whose = "a gold answer" if lesson.target_source == "gold" else "an answer"
        raise ModelError(f"{whose} gives none of the task's labels: {lesson.target[:60]!r}; they are {known}, ... (task.labels)")
    return str(label)


def _refuse_nothing_left(encoded: Encoded, max_length: int) -> None:
    if encoded.rows:
        return
    if encoded.num_refused:
        raise JobFailedError(
            f"{encoded.why_refused} ({encoded.num_refused:,} rows, and no other is left); mend the data or the task"
        )
    if encoded.num_too_long:
        raise JobFailedError(
            f"all {encoded.num_too_long:,} examples are longer than {max_length} tokens; raise student.max_length, "
            f"or choose a student with a longer context"
        )
