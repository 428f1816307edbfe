"""qa: a short answer to a question about a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ..contracts import Task, Taught
from ..text.overlap import accepted_answers
from ..text.rationale import Thought, asked, lessons, student_room, teacher_room, why_unusable
from ..text.reading import reasoned, unwrapped
from ..text.texts import squad_form
from ..types import Example, Message

_ABBREVIATION = re.compile(r"\.\w\.\Z")


class Qa(Task):
    """Question answering: right when the answer equals one of meta.answers, or the gold, in the form SQuAD compares."""

    metrics: ClassVar[tuple[str, ...]] = ("token_f1",)
    max_answer_tokens: int = Field(default=48, ge=1, description="longest answer asked for, in tokens")
    chain_of_thought: Thought = None

    def read(self, text: str) -> str | None:
        """The answer in SQuAD's form: lower case, no punctuation, no articles.

        >>> Qa().read("The answer is: the Eiffel Tower.")
        'eiffel tower'
        """
        return squad_form(unwrapped(text)) or None

    def right(self, text: str, example: Example) -> float | None:
        answers = accepted_answers(example)
        if not answers:
            return None
        return float(self.read(text) in {squad_form(answer) for answer in answers})

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
        return lessons(self.chain_of_thought, text, _span(text))

    def unusable(self, text: str) -> str | None:
        return why_unusable(self.chain_of_thought, text)


def _span(text: str) -> str | None:
    """The answer as the teacher copied it, without quotes and the sentence's full stop; an abbreviation keeps its own.

    >>> _span('It opened in May.\\nAnswer: "May 1889".'), _span("Answer: the U.S.")
    ('May 1889', 'the U.S.')
    """
    whole = unwrapped(text).strip("\"'“”‘’")
    written = (reasoned(text).answer or "").strip(" *_")
    return written if _ABBREVIATION.search(written) and written == f"{whole}." else whole or None
