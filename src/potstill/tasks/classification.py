"""classification: one label for a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, field_validator

from ..contracts import Task, Taught
from ..text.rationale import Thought, asked, lessons, student_room, teacher_room, why_unusable
from ..text.reading import label_key, read_label, unwrapped
from ..types import Example, Message


class Classification(Task):
    """One label for a text; right when the label is the gold's, apart from case, spaces, hyphens and underscores."""

    metrics: ClassVar[tuple[str, ...]] = ("macro_f1",)
    max_answer_tokens: int = Field(default=24, ge=1, description="longest answer asked for, in tokens")
    chain_of_thought: Thought = None
    labels: tuple[str, ...] | None = Field(default=None, description="the labels allowed; default: any answer of one line")

    @field_validator("labels")
    @classmethod
    def _differ(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        by_key: dict[str, str] = {}
        for label in value or ():
            key = label_key(label)
            if not key:
                raise ValueError(f"the label {label!r} has no letters")
            if key in by_key:
                raise ValueError(f"the labels {by_key[key]!r} and {label!r} differ only in case, spaces or hyphens")
            by_key[key] = label
        return value

    def read(self, text: str) -> str | None:
        """The label that a text gives: as the job spells it, or in lower case with underscores.

        >>> Classification().read("Card arrival."), Classification(labels=("yes", "no")).read('```json\\n{"label": "YES"}```')
        ('card_arrival', 'yes')
        """
        if self.labels is not None:
            return read_label(text, {label: label for label in self.labels})
        lines = [line for line in unwrapped(text).splitlines() if line.strip()]
        if len(lines) != 1:
            return None
        return "_".join(lines[0].casefold().replace("_", " ").replace("-", " ").strip(" .,;:!?\"'`*").split()) or None

    def right(self, text: str, example: Example) -> float | None:
        gold = example.gold if example.gold is not None else example.meta.get("label")
        if not isinstance(gold, str):
            return None
        found = self.read(text)
        return float(found is not None and label_key(found) == label_key(self.read(gold) or unwrapped(gold)))

    def teacher_prompt(self, example: Example) -> tuple[Message, ...]:
        return asked(self.prompt(example), self.chain_of_thought)

    @property
    def max_teacher_tokens(self) -> int:
        return self.max_answer_tokens + teacher_room(self.chain_of_thought)

    @property
    def max_student_tokens(self) -> int:
        return self.max_answer_tokens + student_room(self.chain_of_thought)

    def taught(self, example: Example, text: str) -> Sequence[Taught]:
        del example
        return lessons(self.chain_of_thought, text, self._spelled(text))

    def unusable(self, text: str) -> str | None:
        return why_unusable(self.chain_of_thought, text)

    def labels_asked(self) -> tuple[str, ...]:
        return self.labels or ()

    def _spelled(self, text: str) -> str | None:
        """The label as the student should write it: as the job spells it, or where the job names none as the teacher does."""
        found = self.read(text)
        return found if found is None or self.labels is not None else unwrapped(text)
