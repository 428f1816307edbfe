"""What a model is taught and quizzed on: lessons as token ids, and the task's score on validation rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import Encoded, Sample, encode
from .contracts import Task
from .errors import JobFailedError, ModelError
from .generation import generate
from .rendering import prompt_ids
from .runfolder import fingerprint, read_rows
from .statistics import mean_score
from .types import REASONED_ANSWER, Example, Lesson, Sampling, Score

LONGEST_BY_DEFAULT = 2048


@dataclass(frozen=True)
class Quiz:
    """The task's accuracy on a few validation rows, answered greedily by the model in training."""

    task: Task
    examples: tuple[Example, ...]

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Score | None:
        if not self.examples:
            return None
        asked: list[int] = []
        prompts: list[list[int]] = []
        for number, example in enumerate(self.examples):
            with contextlib.suppress(ModelError):  # a row that the chat template refuses stays wrong
                prompts.append(prompt_ids(tokenizer, self.task.prompt(example)))
                asked.append(number)
        right: list[float | None] = [0.0] * len(self.examples)
        for answer in generate(model, tokenizer, prompts, Sampling(max_tokens=self.task.max_student_tokens)):
            right[asked[answer.index]] = self.task.right(answer.text, self.examples[asked[answer.index]])
        score = mean_score(right)
        return score if score.n else None


def make_quiz(task: Task, examples: Iterable[Example], num_rows: int) -> Quiz | None:
    """A quiz of the first rows that have gold; None where none has."""
    found = with_gold(examples, num_rows)
    return Quiz(task, found) if found else None


def with_gold(examples: Iterable[Example], num_rows: int) -> tuple[Example, ...]:
    return tuple(example for example in examples if example.gold is not None)[:num_rows]


def read_lessons(path: Path) -> Iterator[Lesson]:
    return (Lesson.from_dict(row) for row in read_rows(path))


def read_examples(path: Path) -> Iterator[Example]:
    return (Example.from_dict(row) for row in read_rows(path))


def gold_lessons(examples: Iterable[Example]) -> Iterator[Lesson]:
    return (Lesson(example, example.gold, "gold") for example in examples if example.gold is not None)


def encode_lessons(lessons: Iterable[Lesson], task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Lessons as rows for training; raises JobFailedError when none fits the model."""
    learned = (one for one in lessons if one.weight > 0)  # a lesson that counts for nothing would only take time
    encoded = encode((sample_of(one, task) for one in learned), tokenizer, max_length)
    if not encoded.rows and encoded.num_refused:
        raise JobFailedError(f"{encoded.why_refused} ({encoded.num_refused:,} rows, and no other fits); use another student")
    if not encoded.rows and encoded.num_too_long:
        raise JobFailedError(
            f"all {encoded.num_too_long:,} examples are longer than {max_length} tokens; raise student.max_length, "
            f"or choose a student with a longer context"
        )
    return encoded


def sample_of(lesson: Lesson, task: Task) -> Sample:
    """A teacher's log-probabilities of reasoning mean something only where it is asked to reason, as it was when it wrote it.

    Its name is that of its content: what is asked, the text, and the log-probabilities that came with it.
    """
    asked = task.teacher_prompt(lesson.example) if lesson.aim == REASONED_ANSWER else None
    prompt = task.prompt(lesson.example, lesson.aim)
    said = [[(one.role, one.content) for one in messages] for messages in (prompt, asked or ())]
    return Sample(prompt, lesson.target, lesson.weight, asked, fingerprint(said, lesson.target, lesson.told))


def longest_row(max_length: int | None, context: int | None) -> int:
    """How many tokens a row may have: what the job says, else the model's context up to 2,048."""
    return max_length or min(context or LONGEST_BY_DEFAULT, LONGEST_BY_DEFAULT)
