"""nli: does a premise entail a hypothesis?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ..contracts import Task, Taught
from ..text.rationale import Thought, asked, lessons, student_room, teacher_room, why_unusable
from ..text.reading import label_key, read_label, unwrapped
from ..types import Example, Message

_SPELLINGS = {
    "entailment": ("entailment", "entails", "entailed", "entail"),
    "contradiction": ("contradiction", "contradicts", "contradicted", "contradictory", "contradict"),
    "neutral": ("neutral", "neutrality"),
}


class Nli(Task):
    """Natural language inference: one of three labels; right when the label is the gold's."""

    metrics: ClassVar[tuple[str, ...]] = ("macro_f1",)
    max_answer_tokens: int = Field(default=8, ge=1, description="longest answer asked for, in tokens")
    chain_of_thought: Thought = None
    labels: tuple[str, ...] = Field(default=("entailment", "neutral", "contradiction"), min_length=2)

    def read(self, text: str) -> str | None:
        """The label that a text gives, tolerant of case, fences, JSON and a sentence around it.

        >>> Nli().read('{"label": "Contradiction"}'), Nli().read("It is neutral, not entailment."), Nli().read("Maybe")
        ('contradiction', 'neutral', None)
        """
        spellings = {spelling: label for label in self.labels for spelling in _SPELLINGS.get(label, (label,))}
        return read_label(text, spellings)

    def right(self, text: str, example: Example) -> float | None:
        gold = example.gold if example.gold is not None else example.meta.get("label")
        if not isinstance(gold, str):
            return None
        found = self.read(text)
        wanted = self.read(gold) or unwrapped(gold)
        return float(found is not None and label_key(found) == label_key(wanted))

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
        return lessons(self.chain_of_thought, text, self.read(text))

    def unusable(self, text: str) -> str | None:
        return why_unusable(self.chain_of_thought, text)

    def labels_asked(self) -> tuple[str, ...]:
        return self.labels
